# SPDX-License-Identifier: MIT
"""The privbind command: from argv to a Request, and its story and errors to the user.

The only module that prints or exits.
"""

from __future__ import annotations

import posix
import sys
from _signal import SIG_DFL, SIG_IGN, SIGINT, getsignal, signal  # type: ignore[import-not-found]  # signal would import enum

from . import command, launch
from .account import look_up, missing_capabilities
from .errors import PrivbindError, UsageError, strerror
from .linux import sockets
from .linux.capabilities import CAP_SETGID, CAP_SETUID
from .options import Options, parse
from .policy import Grant, PolicyError
from .request import AUTO, Request

_PROGRAM = "privbind"
_STDOUT = 1
_STDERR = 2
FAILED = 125
_READ_SIZE = 1 << 16


def start(ignored_signals: str, environment: str, arguments: list[str]) -> None:
    """Run privbind and end this process; the launcher's entry point.

    ``ignored_signals`` is a hexadecimal mask; ``environment`` the number of a descriptor that holds the caller's
    environment, or "-" to read it from /proc (docs/architecture.md).
    """
    let_interrupt_end()
    try:
        entries = _read_environment(environment)
        status = main(arguments, entries, int(ignored_signals, 16))
    except (OSError, ValueError) as error:
        status = _fail(f"cannot start: {error}")
    posix._exit(status)


def main(arguments: list[str], environment: list[bytes], ignored_signals: int = 0) -> int:
    """Do what the arguments (without the program's name) ask for.

    Returns an exit status, unless it became the command.
    """
    try:
        options = parse(arguments)
        if options.help or options.version:
            from .usage import HELP, VERSION_LINE

            return print_out(HELP if options.help else VERSION_LINE)
        _warn_setuid()
        _launch(options, _request(options, environment), ignored_signals)
    except PrivbindError as error:
        for line in error.lines:
            say(line)
        return error.status
    except PolicyError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"unexpected: {strerror(error)}")
    except Exception as error:  # noqa: BLE001  # a fault of ours is one line as well, and nothing half-done
        return _fail(f"a fault of privbind's own: {type(error).__name__}: {error}")
    return 0


def _launch(options: Options, request: Request, ignored_signals: int) -> None:
    """Become the command; return only from a dry run. Raises PrivbindError."""
    choice = launch.choose(request)
    for line in launch.warnings(request, choice):
        _warn(line)
    if options.verbose or options.dry_run:
        _tell_plan(request, choice)
    if not options.dry_run:
        launch.launch(request, choice, ignored_signals, say if options.verbose else _ignore, _warn)
    elif options.verbose and choice.mechanism:
        for line in choice.mechanism.describe(request):
            say(line)


def _request(options: Options, environment: list[bytes]) -> Request:
    """Look up and check what the options name. Raises PrivbindError or PolicyError."""
    grant = Grant(options.policy(_service), options.limit(), options.reuse_ports(_service))
    account = look_up(options.user, options.group, not options.no_groups)
    argv = [_bytes(word) for word in options.command]
    missing = missing_capabilities((CAP_SETUID, CAP_SETGID))
    if missing:
        raise UsageError(
            f"cannot become {account}: {' and '.join(missing)} missing (run as root, or add what is missing)"
        )
    if options.set_home:
        environment = _with_home(environment, account.name, account.home, account.shell)
    path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), None)
    return Request(
        account=account,
        grant=grant,
        argv=argv,
        program=command.find(argv[0], path, account),
        environment=environment,
        port_start=sockets.port_start(),
        via=options.via,
        library=None if options.library is None else _bytes(options.library),
        no_new_privileges=options.no_new_privileges,
    )


def _with_home(environment: list[bytes], name: str, home: str, shell: str) -> list[bytes]:
    if not name:
        raise UsageError("--set-home: the user has no passwd entry to take a home from")
    values = {b"HOME": home, b"USER": name, b"LOGNAME": name, b"SHELL": shell or "/bin/sh"}
    kept = [entry for entry in environment if entry.partition(b"=")[0] not in values]
    return kept + [key + b"=" + _bytes(value) for key, value in values.items()]


def _service(name: str, protocol: str) -> int:
    """The port of a service (getservbyname(3)). Raises OSError where there is none."""
    from _socket import getservbyname

    return getservbyname(name, protocol)


def _warn_setuid() -> None:
    if posix.getuid() != posix.geteuid() or posix.getgid() != posix.getegid():
        say("WARNING: privbind is installed setuid or setgid: every user can run commands as any user with it")


def _tell_plan(request: Request, choice: launch.Choice) -> None:
    say(f"account: {request.account}")
    say(f"grant: {request.grant}")
    for refusal in choice.passed_over:
        say(f"passed over: {refusal}")
    if choice.mechanism is None:
        say(f"mechanism: none (nothing asked for is reserved: reserved ports end below {request.port_start})")
    else:
        wanted = "the first that fits" if request.via == AUTO else "asked for"
        say(f"mechanism: {choice.name} ({wanted})")


def _read_environment(source: str) -> list[bytes]:
    """The caller's environment, entry by entry, to the byte. Raises OSError."""
    fd = posix.open("/proc/self/environ", posix.O_RDONLY | posix.O_CLOEXEC) if source == "-" else int(source)
    blocks = []
    while block := posix.read(fd, _READ_SIZE):
        blocks.append(block)
    posix.close(fd)
    return b"".join(blocks).split(b"\0")[:-1]


def _bytes(text: str) -> bytes:
    """What the caller wrote: arguments are decoded as UTF-8 with stray bytes escaped (the launcher says -X utf8)."""
    return text.encode("utf-8", "surrogateescape")


def say(text: str, program: str = _PROGRAM) -> None:
    """Write one line to standard error, whatever was in a name: control characters are shown as escapes."""
    # None: the descriptor was closed when Python started, and what has its number now is not ours to write to.
    if sys.stderr is not None:
        shown = "".join(
            char if char.isprintable() or "\udc80" <= char <= "\udcff" else f"\\x{ord(char):02x}" for char in text
        )
        try:
            posix.write(_STDERR, f"{program}: {shown}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            pass


def print_out(text: str, program: str = _PROGRAM) -> int:
    """Write a text to standard output; the exit status: 125 when it could not be written."""
    data = text.encode()
    try:
        while data:
            data = data[posix.write(_STDOUT, data) :]
    except OSError as error:
        say(f"cannot write to standard output: {strerror(error)}", program)
        return FAILED
    return 0


def let_interrupt_end() -> None:
    """Have SIGINT end this process as it does any other, without Python's traceback; ignored it stays ignored."""
    if getsignal(SIGINT) not in (SIG_DFL, SIG_IGN):
        signal(SIGINT, SIG_DFL)


def _warn(text: str) -> None:
    say(f"warning: {text}")


def _ignore(text: str) -> None:
    pass


def _fail(text: str) -> int:
    say(text)
    return FAILED
