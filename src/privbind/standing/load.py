# SPDX-License-Identifier: MIT
"""Standing grants in the kernel: putting them there, taking them out, and reading what is in force.

The programs are on the root of cgroup v2 (or, for tests and containers' hosts, on another cgroup) and stay there
whoever ends. The table is in a map behind a slot that both programs read. A load makes a new table and puts it into the
slot, which is one write: whatever ends it before or after, what is in force is the old set of grants or the new one.
"""

from __future__ import annotations

import posix
from _struct import Struct
from errno import E2BIG, EACCES, ENOENT, EPERM
from fcntl import LOCK_EX, LOCK_NB, flock
from sys import byteorder
from time import monotonic, sleep, time

from ..errors import PrivbindError, strerror, with_remedy
from ..grant.grant import Grant
from ..grant.policy import Policy
from ..linux import bpf, capabilities, cgroup, sockets
from ..mechanisms.bpf import features
from ..values import value
from . import program, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from ..grant.policy import Rule
    from ..linux.cgroup import Cgroup
    from .resolve import Key

LOCK = "/run/privbind.lock"
_PATIENCE_S = 30
_ROOT = 1  # the inode, and so the id, of the root of cgroup v2
_TABLE = "privbind_table"
_HEAD = Struct("=QIQ")  # when it was loaded, in seconds since 1970; the length of the text; the network namespace


class Target:
    """Where standing grants hold: the cgroup that the programs are on, and the network namespace they are for.

    ``netns`` is a cookie, 0 for the first network namespace, which the programs know without being told.
    """

    def __init__(self, target: Cgroup, netns: int = 0) -> None:
        """Take over the cgroup."""
        self.cgroup = target
        self.netns = netns

    @classmethod
    def open(cls, directory: str | None) -> Self:
        """The root of cgroup v2, or a directory of it and this process's network namespace. Raises PrivbindError."""
        try:
            found = _root() if directory is None else _other(directory)
        except cgroup.CgroupError as error:
            raise PrivbindError(with_remedy(error.reason, error.remedy)) from error
        try:
            return cls(found, 0 if directory is None else sockets.netns_cookie())
        except OSError as error:
            found.close()
            raise PrivbindError("the kernel has no SO_NETNS_COOKIE (Linux 5.14 has it)") from error

    @property
    def is_root(self) -> bool:
        """Whether it is the root of cgroup v2, and so the whole host."""
        return self.cgroup.identity == _ROOT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cgroup.close()


@value
class InForce:
    """The standing grants that are in force: their text, since when, and how often each holder's were used.

    ``complete`` says that both programs are there; ``holders`` are by their keys in the table. ``netns`` is as in
    `Target`.
    """

    text: bytes
    since: int
    holders: dict[bytes, table.Held]
    complete: bool
    netns: int = 0


def load(target: Target, read: Callable[[], tuple[Mapping[Key, Iterable[Rule]], bytes]]) -> bool:
    """Put grants in force in the place of any others; whether that changed anything.

    ``read`` gives the grants, and the text that says where they come from; equal texts are of equal grants. It is
    called once no other load can come between: so what was read last is what is in force. Raises PrivbindError; then
    what was in force before is in force.
    """
    with _Lock():
        grants, text = read()
        return _load(target, grants, text)


def _load(target: Target, grants: Mapping[Key, Iterable[Rule]], text: bytes) -> bool:
    with _Attached(target) as attached:
        before = attached.read()
        if before is not None and before.text == text and attached.is_current:
            return False
        counted = {key: held.granted for key, held in before.holders.items()} if before else {}
        entries = table.build(grants, _HEAD.pack(int(time()), len(text), target.netns) + text, counted)
        try:
            filled = bpf.create_hash(_TABLE, table.KEY_SIZE, table.VALUE_SIZE, len(entries))
            try:
                bpf.update_all(filled, entries)
                bpf.freeze(filled)
                attached.complete(filled)
                attached.check()
                bpf.fill_slot(attached.slot, filled)
            finally:
                posix.close(filled)
        except OSError as error:
            raise _refused(target, "load the grants for", error) from error
        return True


def unload(target: Target) -> bool:
    """End all standing grants, and take the programs off; whether there were any. Raises PrivbindError."""
    with _Lock(), _Attached(target) as attached:
        if not attached.programs:
            return False
        try:
            attached.remove()
        except OSError as error:
            raise _refused(target, "take the grants off", error) from error
        return True


def in_force(target: Target) -> InForce | None:
    """What is in force now; None for nothing. Raises PrivbindError."""
    with _Attached(target) as attached:
        return attached.read()


def open_slot(maps: Iterable[int]) -> int:
    """A descriptor of the slot among a program's maps, which are given by their ids; -1 for none. Raises OSError."""
    for number in maps:
        fd = bpf.open_map(number)
        if bpf.map_info(fd)[0] == program.SLOT:
            return fd
        posix.close(fd)
    return -1


def held(slot: int) -> int:
    """The id of the map in a slot, 0 for none: it changes with every load. Raises OSError."""
    try:
        return int.from_bytes(bpf.read_array(slot, 4), byteorder)
    except FileNotFoundError:
        return 0


def read_slot(slot: int, complete: bool = True) -> InForce | None:
    """The grants in a slot; None where it holds none. Raises OSError."""
    try:
        held = bpf.open_slot(slot)
    except FileNotFoundError:
        return None
    try:
        entries = bpf.read_all(held, table.KEY_SIZE, table.VALUE_SIZE)
    finally:
        posix.close(held)
    text = table.text_of(entries)
    since, length, netns = _HEAD.unpack_from(text.ljust(_HEAD.size, b"\0"))
    return InForce(text[_HEAD.size : _HEAD.size + length], since, table.holders(entries), complete, netns)


class _Attached:
    """The programs of ours that are on a cgroup, and the slot that they read; -1 where there is none."""

    def __init__(self, target: Target) -> None:
        self.programs: dict[int, int] = {}
        self.slot = -1
        self._readers: set[int] = set()  # the hooks whose programs read this slot, and not another version's
        self._target = target
        self._added: list[int] = []

    def __enter__(self) -> Self:
        try:
            for hook, name in program.NAMES.items():
                self._find(hook, name)
        except OSError as error:
            self._close()
            raise _refused(self._target, "see the programs on", error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._undo()
        self._close()

    @property
    def is_current(self) -> bool:
        """Whether both programs are there and are those that this version of privbind would load."""
        if self.slot < 0 or self._readers != program.NAMES.keys():
            return False
        try:
            current = self._load()
        except OSError as error:
            raise _refused(self._target, "load the programs for", error) from error
        try:
            return all(bpf.program_tag(fd) == bpf.program_tag(self.programs[hook]) for hook, fd in current.items())
        finally:
            for fd in current.values():
                posix.close(fd)

    def read(self) -> InForce | None:
        """What the slot holds; None for nothing."""
        if self.slot < 0:
            return None
        try:
            return read_slot(self.slot, self.programs.keys() == program.NAMES.keys())
        except OSError as error:
            raise _refused(self._target, "read the grants of", error) from error

    def complete(self, filled: int) -> None:
        """Put the programs on the cgroup that are missing there or are another version's. Raises OSError.

        A new slot is made for maps like ``filled``. A program of another version, which reads another slot, uses what
        that slot holds until the program is replaced, in one step.
        """
        slot = self.slot
        if slot < 0:
            slot = bpf.create_slot(program.SLOT, filled)
        wanted = self._load(slot)
        try:
            if slot != self.slot and self.programs:
                bpf.fill_slot(slot, filled)
            for hook, fd in wanted.items():
                old = self.programs.get(hook)
                if old is None:
                    bpf.attach(self._target.cgroup.fd, fd, hook)
                    self._added.append(hook)
                elif hook not in self._readers or bpf.program_tag(old) != bpf.program_tag(fd):
                    bpf.replace(self._target.cgroup.fd, fd, hook, old)
                else:
                    continue
                self.programs[hook], wanted[hook] = fd, old if old is not None else -1
        finally:
            for fd in wanted.values():
                if fd >= 0:
                    posix.close(fd)
            if self.slot != slot:
                if self.slot >= 0:
                    posix.close(self.slot)
                self.slot = slot

    def check(self) -> None:
        """Raise PrivbindError unless the kernel says that both programs are in effect, or OSError."""
        for hook, fd in self.programs.items():
            if bpf.program_info(fd)[0] not in bpf.effective(self._target.cgroup.fd, hook):
                raise PrivbindError(
                    f"cannot load the grants for cgroup '{self._target.cgroup.path}': the kernel does not run their "
                    "program there (look for one that was attached with other flags: bpftool cgroup tree)"
                )

    def remove(self) -> None:
        """End all grants in one step, and then take the programs off. Raises OSError."""
        if self.slot >= 0:
            try:
                bpf.clear_slot(self.slot)
            except FileNotFoundError:
                pass
        for hook, fd in self.programs.items():
            bpf.detach(self._target.cgroup.fd, fd, hook)

    def _find(self, hook: int, name: str) -> None:
        for number in bpf.query(self._target.cgroup.fd, hook)[1]:
            try:
                fd = bpf.open_program(number)
            except FileNotFoundError:
                continue  # it was taken off just now
            _, found, maps = bpf.program_info(fd)
            if found != name or hook in self.programs:
                posix.close(fd)
                continue
            self.programs[hook] = fd
            if self.slot < 0:
                self._find_slot(maps)
            if self.slot >= 0 and bpf.map_id(self.slot) in maps:
                self._readers.add(hook)

    def _find_slot(self, maps: list[int]) -> None:
        self.slot = open_slot(maps)

    def _load(self, slot: int = -1) -> dict[int, int]:
        code = program.programs(self._target.netns)
        loaded: dict[int, int] = {}
        try:
            for hook, assembly in code.items():
                maps = {program.SLOT: self.slot if slot < 0 else slot}
                loaded[hook] = bpf.load(program.NAMES[hook], hook, assembly.code(maps))
        except BaseException:
            for fd in loaded.values():
                posix.close(fd)
            raise
        return loaded

    def _undo(self) -> None:
        """Take off what was added."""
        for hook in self._added:
            try:
                bpf.detach(self._target.cgroup.fd, self.programs[hook], hook)
            except OSError:
                pass  # the first error is told

    def _close(self) -> None:
        while self.programs:
            posix.close(self.programs.popitem()[1])
        if self.slot >= 0:
            posix.close(self.slot)
            self.slot = -1


class _Lock:
    """Keeps other loads out. It is on a file that only root can open, since whoever can open it can lock it."""

    def __enter__(self) -> None:
        try:
            flags = posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC | posix.O_NONBLOCK
            self._fd = posix.open(LOCK, flags, 0o600)
        except OSError as error:
            hint = " (run this as root)" if isinstance(error, PermissionError) else ""
            raise PrivbindError(
                f"cannot open '{LOCK}', which keeps two loads apart: {strerror(error)}{hint}"
            ) from error
        try:
            status = posix.fstat(self._fd)
            if status.st_uid != posix.geteuid() or status.st_mode & 0o077:
                raise PrivbindError(f"'{LOCK}' is open to others than root (remove it)")
            end = monotonic() + _PATIENCE_S
            while not self._taken():
                if monotonic() > end:
                    raise PrivbindError(
                        f"another load has held '{LOCK}' for {_PATIENCE_S} seconds (fuser {LOCK} tells which process)"
                    )
                sleep(0.01)
        except BaseException:
            posix.close(self._fd)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        posix.close(self._fd)

    def _taken(self) -> bool:
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _root() -> Cgroup:
    """The root of cgroup v2. Raises CgroupError where it cannot be seen."""
    for device, _, point in cgroup.mounts_of_v2():
        found = cgroup.open_mounted(point, device, _ROOT)
        if found >= 0:
            return cgroup.Cgroup("/", found, 0, exact=True)
    raise cgroup.CgroupError(
        "the root of cgroup v2 cannot be seen from this cgroup namespace",
        "load on the host, or name a cgroup with --cgroup",
    )


def _other(directory: str) -> Cgroup:
    try:
        fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise cgroup.CgroupError(f"cannot open '{directory}': {strerror(error)}") from error
    if posix.fstat(fd).st_dev not in [device for device, _, _ in cgroup.mounts("cgroup2")]:
        posix.close(fd)
        raise cgroup.CgroupError(f"'{directory}' is no cgroup", "name a directory of a cgroup v2 mount")
    return cgroup.Cgroup(directory, fd, 0, exact=False)


def _refused(target: Target, what: str, error: OSError) -> PrivbindError:
    """What the kernel's error means."""
    reason, remedy = strerror(error), ""
    denied = error.errno in (EPERM, EACCES)
    if denied and not capabilities.effective(capabilities.CAP_SYS_ADMIN):
        # It is needed to open others' programs, and for the verifier to accept ours.
        reason, remedy = "CAP_SYS_ADMIN is missing", "run as root on the host"
    elif isinstance(error, bpf.LoadError) and error.verifier:
        # If a launch's program is refused as well, it is known what the kernel lacks.
        lacking = features.missing(Grant(Policy(None)), error)
        reason, remedy = lacking.reason, lacking.remedy
    elif error.errno == E2BIG:
        reason, remedy = "64 programs are on it already", "bpftool cgroup show tells which"
    elif denied and (where := _forbids(target)):
        reason, remedy = f"a program {where} forbids any other", "attach that one with BPF_F_ALLOW_MULTI"
    elif denied:
        refusal = features.forbidden()
        reason, remedy = refusal.reason, refusal.remedy
    elif error.errno == ENOENT:
        reason = "it has been removed"
    return PrivbindError(with_remedy(f"cannot {what} cgroup '{target.cgroup.path}': {reason}", remedy))


def _forbids(target: Target) -> str:
    """Where a program is that was attached so that no other can be: "on it", "above it", or "" for nowhere."""
    above = cgroup.ancestors(target.cgroup.fd)
    over = bpf.ALLOW_MULTI | bpf.ALLOW_OVERRIDE
    places = [("on it", bpf.ALLOW_MULTI, target.cgroup.fd), *(("above it", over, fd) for fd in above)]
    try:
        for where, allowing, fd in places:
            for hook in program.NAMES:
                flags, programs = bpf.query(fd, hook)
                if programs and not flags & allowing:
                    return where
    except OSError:
        pass  # the first error is told
    finally:
        for fd in above:
            posix.close(fd)
    return ""
