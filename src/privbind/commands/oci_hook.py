# SPDX-License-Identifier: MIT
"""privbind-oci-hook: an OCI createRuntime hook, which puts a grant on a new container's cgroup.

It runs as root for every container that the runtime makes. Whatever goes wrong, the container starts: the exit status
is 0, and the reason goes to the system's log. Nothing is imported before it is needed: most containers have no grant.
"""

from __future__ import annotations

import posix
import sys

from ..errors import PrivbindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..grant.policy import Policy

_PROGRAM = "privbind-oci-hook"
_MAX_STATE = 1 << 20  # bytes
_MAX_WAIT_MS = 5000  # for all of the state
_MAX_PID = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_MAX_LINE = 2000  # bytes of a log line
_LOG = "/dev/log"
_WARNING, _INFO = 28, 30  # LOG_DAEMON with LOG_WARNING, LOG_INFO (syslog(3))
_OPTIONS = ("--runtime", "--allow", "--wrap")
_BOOLEANS_AND_NULL = {"-Infinity": 0.0, "Infinity": 0.0, "NaN": 0.0}

HELP = """\
Usage: privbind-oci-hook [--runtime (containerd | cri-o)] [--allow RULE]...
       privbind-oci-hook --wrap HOOK [--allow RULE]... -- ARGUMENT...
An OCI createRuntime hook: puts a grant on the cgroup of a new container, whose state is on standard input.

  --runtime NAME         the runtime that the hook is installed for: its own annotations count
  --allow RULE           what each container that this hook runs for may bind; repeatable, and comma-separated
  --wrap HOOK            put HOOK with the same rules into the bundle that a runtime's arguments name, and end
  --help                 print this and end

Grants for containers are in /etc/privbind/grants.d (privbind-grants(5)). The exit status is always 0.
"""


class _Options:
    """The hook's own arguments."""

    def __init__(self) -> None:
        self.runtime: str | None = None
        self.allow: list[str] = []
        self.hook: str | None = None
        self.rest: list[str] = []


def start(ignored_signals: str, environment: str, arguments: list[str]) -> None:
    """Run the hook and end this process; the launcher's entry point. Nothing of the environment counts."""
    del ignored_signals, environment
    posix._exit(main(arguments))


def main(arguments: list[str]) -> int:
    """Do what there is to be done for one container; the exit status, which is 0."""
    if "--help" in arguments:
        posix.write(1, HELP.encode())
        return 0
    about = ""
    try:
        options = _parse(arguments)
        if options.hook is not None:
            from ..placed.bundle import add_hook

            add_hook(options.rest, options.hook, options.allow)
            return 0
        state = _state(_read(0))
        about = f"container {_short(state.get('id'))}: "
        for priority, line in _run(options, state):
            log(about + line, priority)
    except PrivbindError as error:
        log(f"{about}no grant: {error}")
    except Exception as error:  # noqa: BLE001  # a container must start, whatever it is
        log(f"{about}no grant: unexpected: {type(error).__name__}: {error}")
    return 0


def _parse(arguments: list[str]) -> _Options:
    options = _Options()
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            options.rest = list(rest)
            break
        name, equals, given = word.partition("=")
        found = given if equals else next(rest, None)
        if name not in _OPTIONS or found is None:
            raise PrivbindError(f"the hook is installed with a wrong argument: '{word}' (try {_PROGRAM} --help)")
        if name == "--runtime":
            options.runtime = _runtime(found)
        elif name == "--wrap":
            options.hook = found
        else:
            options.allow.append(found)
    return options


def _runtime(name: str) -> str:
    """A runtime whose annotations count. Raises PrivbindError for another: no entry could ever fit there."""
    from ..standing.annotations import TRUSTED

    if name not in TRUSTED:
        raise PrivbindError(f"the hook is installed with --runtime '{name}'", f"one of {', '.join(TRUSTED)}")
    return name


def _read(fd: int) -> bytes:
    """All of standard input; an error if it is longer than a state can be, or takes too long."""
    from select import POLLIN, poll
    from time import monotonic

    end = monotonic() + _MAX_WAIT_MS / 1000
    waiting = poll()
    waiting.register(fd, POLLIN)
    data = bytearray()
    while True:
        left_ms = int((end - monotonic()) * 1000)
        if left_ms <= 0 or not waiting.poll(left_ms):
            raise PrivbindError(f"the container's state did not come within {_MAX_WAIT_MS // 1000} s")
        block = posix.read(fd, 1 << 16)
        if not block:
            return bytes(data)
        data += block
        if len(data) > _MAX_STATE:
            raise PrivbindError(f"the container's state has more than {_MAX_STATE} bytes")


class _Context:
    """What json's scanner in C asks its decoder for. Importing json would cost more than all the rest."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = _BOOLEANS_AND_NULL.__getitem__
    memo: dict[str, str] = {}  # noqa: RUF012


def _state(data: bytes) -> dict[str, Any]:
    """The state as values. Raises PrivbindError."""
    from _json import make_scanner

    try:
        text = data.decode()
        blank = len(text) - len(text.lstrip(" \t\r\n"))
        found, end = make_scanner(_Context)(text, blank)  # type: ignore[arg-type]
        if text[end:].strip(" \t\r\n"):
            raise ValueError("more than one value")
    except (StopIteration, SystemError):  # the second: the scanner's own error is in the module that is not imported
        raise PrivbindError("the container's state is not JSON") from None
    except (ValueError, RecursionError) as error:
        raise PrivbindError(f"the container's state is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise PrivbindError("the container's state is no JSON object")
    return found


def _run(options: _Options, state: dict[str, Any]) -> list[tuple[int, str]]:
    """Grant what is to be granted; what to log. Raises PrivbindError."""
    from ..standing.annotations import ALLOW

    annotations = state.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise PrivbindError("the annotations in the container's state are no JSON object")
    pid = state.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= _MAX_PID:
        raise PrivbindError(f"the container's state names no process: pid is {_short(pid)}")
    try:
        pidfd = posix.pidfd_open(pid)
    except OSError as error:
        raise PrivbindError(f"process {pid}: {posix.strerror(error.errno or 0)}") from error
    try:
        if not options.allow and ALLOW not in annotations and not _may_match(annotations, options.runtime):
            _clean(pid)
            return []
        return _grant(options, annotations, pid, pidfd)
    finally:
        posix.close(pidfd)


def _may_match(annotations: dict[str, Any], runtime: str | None) -> bool:
    """Whether some file may have an entry for this container: a quick look, after which most need no thorough one.

    The text of an entry has the value that it asks for literally, unless there are escapes. Nothing is granted by this.
    """
    from ..standing.annotations import trusted
    from ..standing.folder import FOLDER, counts

    wanted = [*trusted(annotations, runtime).values()]
    if not wanted:
        return False
    try:
        names = posix.listdir(FOLDER)
    except OSError:
        return False
    return any(_may_hold(f"{FOLDER}/{name}", wanted) for name in filter(counts, names))


def _may_hold(path: str, wanted: list[str]) -> bool:
    """Whether a file may have an entry that asks for one of these values; the thorough look reports errors in it."""
    from ..standing.folder import MAX_SIZE

    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError:
        return True
    try:
        text = posix.read(fd, MAX_SIZE + 1)
    except OSError:
        return True
    finally:
        posix.close(fd)
    if len(text) > MAX_SIZE or b"\\" in text:
        return True
    return b"container" in text and any("\n" in value or value.encode() in text for value in wanted)


def _clean(pid: int) -> None:
    """Take off what a container that failed before has left on the same cgroup, when this one is alone there."""
    from ..linux import bpf, cgroup

    try:
        path = cgroup.path_of(pid)
        target = cgroup.open_path(path)
    except cgroup.CgroupError:
        return  # none of ours can be there
    with target:
        hooks = (bpf.INET4_BIND, bpf.INET6_BIND, bpf.INET4_POST_BIND, bpf.INET6_POST_BIND)
        try:
            if not any(bpf.query(target.fd, hook)[1] for hook in hooks):
                return
        except OSError:
            return  # a process that may not see programs there has put none there
        if target.read("cgroup.type") == "domain" and target.read("cgroup.procs") == str(pid):
            from ..mechanisms.bpf.placement import detach

            detach(target)


def _grant(options: _Options, annotations: dict[str, Any], pid: int, pidfd: int) -> list[tuple[int, str]]:
    """Decide, and carry it out."""
    from _socket import getservbyname

    from ..grant.grant import Grant
    from ..placed import grants, place
    from ..placed.containers import decide
    from ..standing import files

    told: list[tuple[int, str]] = []
    entries = []
    try:
        entries = [entry for entry in files.read() if entry.container]
    except PrivbindError as error:
        told.append((_WARNING, f"no grant from the files: {error}"))
    decision = decide(annotations, options.runtime, entries, _policy(options.allow), getservbyname)
    told += [(_WARNING, line) for line in decision.refused]
    if decision.policy is None:
        _clean(pid)
        return told
    with place.alone_in(pid, posix.dup(pidfd)) as where:
        grants.revoke(where)
        grants.grant(where, Grant(decision.policy))
    told.append((_INFO, f"granted {decision.policy} (by {', '.join(decision.sources)})"))
    return told


def _policy(allow: list[str]) -> Policy | None:
    """What the hook's arguments allow. Raises PrivbindError."""
    from _socket import getservbyname

    from ..grant.policy import Policy, PolicyError

    if not allow:
        return None
    try:
        return Policy.parse(allow, getservbyname)
    except PolicyError as error:
        raise PrivbindError(f"the hook's --allow: {error}") from error


def _short(found: object) -> str:
    text = str(found)
    return text if len(text) <= 80 else text[:79] + "…"


def log(line: str, priority: int = _WARNING) -> None:
    """Send one line to the system's log, or to standard error where there is none; never waits, never raises."""
    from .output import printable

    text = printable(line)
    try:
        from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket

        sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        sock.setblocking(False)
        sock.connect(_LOG)
        sock.send(f"<{priority}>{_PROGRAM}[{posix.getpid()}]: {text}".encode()[:_MAX_LINE])
        sock.close()
    except OSError:
        if sys.stderr is not None:
            try:
                posix.write(2, f"{_PROGRAM}: {text}\n".encode())
            except OSError:
                pass
