# SPDX-License-Identifier: MIT
"""Watching binds of reserved ports as they happen: programs of our own on a cgroup, and what is looked up about each.

The programs are held by BPF links, which end with this process however it ends. A process id may be another process's
by the time it is looked up, so the process is compared with the event: one that started later did not do the bind.
"""

from __future__ import annotations

import posix
from dataclasses import dataclass
from errno import EINVAL, EPERM
from time import CLOCK_BOOTTIME, clock_gettime_ns, time_ns

from ..errors import PrivbindError, UnsupportedError, strerror
from ..helper import identity
from ..linux import bpf, capabilities, cgroup, network, procfs, sockets
from ..linux.cgroup import CgroupError
from ..linux.ring import Ring
from ..mechanisms.bpf import features
from ..standing import load
from . import grants, units, watch_program
from .rights import Found, Reader, Right, holds_capability
from .watch_events import HELPER, Attempt, Judgement, Outcome, Tracker, judge, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

CAPABILITIES = (
    capabilities.CAP_SYS_ADMIN,
    capabilities.CAP_NET_ADMIN,
    capabilities.CAP_SYS_PTRACE,
    capabilities.CAP_DAC_READ_SEARCH,
)
"""The capabilities that it needs, and no others: to load programs and read those of grants; to attach; to see the
program of a process and what its helper published; to find a cgroup by its id when its process is gone."""

RING_SIZE = 1 << 20
_NAMESPACE_S = 10  # how long an answer counts about which ports are reserved in another network namespace
_MOST_KNOWN = 4096  # namespaces and helpers that are remembered
_MOST_OPEN = 256  # cgroups that are held open: a usual limit is 1024 descriptors, and many a user may make cgroups
# Of a command line, which may have megabytes: more would cost memory, and journald drops an entry of 1024 fields.
_MOST_BYTES = 4096
_MOST_WORDS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Who did it, as far as that can still be seen: ``program`` is a path, None where the process is gone."""

    pid: int
    tid: int
    uid: int
    gid: int
    name: str
    program: str | None = None
    arguments: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """One bind of a reserved port.

    ``time_ns`` is since 1970, by the clock as it was when the event was read. ``capability``: whether the process holds
    CAP_NET_BIND_SERVICE, None where that is not known. ``helper``: the process that did it for ``process``. ``cgroup``
    is None where it is gone; ``in_first`` is whether the network namespace is the first one.
    """

    number: int
    corrects: int
    time_ns: int
    protocol: str
    address: str
    port: int
    bound: bool | None
    judgement: Judgement
    process: Process
    helper: int | None
    capability: bool | None
    cgroup: str | None
    unit: str | None
    container: str | None
    pod: str | None
    netns: int
    in_first: bool


@dataclass(slots=True)
class _Place:
    """A cgroup by its id: an open directory, -1 where it is gone."""

    fd: int
    path: str | None
    found: Found | None = None


class Watch:
    """The programs on a cgroup, and the reader of what they write.

    ``arguments``: command lines are read and reported, too.
    """

    def __init__(self, directory: str | None, arguments: bool = False) -> None:
        """Attach to the root of cgroup v2, or to a directory of it. Raises PrivbindError; then nothing is attached."""
        self.arguments = arguments
        self.seen: dict[tuple[int, int], _Look] = {}
        self._tracker = Tracker()
        self._reader = Reader()
        self._places: dict[int, _Place] = {}
        self._starts: dict[int, tuple[int, int]] = {}
        self._helpers: dict[int, tuple[int, Right | None, int | None]] = {}
        self._ends = 0
        self._missed = 0
        self.binds = 0  # so far
        self._fds: list[int] = []
        _check_privileges()
        self._target = load.Target.open(directory).cgroup
        self.path = self._target.path
        try:
            self._ring = Ring(watch_program.RING, RING_SIZE)
        except OSError as error:
            self._target.close()
            raise _refused(self.path, error) from error
        try:
            self._attach()
        except OSError as error:
            self.close()
            raise _refused(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the programs off."""
        while self._fds:
            posix.close(self._fds.pop())
        self._ring.close()
        self._forget(0)
        self._reader.close()
        self._target.close()

    def _attach(self) -> None:
        self._counters = bpf.create_array(watch_program.LOST, watch_program.LOST_COUNTERS.size)
        self._fds.append(self._counters)
        maps = {watch_program.RING: self._ring.fd, watch_program.LOST: self._counters}
        port_start = max(sockets.port_start(), sockets.DEFAULT_PORT_START)
        loaded: dict[int, int] = {}
        for hook, assembly in watch_program.programs(port_start).items():
            loaded[hook] = bpf.load(watch_program.NAMES[hook], hook, assembly.code(maps))
            self._fds.append(loaded[hook])
        for hook in watch_program.NAMES:
            self._fds.append(bpf.link(self._target.fd, loaded[hook], hook))

    @property
    def lost(self) -> int:
        """How many binds were lost so far: the kernel counts those that were asked for, done or not.

        Done ones that were not asked for are among these, unless somebody hid the asking: then there are more of them.
        """
        return max(self._missed, self._tracker.unasked)

    def read(self, wanted: Callable[[Attempt], bool] | None = None) -> Iterator[Bind]:
        """The binds that have become known since the last call. For those that are not wanted nothing is looked up."""
        now = clock_gettime_ns(CLOCK_BOOTTIME)
        end = self._ring.ready()
        counted = bpf.read_array(self._counters, watch_program.LOST_COUNTERS.size)
        lost, ends = watch_program.LOST_COUNTERS.unpack(counted)
        if (lost, ends) != (self._missed, self._ends):
            self._tracker.events_were_lost(clock_gettime_ns(CLOCK_BOOTTIME), ends != self._ends)
            self._missed, self._ends = lost, ends
        batch = _Batch(self, wanted)
        for outcome in self._outcomes(batch, end, now):
            bind = batch.describe(outcome)
            if bind is not None:
                self.binds += 1
                yield bind
        for place in self._places.values():
            place.found = None  # the grants may have changed by the next time
        if len(self._helpers) > _MOST_KNOWN:
            self._helpers.clear()

    def _outcomes(self, batch: _Batch, end: int, now: int) -> Iterator[Outcome]:
        for data in self._ring.records(end):
            event = parse(data)
            yield from self._tracker.tell(event, isinstance(event, Attempt) and batch.look(event))
        yield from self._tracker.decide(now)

    def _forget(self, most: int) -> None:
        """Close the cgroups that were found first, until there are so many."""
        while len(self._places) > most:
            place = self._places.pop(next(iter(self._places)))
            if place.fd >= 0:
                posix.close(place.fd)

    def place(self, attempt: Attempt) -> _Place:
        """The cgroup of a bind: by its process, as long as that is there, then by its id."""
        known = self._places.get(attempt.cgroup)
        if known is None:
            self._forget(_MOST_OPEN - 1)
            known = self._places[attempt.cgroup] = _open_cgroup(attempt)
        return known

    def rights(self, place: _Place, hook: int) -> Found | None:
        """The grants in effect on a cgroup; None where it is gone or they cannot be read."""
        if place.fd < 0:
            return None
        if place.found is None:
            try:
                place.found = self._reader.of_cgroup(place.fd, place.path or "?", hook)
            except OSError:
                return None
        return place.found

    def port_start(self, attempt: Attempt) -> int:
        """The first port that is not reserved in the network namespace of a bind, as of some seconds ago at most."""
        now = clock_gettime_ns(CLOCK_BOOTTIME)
        known = self._starts.get(attempt.netns)
        if known is None or now - known[1] > _NAMESPACE_S * 1_000_000_000:
            if len(self._starts) > _MOST_KNOWN:
                self._starts.clear()
            known = self._starts[attempt.netns] = (_port_start(attempt), now)
        return known[0]

    def helper(self, attempt: Attempt) -> tuple[Right | None, int | None]:
        """What a helper grants, and the main process of its command."""
        started = _started(attempt.pid)
        known = self._helpers.get(attempt.pid)
        if known is None or known[0] != started or known[1] is None:
            grant = grants.of_helper(attempt.pid)
            right = Right.of_live(grant) if grant is not None else None
            known = self._helpers[attempt.pid] = (started, right, grant.pid if grant is not None else None)
        return known[1], known[2]


@dataclass(slots=True)
class _Look:
    """What could be seen of a process: when it started (-1: it is gone), and what it is."""

    started_ns: int
    program: str | None = None
    arguments: tuple[str, ...] | None = None
    capable: bool | None = None


_GONE = _Look(-1)


class _Batch:
    """What is looked up for the binds of one reading; each process once.

    The process that asks for a bind is looked at when the request is read, not when the outcome is known: it may be
    gone by then.
    """

    def __init__(self, watch: Watch, wanted: Callable[[Attempt], bool] | None) -> None:
        self._watch = watch
        self._wanted = wanted
        self._offset = time_ns() - clock_gettime_ns(CLOCK_BOOTTIME)
        self._looks: dict[int, _Look] = {}

    def look(self, attempt: Attempt) -> bool:
        """Look at the process that asks; whether it is a helper."""
        named = attempt.name == HELPER
        if not named and self._wanted is not None and not self._wanted(attempt):
            return False
        found = self._watch.seen[attempt.tid, attempt.time_ns] = self._look(attempt.pid, attempt.time_ns)
        self._watch.place(attempt)
        if found is _GONE:
            # After its last bind a helper ends at once.
            return named and identity.is_helpers(attempt.uid)
        # The name and the capability are not enough: many a server has that.
        proven = named and (identity.is_helpers(attempt.uid) or grants.is_helper(attempt.pid))
        return proven and found.capable is True

    def _look(self, pid: int, time_ns: int) -> _Look:
        if pid not in self._looks:
            self._looks[pid] = _look(pid, self._watch.arguments)
        found = self._looks[pid]
        return found if 0 <= found.started_ns <= time_ns else _GONE

    def describe(self, outcome: Outcome) -> Bind | None:
        """All about one bind; None for one that is not wanted, or of a port that is not reserved where it was bound."""
        attempt, command = outcome.attempt, outcome.command or outcome.attempt
        seen = self._watch.seen
        look = seen.get((command.tid, command.time_ns)) or self._look(command.pid, command.time_ns)
        for one in (attempt, command):
            seen.pop((one.tid, one.time_ns), None)
        if (self._wanted is not None and not self._wanted(command)) or attempt.port >= self._watch.port_start(attempt):
            return None
        place = self._watch.place(attempt)
        helper = main = None
        process = _process(command, look)
        rights: tuple[Right, ...] | None
        if outcome.by_helper:
            right, main = self._watch.helper(attempt)
            rights = None if right is None else (right,)
            helper = attempt.pid
            if outcome.command is None and main is not None:
                process = self._main(main) or process
        else:
            found = self._watch.rights(place, bpf.INET4_BIND if len(attempt.address) == 4 else bpf.INET6_BIND)
            rights = None if found is None else found.rights
        capable = look.capable if helper is None else None
        path = place.path
        return Bind(
            number=outcome.number,
            corrects=outcome.corrects,
            time_ns=attempt.time_ns + self._offset,
            protocol=network.PROTOCOL_NAMES.get(attempt.protocol, str(attempt.protocol)),
            address=network.address_text(attempt.address),
            port=attempt.port,
            bound=outcome.bound,
            judgement=judge(outcome, rights, capable),
            process=process,
            helper=helper,
            capability=capable,
            cgroup=path,
            unit=units.unit_of(path or ""),
            container=units.container_of(path or ""),
            pod=units.pod_of(path or ""),
            netns=attempt.netns,
            in_first=attempt.in_first,
        )

    def _main(self, pid: int) -> Process | None:
        """The main process of a command, in whose place its helper did the bind; which thread asked is not known."""
        try:
            status = procfs.status(pid)
            uid, gid = (int(status[name].split()[0]) for name in ("Uid", "Gid"))
            look = self._look(pid, clock_gettime_ns(CLOCK_BOOTTIME))
            name = procfs.name(pid)
        except (OSError, KeyError, ValueError):
            return None
        return Process(pid=pid, tid=pid, uid=uid, gid=gid, name=name, program=look.program, arguments=look.arguments)


def _process(attempt: Attempt, look: _Look) -> Process:
    return Process(
        pid=attempt.pid,
        tid=attempt.tid,
        uid=attempt.uid,
        gid=attempt.gid,
        name=attempt.name.decode("utf-8", "backslashreplace"),
        program=look.program,
        arguments=look.arguments,
    )


def _look(pid: int, with_arguments: bool) -> _Look:
    """Look at a process. Its start is read last: what was read before is then its own, or of one that has ended."""
    try:
        program = procfs.executable(pid)
        words = procfs.arguments(pid, _MOST_BYTES)[:_MOST_WORDS] if with_arguments else None
    except OSError:
        return _GONE
    arguments = tuple(word.decode("utf-8", "backslashreplace") for word in words) if words is not None else None
    capable = holds_capability(pid)
    return _Look(_started(pid), program, arguments, capable)


def _started(pid: int) -> int:
    """When a process started, in ns since boot; -1 for one that is gone."""
    try:
        return procfs.started_ns(pid)
    except (OSError, ValueError, IndexError):
        return -1


def _open_cgroup(attempt: Attempt) -> _Place:
    try:
        found = cgroup.open_path(cgroup.path_of(attempt.pid))
        if found.identity == attempt.cgroup:
            return _Place(found.fd, found.path)
        found.close()
    except CgroupError:
        pass
    try:
        found = cgroup.by_identity(attempt.cgroup)
    except CgroupError:
        return _Place(-1, None)
    return _Place(found.fd, found.path)


def _port_start(attempt: Attempt) -> int:
    try:
        if attempt.netns == sockets.netns_cookie():
            return sockets.port_start()
        cookie, port_start = network.of_process(attempt.pid)
    except OSError:
        return sockets.DEFAULT_PORT_START
    return port_start if cookie == attempt.netns else sockets.DEFAULT_PORT_START


def _check_privileges() -> None:
    held = capabilities.get()[1]
    missing = [capabilities.NAMES[wanted] for wanted in CAPABILITIES[:2] if not held >> wanted & 1]
    if missing:
        raise PrivbindError(
            f"cannot watch: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing (run as root; about "
            "your own binds ask: privbindctl explain tcp:80)"
        )


def _refused(path: str, error: OSError) -> PrivbindError:
    """What the kernel's error means."""
    what = f"cannot watch cgroup '{path}'"
    if isinstance(error, bpf.LoadError):
        return PrivbindError(f"{what}: the kernel refuses the program: {error.verifier or strerror(error)}")
    if error.errno == EINVAL:
        return PrivbindError(f"{what}: the kernel has no BPF ring buffers, or no links on cgroups (Linux 5.8 has both)")
    if error.errno == EPERM and capabilities.effective(capabilities.CAP_SYS_ADMIN):
        try:
            features.check_privileges()
        except UnsupportedError as refusal:
            return PrivbindError(f"{what}: {refusal.reason} ({refusal.remedy})")
        return PrivbindError(
            f"{what}: {strerror(error)} (a bind program there or above forbids any other: bpftool cgroup tree)"
        )
    return PrivbindError(f"{what}: {strerror(error)}")
