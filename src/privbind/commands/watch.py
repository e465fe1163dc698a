# SPDX-License-Identifier: MIT
"""privbindctl watch: binds of reserved ports as they happen, as a table, as lines, as JSON Lines, or to the journal."""

from __future__ import annotations

from _signal import SIG_IGN, SIGINT, SIGTERM, getsignal, signal  # type: ignore[import-not-found]  # signal would import enum
from itertools import islice
from select import poll
from time import gmtime, localtime, strftime

from ..errors import PrivbindError, UsageError, counted, strerror
from ..grant.policy import parse_ports
from ..inspect.watch import Watch
from ..inspect.watch_events import BOUND_BY_OURS, BY_NONE_OF_OURS, BY_UNKNOWN, FAILED, NOT_BOUND, REFUSED
from ..linux.files import write_all
from .output import printable, say, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..grant.policy import Ports
    from ..inspect.watch import Bind
    from ..inspect.watch_events import Attempt
    from .privbindctl import Call

    Row = tuple[str, ...]

MESSAGE_ID = "ee0f070539354c1f8abaf0520f6a2955"
"""The MESSAGE_ID of all entries in the journal (docs/audit.md)."""

_PROGRAM = "privbindctl"
_IDENTIFIER = "privbind-audit"
_INTERVAL_MS = 25
_AT_ONCE = 128  # binds that are written together
_STDOUT = 1

_SHOWN = {
    BOUND_BY_OURS: ("bound", "bound", "32", "6"),
    BY_NONE_OF_OURS: ("bound, by none of ours", "other", "33", "5"),
    BY_UNKNOWN: ("bound, by which right could not be seen", "bound?", "33", "5"),
    REFUSED: ("refused", "refused", "31", "4"),
    FAILED: ("failed (probably in use)", "failed", "35", "5"),
    NOT_BOUND: ("not bound", "no", "35", "5"),
}
"""Each verdict in words, in the table, its colour there, and its priority in the journal (syslog(3))."""
_WARNING = "4"
_INFO = "6"

_COLUMNS = (("TIME", 8), ("VERDICT", 7), ("BIND", 20), ("PID", 7), ("USER", 8), ("PROGRAM", 14), ("BY", 16))
"""The columns of the table, and the least width of each."""
_FIRST = ("BIND", "VERDICT", "PROGRAM", "USER", "PID", "BY", "TIME")
"""The columns by importance: in a narrow terminal the last of these are left out."""
_GROWING = ("BIND", "PROGRAM", "BY")


def run(call: Call) -> int:
    """Watch until the end; the exit status. Raises PrivbindError, PolicyError."""
    if {"json", "journal"} <= call.flags:
        raise UsageError("watch: --json and --journal are two ways to say it (choose one)")
    wanted = _filter(call)
    refused = "refused" in call.flags
    out = _Journal() if "journal" in call.flags else _Json() if "json" in call.flags else _lines_or_table()
    ending = _Ending()
    with Watch(call.values.get("cgroup"), "arguments" in call.flags) as watch:
        try:
            _loop(watch, out, ending, wanted, refused)
        except (BrokenPipeError, _Ended):
            pass  # nobody reads any more, or it was told to end
        if not isinstance(out, _Json):
            say(f"{counted(watch.binds, 'bind')} seen, {watch.lost} lost", _PROGRAM)
    return 0


def _loop(watch: Watch, out: _Out, ending: _Ending, wanted: Callable[[Attempt], bool], refused: bool) -> None:
    gone = poll()
    if out.to_stdout:
        gone.register(_STDOUT, 0)  # errors alone: the end of a pipe that nobody reads any more
    with ending:
        out.write([out.start(watch.path)])
    lost = 0
    while True:
        ended = ending.told
        binds = (bind for bind in watch.read(wanted) if not refused or bind.judgement.verdict in (REFUSED, NOT_BOUND))
        while some := list(map(out.bind, islice(binds, _AT_ONCE))):
            with ending:
                out.write(some)
        if watch.lost > lost:
            with ending:
                out.write([out.lost(watch.lost - lost, watch.lost)])
            lost = watch.lost
        if ended or gone.poll(_INTERVAL_MS):
            return


class _Ended(BaseException):
    """A signal came during a write, which might have waited for ever."""


class _Ending:
    """Whether SIGINT or SIGTERM came. Inside the context, where a write may wait for a reader, they raise `_Ended`."""

    def __init__(self) -> None:
        self.told = False
        self._waiting = False
        for number in (SIGINT, SIGTERM):
            if getsignal(number) != SIG_IGN:
                signal(number, self._end)

    def _end(self, *_: object) -> None:
        self.told = True
        if self._waiting:
            raise _Ended

    def __enter__(self) -> None:
        self._waiting = True
        if self.told:
            raise _Ended

    def __exit__(self, *_: object) -> None:
        self._waiting = False


def _filter(call: Call) -> Callable[[Attempt], bool]:
    from _socket import getservbyname

    ports: tuple[Ports, ...] | None = None
    uid: int | None = None
    if "port" in call.values:
        ports = parse_ports(call.values["port"], getservbyname)
    if "user" in call.values:
        from ..inspect.explain import user

        uid = user(call.values["user"]).uid

    def wanted(attempt: Attempt) -> bool:
        return (ports is None or any(attempt.port in one for one in ports)) and uid in (None, attempt.uid)

    return wanted


class _Out:
    """A form of output."""

    to_stdout = True

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def start(self, path: str) -> bytes:
        """What to write when the programs are attached, so that every bind is seen from now on."""
        say(f"watching binds of reserved ports below cgroup '{path}' (Ctrl-C ends)", _PROGRAM)
        return b""

    def bind(self, bind: Bind) -> bytes:
        """One bind."""
        raise NotImplementedError

    def lost(self, more: int, total: int) -> bytes:
        """Binds that were lost."""
        say(_lost(more, total), _PROGRAM)
        return b""

    def write(self, parts: list[bytes]) -> None:
        """Write them. Raises BrokenPipeError where nobody reads any more, and PrivbindError."""
        try:
            write_all(_STDOUT, b"".join(parts))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise PrivbindError(f"cannot write to standard output: {strerror(error)}") from error

    def user(self, uid: int) -> str:
        """A user's name, the number for one without."""
        if uid not in self._names:
            from pwd import getpwuid

            try:
                self._names[uid] = getpwuid(uid).pw_name
            except KeyError:
                self._names[uid] = str(uid)
        return self._names[uid]


def _lost(more: int, total: int) -> str:
    return f"{counted(more, 'bind')} lost: too many at once, or hidden by who did it ({total} in all)"


def what(bind: Bind) -> str:
    """What was bound, as a rule."""
    return f"{bind.protocol}:{bind.address}:{bind.port}"


def by(bind: Bind) -> str:
    """By which right, or why not."""
    rights = bind.judgement.rights
    if rights is None:
        return "not seen"
    told = [str(right) for right in rights]
    if not told and bind.capability:
        told.append("CAP_NET_BIND_SERVICE")
    if bind.helper is not None:
        told.append(f"done by helper {bind.helper}")
    if not told and bind.judgement.why:
        told.append(f"not granted: another {bind.judgement.why}" if bind.judgement.why != "limit" else "limit used up")
    return "; ".join(told)


def values(bind: Bind, user: str) -> dict[str, Any]:
    """For JSON: null stands for what could not be seen, or is not there."""
    judgement, process = bind.judgement, bind.process
    rights = None
    if judgement.rights is not None:
        rights = [
            {"kind": right.kind, "mechanism": right.mechanism, "holder": right.holder, "source": right.source}
            for right in judgement.rights
        ]
    return {
        "type": "bind",
        "number": bind.number,
        "corrects": bind.corrects or None,
        "time": _utc(bind.time_ns),
        "verdict": judgement.verdict,
        "inferred": judgement.verdict in (FAILED, REFUSED),
        "protocol": bind.protocol,
        "address": bind.address,
        "port": bind.port,
        "bound": bind.bound,
        "right": rights,
        "why_not": judgement.why or None,
        "capability": bind.capability,
        "pid": process.pid,
        "tid": process.tid,
        "uid": process.uid,
        "gid": process.gid,
        "user": user,
        "name": process.name,
        "program": process.program,
        "arguments": None if process.arguments is None else list(process.arguments),
        "helper": bind.helper,
        "cgroup": bind.cgroup,
        "unit": bind.unit,
        "container": bind.container,
        "pod": bind.pod,
        "netns": bind.netns,
        "first_netns": bind.in_first,
    }


def _utc(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{rest // 1000:06}Z"


class _Json(_Out):
    def start(self, path: str) -> bytes:
        return self._line({"type": "start", "cgroup": path})

    def bind(self, bind: Bind) -> bytes:
        return self._line(values(bind, self.user(bind.process.uid)))

    def lost(self, more: int, total: int) -> bytes:
        return self._line({"type": "lost", "binds": more, "total": total})

    def _line(self, found: dict[str, Any]) -> bytes:
        from json import dumps

        return f"{dumps(found)}\n".encode()


class _Lines(_Out):
    def bind(self, bind: Bind) -> bytes:
        from shlex import quote

        process = bind.process
        said = (
            ("pid", str(process.pid)),
            ("user", self.user(process.uid)),
            ("program", process.program or process.name),
            ("arguments", None if process.arguments is None else " ".join(map(quote, process.arguments))),
            ("unit", bind.unit),
            ("container", bind.container),
            ("pod", bind.pod),
            ("by", by(bind) or None),
        )
        words = " ".join(f"{name}={quote(printable(value))}" for name, value in said if value is not None)
        corrects = " (corrects what was said before)" if bind.corrects else ""
        verdict, *_ = _SHOWN[bind.judgement.verdict]
        return f"{_utc(bind.time_ns)} {what(bind)} {verdict}{corrects}: {words}\n".encode()


class _Table(_Out):
    def __init__(self) -> None:
        super().__init__()
        self._width = 0

    def bind(self, bind: Bind) -> bytes:
        process = bind.process
        _, verdict, colour, _ = _SHOWN[bind.judgement.verdict]
        row = {
            "TIME": strftime("%H:%M:%S", localtime(bind.time_ns // 1_000_000_000)),
            "VERDICT": verdict + ("*" if bind.corrects else ""),
            "BIND": what(bind),
            "PID": str(process.pid),
            "USER": self.user(process.uid),
            "PROGRAM": process.program or process.name,
            "BY": by(bind),
        }
        columns = width() or 80
        text = b""
        if columns != self._width:
            self._width = columns
            text = f"{table_row({name: name for name, _ in _COLUMNS}, columns)}\n".encode()
        return text + f"{table_row(row, columns, colour)}\n".encode()


def table_row(row: dict[str, str], columns: int, colour: str = "") -> str:
    """A row that fits: the last columns are left out where there is no room, and a longer cell is cut. Pure."""
    least = dict(_COLUMNS)
    shown: list[str] = []
    for name in _FIRST:
        if sum(least[one] + 1 for one in (*shown, name)) - 1 > columns:
            break
        shown.append(name)
    spare = columns - sum(least[name] + 1 for name in shown) + 1
    widths = dict(least)
    growing = [name for name in _GROWING if name in shown]
    for place, name in enumerate(growing):
        widths[name] += spare // len(growing) + (place < spare % len(growing))
    cells = []
    for name, _ in _COLUMNS:
        if name in shown:
            cell = printable(row[name])
            if len(cell) > widths[name]:
                # A path is known by its end.
                cut = widths[name] - 1
                cell = f"…{cell[-cut:]}" if name == "PROGRAM" else f"{cell[:cut]}…"
            cell = cell.ljust(widths[name])
            cells.append(f"\x1b[{colour}m{cell}\x1b[0m" if colour and name == "VERDICT" else cell)
    return " ".join(cells).rstrip()


def _lines_or_table() -> _Out:
    return _Lines() if width() is None else _Table()


class _Journal(_Out):
    to_stdout = False

    def __init__(self) -> None:
        from ..linux.journal import SOCKET, Journal

        super().__init__()
        try:
            self._journal = Journal()
        except OSError as error:
            raise PrivbindError(
                f"--journal: cannot reach systemd's journal at '{SOCKET}': {strerror(error)}"
            ) from error

    def start(self, path: str) -> bytes:
        return self._entry("start", f"watching binds of reserved ports below cgroup '{path}'", _INFO)

    def lost(self, more: int, total: int) -> bytes:
        return self._entry("lost", _lost(more, total), _WARNING, ("PRIVBIND_LOST", str(more)))

    def write(self, parts: list[bytes]) -> None:
        try:
            for part in parts:
                self._journal.send(part)
        except OSError as error:
            raise PrivbindError(f"cannot write to the journal: {strerror(error)}") from error

    def bind(self, bind: Bind) -> bytes:
        found = values(bind, self.user(bind.process.uid))
        del found["type"], found["arguments"]
        rights = found.pop("right")
        fields = [
            (f"PRIVBIND_{name.upper()}", str(value).lower() if isinstance(value, bool) else str(value))
            for name, value in found.items()
            if value is not None and name not in ("verdict", "time")
        ]
        fields.append(("PRIVBIND_TIME", found["time"]))
        fields += [(f"PRIVBIND_RIGHT_{name.upper()}", right[name]) for right in rights or () for name in right]
        if bind.process.arguments is not None:
            fields += [("PRIVBIND_ARGUMENT", word) for word in bind.process.arguments]
        process = bind.process
        verdict, _, _, priority = _SHOWN[bind.judgement.verdict]
        who = f"{process.program or process.name}, process {process.pid} of {self.user(process.uid)}"
        message = "; ".join(filter(None, (f"{what(bind)} {verdict}: {who}", by(bind))))
        return self._entry(bind.judgement.verdict, message, priority, *fields)

    @staticmethod
    def _entry(verdict: str, message: str, priority: str, *fields: tuple[str, str]) -> bytes:
        from ..linux.journal import entry

        return entry(
            [
                ("MESSAGE", printable(message)),
                ("MESSAGE_ID", MESSAGE_ID),
                ("PRIORITY", priority),
                ("SYSLOG_IDENTIFIER", _IDENTIFIER),
                ("PRIVBIND_VERDICT", verdict),
                *fields,
            ]
        )
