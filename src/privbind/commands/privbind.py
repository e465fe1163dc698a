# SPDX-License-Identifier: MIT
"""The privbind command: from argv to a launch; what it tells the user, and its errors."""

from __future__ import annotations

import posix

from .. import launch
from ..errors import NoMechanismError, NotGrantedError, PrivbindError, strerror
from ..grant.policy import PolicyError
from ..request import AUTO
from ..request.options import OWN, NoUserError, parse
from ..request.resolve import foreign_home, own_command, resolve
from . import output
from .output import FAILED, NO_MEMORY, let_interrupt_end, missing_module, print_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..request import Command, Request
    from ..request.options import Options

_PROGRAM = "privbind"
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


def main(arguments: list[str], environment: list[bytes], ignored_signals: int = 0) -> int:  # noqa: PLR0911  # ends
    """Do what the arguments (without the program's name) ask for.

    Returns an exit status, unless it became the command.
    """
    options: Options | None = None
    try:
        options = parse(arguments)
        if options.help or options.version:
            from .usage import HELP, VERSION_LINE

            return print_out(HELP if options.help else VERSION_LINE, _PROGRAM)
        _warn_setuid()
        if options.user is None:
            return _as_it_is(options, environment, ignored_signals)
        return _launch(options, resolve(options, environment), ignored_signals)
    except PrivbindError as error:
        _explain(error, arguments, options, environment)
        return error.status
    except PolicyError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot prepare the launch: {strerror(error)}")
    except MemoryError:
        return _fail(f"cannot prepare the launch: {NO_MEMORY}")
    except ImportError as error:
        return _fail(missing_module(error))
    except Exception as error:  # noqa: BLE001  # a fault of ours is one line as well, and nothing half-done
        return _fail(f"a fault of privbind's own: {type(error).__name__}: {error}")


def _explain(error: PrivbindError, arguments: list[str], options: Options | None, environment: list[bytes]) -> None:
    """Report what failed, and a guess of what was meant, where there is one."""
    try:
        from .meant import Line, remedy

        given = Line(arguments, options.command if options else [], environment)
        error.remedy = remedy(error, given) or error.remedy
    except (ImportError, MemoryError, OSError):
        pass  # what failed can still be told
    for line in error.lines:
        say(line)
    if isinstance(error, NoMechanismError) and options and options.verbose:
        for line in error.story:
            say(line)


def _launch(options: Options, request: Request, ignored_signals: int) -> int:
    """Become the command; return only from a dry run. Raises PrivbindError."""
    choice = launch.plan(request) if options.dry_run else launch.prepare(request)
    warnings = launch.warnings(request, choice)
    if not options.quiet:
        warnings += _warnings(options, request)
        for line in warnings:
            _warn(line)
    if options.json:
        from .plan import of_launch

        return print_out(of_launch(request, choice, warnings), _PROGRAM)
    if options.verbose or options.dry_run:
        _tell_plan(request, choice)
    if not options.dry_run:
        launch.start(request, choice, ignored_signals, say if options.verbose else _ignore)
    elif options.very_verbose and choice.mechanism:
        for line in choice.mechanism.describe(request.grant, request.site, request.command):
            say(line)
    return 0


def _warnings(options: Options, request: Request) -> list[str]:
    """What the user probably does not want: somebody else's home, and privbind's options given to the command."""
    found = []
    home = foreign_home(request)
    if home and not options.set_home:
        account = request.command.account
        # Without a passwd entry there is nothing for --set-home to take.
        remedy = "--set-home: HOME, USER, LOGNAME, SHELL of the user" if account.name else "-- env HOME=DIR COMMAND"
        found.append(f"HOME is '{home}', where {account.who} may not write ({remedy})")
    taken = [] if options.separated else [word for word in options.command[1:] if word.partition("=")[0] in OWN]
    if taken:
        found.append(
            f"{taken[0]} comes after the command, so the command gets it (privbind's options go before the command;"
            " if this is meant, write -- before the command)"
        )
    return found


def _as_it_is(options: Options, environment: list[bytes], ignored_signals: int) -> int:
    """Become the command without any change, when this user may already bind what is asked for."""
    from ..inspect.may_bind import refused
    from ..linux.sockets import port_start

    if posix.geteuid() == 0:
        raise NoUserError(options.command)
    policy, command = own_command(options, environment)
    lacking = refused(policy, port_start())
    if lacking:
        raise _not_granted(command, lacking)
    if options.json:
        from .plan import of_own

        return print_out(of_own(command, policy), _PROGRAM)
    if options.verbose or options.dry_run:
        say(f"{command.account} may bind {policy} already: the command is started as it is")
    if not options.dry_run:
        launch.execute(command, environment, ignored_signals)
    return 0


def _not_granted(command: Command, lacking: list[str]) -> NotGrantedError:
    """What this user may not bind, and the ways to get it."""
    from json import dumps
    from shlex import quote

    user = quote(command.account.name or str(command.account.uid))
    argv = " ".join(quote(word.decode("utf-8", "surrogateescape")) for word in command.argv)
    rules = quote(",".join(lacking))
    toml = f"grant = [{{user = {dumps(command.account.name or command.account.uid)}, allow = {dumps(lacking)}}}]"
    return NotGrantedError(
        f"{user} may not bind {rules}",
        f"for good: sudo privbindctl allow {user} {rules}; once: sudo privbind -u {user} --allow {rules} -- {argv}; "
        f"why: privbindctl explain {rules}",
        toml,
    )


def _warn_setuid() -> None:
    if posix.getuid() != posix.geteuid() or posix.getgid() != posix.getegid():
        say("WARNING: privbind is installed setuid or setgid: every user can run commands as any user with it")


def _tell_plan(request: Request, choice: launch.Choice) -> None:
    say(f"account: {request.command.account}")
    say(f"grant: {request.grant}")
    for refusal in choice.passed_over:
        say(f"passed over: {refusal}")
    if choice.mechanism is None:
        say(f"mechanism: none (nothing asked for is reserved: reserved ports end below {request.site.port_start})")
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


def say(text: str) -> None:
    """Write one line to standard error."""
    output.say(text, _PROGRAM)


def _warn(text: str) -> None:
    say(f"warning: {text}")


def _ignore(text: str) -> None:
    pass


def _fail(text: str) -> int:
    say(text)
    return FAILED
