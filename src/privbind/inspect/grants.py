# SPDX-License-Identifier: MIT
"""The live grants on this host, of all mechanisms, found where the kernel keeps them: there is no file of them.

bpf's are on cgroups, preload's and seccomp's in the memory of their helpers; of ambient only the capability itself is
left, so a grant by ambient is a guess. What a process publishes counts when it runs as helpers do, with a number that
only root can take; in a user namespace that is the root who made it. It is shown, but nothing is done because of it.
"""

from __future__ import annotations

import posix
from dataclasses import dataclass, replace

from ..errors import PrivbindError, counted, strerror
from ..grant import counters, record
from ..grant.grant import Grant
from ..grant.holder import COMMAND
from ..grant.policy import MAX_RULES, MAX_U32, number
from ..helper import identity, ledger
from ..linux import bpf, capabilities, hierarchy, procfs
from ..linux.cgroup import Cgroup, CgroupError
from ..linux.memory import link_of
from ..mechanisms.bpf import own_cgroup, published

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..standing.resolve import Key
    from ..standing.text import Granted

_HELPER = "privbind-helper"
_MAX_LEDGER = counters.LAYOUT.size + 64 * MAX_RULES + (1 << 16)  # bytes; a rule is shorter than 64
_MAX_DESCRIPTORS = 64  # looked at in one process; a helper has fewer
_BIND = 1 << capabilities.CAP_NET_BIND_SERVICE
_TRACE = 1 << capabilities.CAP_SYS_PTRACE
_SLACK_S = 2  # between two clocks that count in whole seconds
_SECCOMP_FILTER = "2"  # of Seccomp: in proc_pid_status(5)

_ENDED = ("Z", "X")  # of State: in proc_pid_status(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGrant:
    """One live grant; None stands for what could not be seen.

    ``kind`` is "launch", "placed" for a grant on a cgroup that was there already, or "standing" for one of the
    administrator's files; ``sources`` are the places in those.
    ``uids`` is a range of subordinate uids: the first, and how many. ``rules`` is empty where any reserved port may be
    bound. ``limit`` 0: there is none, and then ``left`` is None. ``since`` is in seconds since 1970. ``pid`` is the
    main process, None also where it has ended and descendants live on. ``cut`` says how many arguments of the command
    are missing. ``place`` is what the kernel keeps it in: a cgroup, or a process. ``guess``: that it is privbind's is
    not known.
    """

    mechanism: str | None
    place: str
    kind: str = "launch"
    guess: bool = False
    user: str | None = None
    uid: int | None = None
    gid: int | None = None
    uids: tuple[int, int] | None = None
    rules: tuple[str, ...] | None = None
    limit: int | None = None
    left: int | None = None
    reuse_ports: tuple[str, ...] | None = None
    granted: int | None = None
    refused: int | None = None
    since: int | None = None
    pid: int | None = None
    command: tuple[bytes, ...] | None = None
    cut: int = 0
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """The grants found; what could not be seen, and what else there is to know of them, a line each."""

    grants: tuple[LiveGrant, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find() -> Listing:
    """All that can be seen from here."""
    unseen: list[str] = []
    notes: list[str] = []
    found = [*_on_cgroups(unseen, notes), *of_helpers(unseen), *_ambient()]
    try:
        if posix.geteuid() != 0 and procfs.hides_processes():
            unseen.append("processes of other users (/proc is mounted with hidepid; run as root)")
    except OSError as error:
        unseen.append(f"processes: cannot read /proc: {strerror(error)}")
    found.sort(key=lambda grant: (grant.since or 0, grant.pid or 0))
    return Listing(tuple(found), tuple(unseen), tuple(notes))


def from_record(said: list[tuple[str, bytes]], counted: tuple[int, ...], place: str) -> tuple[LiveGrant, int]:
    """What a record and its counters say, and the main process's id in its own pid namespace. Pure.

    Raises ValueError for a record that lacks something or makes no sense.
    """
    values = {name: value.decode("utf-8", "backslashreplace") for name, value in said}
    holder = record.holder(said)
    of_launch = holder.kind == COMMAND
    try:
        granted = Grant.parse(values["grant"])
        found = LiveGrant(
            mechanism=values["mechanism"],
            place=place,
            kind="launch" if of_launch else "placed",
            user=values["user"] if of_launch else None,
            uid=holder.uid if of_launch else None,
            gid=holder.gid if of_launch else None,
            rules=tuple(map(str, granted.policy.rules or ())),
            limit=granted.limit,
            left=max(granted.limit - counted[counters.BOUND], 0) if granted.limit else None,
            reuse_ports=tuple(map(str, granted.reuse_ports)),
            granted=counted[counters.GRANTED],
            refused=counted[counters.REFUSED],
            since=holder.since,
            command=holder.argv if of_launch else None,
            cut=_number(values.get("cut", "0")),
        )
        return found, holder.pid
    except KeyError as error:
        raise ValueError(f"the record lacks {error}") from None


def _number(text: str, highest: int = MAX_U32) -> int:
    return number(text, 0, highest, "the number")


def _on_cgroups(unseen: list[str], notes: list[str]) -> Iterator[LiveGrant]:
    """Those of bpf: of launches, on cgroups of their own, and standing ones, wherever they were loaded."""
    hidden = 0
    try:
        for path, fd in hierarchy.walk():
            of_launch = own_cgroup.is_name(path.rpartition("/")[2])
            try:
                if of_launch and not hierarchy.populated(fd):
                    continue
                programs = bpf.query(fd, published.HOOK)[1]
                found = [grant for program in programs if (grant := _published(program, path, fd))]
                if programs:
                    found += _standing(path, fd, notes)
            except PermissionError:
                hidden += of_launch
                found = [_by_name(path, fd)] if of_launch else []
            except FileNotFoundError:
                continue  # it has just ended
            except (OSError, ValueError, PrivbindError) as error:
                unseen.append(f"the grant on cgroup '{path}': {_why(error)}")
                continue
            yield from found
    except CgroupError as error:
        unseen.append(f"grants of bpf: {error}")
    if hidden:
        unseen.append(f"rules and binds of {counted(hidden, 'grant')} of bpf (CAP_SYS_ADMIN is missing; run as root)")
    if posix.geteuid() != 0:
        unseen.append("standing grants (run as root, or ask for a user: privbindctl test USER RULE)")


def _standing(path: str, fd: int, notes: list[str]) -> list[LiveGrant]:
    """The standing grants that are in force on a cgroup, by holder."""
    from shlex import quote

    from ..standing import load, table, text

    with load.Target(Cgroup(path, posix.dup(fd), 0, exact=False)) as target:
        found = load.in_force(target)
        option = "" if target.is_root else f" --cgroup={quote(path)}"
    if found is None:
        return []
    if not found.complete:
        missing = f"are there for one address family only (privbindctl load{option})"
        notes.append(f"standing grants on cgroup '{path}' {missing}")
    granted = text.decode(found.text)
    notes += _changed(granted, path, option)
    return [
        LiveGrant(
            mechanism="bpf",
            place=path,
            kind="standing",
            user=held.name or None,
            uid=key.first if key.kind == "uid" else None,
            gid=key.first if key.kind == "gid" else None,
            uids=(key.first, key.count) if key.kind == "uids" else None,
            rules=held.rules,
            limit=0,
            reuse_ports=(),
            granted=sum(found.holders[number].granted for number in table.keys(key) if number in found.holders),
            since=found.since,
            sources=held.sources,
        )
        for key, held in granted.items()
    ]


def _changed(granted: dict[Key, Granted], path: str, option: str) -> list[str]:
    """Whether the files grant something else by now than what was loaded; ``option`` names its cgroup."""
    from .standing import by_files

    try:
        now = by_files()
    except PrivbindError as error:
        return [f"the files of grants have an error by now, so what is in force on cgroup '{path}' stays: {error}"]
    if now == granted:
        return []
    remedy = f"privbindctl check --diff{option} says what; privbindctl load{option} puts it in force"
    return [f"the files grant something else by now than is in force on cgroup '{path}' ({remedy})"]


def _published(program: int, path: str, fd: int) -> LiveGrant | None:
    found = published.of_program(program)
    if found is None:
        return None
    grant, pid = from_record(*found, path)
    return replace(grant, pid=_main(grant, pid, hierarchy.members(fd)))


def _by_name(path: str, fd: int) -> LiveGrant:
    """A launch as far as its cgroup tells without the programs being read: the cgroup's name has the process's id."""
    grant = LiveGrant(mechanism="bpf", place=path)
    try:
        pid = _main(grant, own_cgroup.pid_of(path.rpartition("/")[2]), hierarchy.members(fd))
        return grant if pid is None else _of_process(grant, pid)
    except (OSError, ValueError):
        return grant


def of_helpers(unseen: list[str]) -> Iterator[LiveGrant]:
    """Those of preload and seccomp; what could not be seen is added to ``unseen``."""
    hidden = 0
    processes = _Processes()
    for pid, status in _statuses(lambda pid: procfs.name(pid) == _HELPER):
        if not is_helper(pid, status):
            continue
        place = f"process {pid}"
        try:
            grant = _of_helper(pid, status, place, processes)
        except PermissionError:
            hidden += 1
            held = int(status.get("CapPrm", "0"), 16)
            yield LiveGrant(mechanism="seccomp" if held & _TRACE else "preload" if held else None, place=place)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except (OSError, ValueError) as error:
            unseen.append(f"the grant of helper {pid}: {_why(error)}")
        else:
            if grant is None:
                unseen.append(f"the grant of helper {pid}: it does not publish it")
            else:
                yield grant
    if hidden:
        unseen.append(
            f"what {counted(hidden, 'helper')} of preload or seccomp granted (CAP_SYS_PTRACE is missing; run as root)"
        )


def of_helper(pid: int) -> LiveGrant | None:
    """What a helper publishes; None for a process that is no helper, or has ended. Needs CAP_SYS_PTRACE."""
    try:
        status = procfs.status(pid)
        if not is_helper(pid, status):
            return None
        return _of_helper(pid, status, f"process {pid}", _Processes())
    except (OSError, ValueError):
        return None


def is_helper(pid: int, status: dict[str, str] | None = None) -> bool:
    """Whether a process that has a helper's name is locked in as a helper is, and has the uid of one.

    So nobody else can say that a bind was somebody else's, or that he had a grant for it.
    """
    try:
        said = status or procfs.status(pid)
        locked_in = said.get("NoNewPrivs") == "1" and said.get("Seccomp") == _SECCOMP_FILTER
        return locked_in and identity.is_helpers(procfs.own_uid(pid, _uid(said)))
    except (OSError, KeyError, ValueError):
        return False


def _uid(status: dict[str, str]) -> int:
    return int(status["Uid"].split()[0])


def _of_helper(pid: int, status: dict[str, str], place: str, processes: _Processes) -> LiveGrant | None:
    for fd, target in procfs.descriptors(pid, _MAX_DESCRIPTORS).items():
        if target == link_of(record.NAME):
            counted, text = ledger.parse(procfs.read_descriptor(pid, fd, _MAX_LEDGER))
            grant, own = from_record(record.decode(text), counted, place)
            # Every user is root in a user namespace of his own, and there he speaks for no process of others.
            users = None if identity.is_helpers(_uid(status)) else procfs.namespace(pid, "user")
            found = _main(grant, own, processes.find(procfs.namespace(pid, "pid"), own), users)
            return replace(grant, pid=found)
    return None


class _Processes:
    """The processes by the id that each has in its own pid namespace, looked up once for all."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[int]] | None = None

    def find(self, namespace: str, own: int) -> list[int]:
        """Those that have this id in this namespace."""
        if self._found is None:
            self._found = {}
            for pid in procfs.processes():
                try:
                    key = procfs.namespace(pid, "pid"), procfs.own_ids(pid)[-1]
                except (OSError, ValueError):
                    continue
                self._found.setdefault(key, []).append(pid)
        return self._found.get((namespace, own), [])


def _main(grant: LiveGrant, wanted: int, candidates: list[int], users: str | None = None) -> int | None:
    """The process among these that has this id in its own namespace; None when it has ended.

    One that is younger than the grant got its id later. ``users``: the user namespace that it must be in.
    """
    for pid in candidates:
        try:
            if procfs.own_ids(pid)[-1] != wanted or users not in (None, procfs.namespace(pid, "user")):
                continue
            if grant.since is None or procfs.started(pid) <= grant.since + _SLACK_S:
                return pid
        except (OSError, ValueError, IndexError):
            continue
    return None


def _ambient() -> Iterator[LiveGrant]:
    """Processes that hold just that one capability as an ambient one, and whose parent does not."""
    holders: dict[int, int] = {}
    for pid, status in _statuses(lambda _: True):
        sets = {int(status.get(name, "0"), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
        if sets == {_BIND}:
            holders[pid] = int(status.get("PPid", "0"))
    for pid, parent in holders.items():
        if parent not in holders:
            grant = LiveGrant(mechanism="ambient", place=f"process {pid}", guess=True, rules=(), limit=0)
            try:
                yield replace(_of_process(grant, pid), reuse_ports=())
            except (OSError, ValueError, IndexError):
                continue


def _of_process(grant: LiveGrant, pid: int) -> LiveGrant:
    """What the command's own process tells."""
    status = procfs.status(pid)
    uid, gid = (int(status[name].split()[0]) for name in ("Uid", "Gid"))
    command = tuple(procfs.arguments(pid))
    return replace(
        grant, user=_user(uid), uid=uid, gid=gid, since=procfs.started(pid), pid=pid, command=command or None
    )


def _user(uid: int) -> str:
    from pwd import getpwuid

    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _statuses(wanted: Callable[[int], bool]) -> Iterator[tuple[int, dict[str, str]]]:
    """The live processes that are wanted, and what /proc says of each."""
    try:
        pids = procfs.processes()
    except OSError:
        return
    for pid in pids:
        try:
            if not wanted(pid):
                continue
            status = procfs.status(pid)
        except OSError:
            continue
        if status.get("State", "")[:1] not in _ENDED:
            yield pid, status


def _why(error: Exception) -> str:
    return strerror(error) if isinstance(error, OSError) else str(error)
