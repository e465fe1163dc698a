# SPDX-License-Identifier: MIT
"""Other processes as /proc shows them (proc(5)). Functions raise OSError for a process that has ended meanwhile."""

from __future__ import annotations

import posix
from _stat import S_ISREG
from errno import EINVAL

_PROC = "/proc"
_RING = "anon_inode:[io_uring]"  # io_uring/io_uring.c, 5.1
_RING_THREAD = "iou-"  # iou-sqp-PID and iou-wrk-PID: io_uring/sqpoll.c and io-wq.c, 5.12
_MOUNTS = "/proc/self/mountinfo"
_START_TIME = 19  # field 22 of proc_pid_stat(5), counted from the state
_HIDDEN = ("hidepid=1", "hidepid=2", "hidepid=noaccess", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable")


def processes() -> list[int]:
    """All processes that can be seen."""
    return sorted(int(name) for name in posix.listdir(_PROC) if name.isdigit())


def hides_processes() -> bool:
    """Whether /proc is mounted so that it hides those of others (hidepid)."""
    for line in _read(_MOUNTS).decode("utf-8", "replace").split("\n"):
        head, _, tail = line.partition(" - ")
        if head.split(" ")[4:5] == [_PROC] and tail.startswith("proc "):
            return any(option in _HIDDEN for option in tail.split(" ")[-1].split(","))
    return False


def name(pid: int) -> str:
    """What ps(1) shows of a process: at most 15 bytes, chosen by itself."""
    return _read(f"{_PROC}/{pid}/comm").decode("utf-8", "replace").rstrip("\n")


def status(pid: int | str) -> dict[str, str]:
    """The lines of proc_pid_status(5)."""
    lines = _read(f"{_PROC}/{pid}/status").decode("utf-8", "replace").split("\n")
    return {key: value.strip(" \t") for key, _, value in (line.partition(":") for line in lines)}


def threads() -> dict[int, dict[str, str]]:
    """The lines of proc_pid_status(5) for each thread of this process, by its id."""
    found = {}
    for tid in map(int, posix.listdir(f"{_PROC}/self/task")):
        try:
            found[tid] = status(f"self/task/{tid}")
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return found


def rings() -> list[str]:
    """What of this process is an io_uring ring, in words: its descriptors, mappings, and threads in the kernel."""
    found = [f"descriptor {fd}" for fd, what in descriptors("self").items() if what == _RING]
    if _RING.encode() in _read(f"{_PROC}/self/maps"):
        found.append("a mapping")
    return found + [f"thread {tid}" for tid, status in threads().items() if status["Name"].startswith(_RING_THREAD)]


def arguments(pid: int, most: int | None = None) -> list[bytes]:
    """The command line, so many bytes of it at the most (None: all); empty for a zombie."""
    text = _read(f"{_PROC}/{pid}/cmdline", most)
    words = text.split(b"\0")
    return words if len(text) == most else words[:-1]


def namespace(pid: int, kind: str) -> str:
    """What tells a process's namespace from others. Needs the right to trace it."""
    return posix.readlink(f"{_PROC}/{pid}/ns/{kind}")


def own_ids(pid: int) -> list[int]:
    """A process's ids, in this pid namespace first and in its own last."""
    return [int(word) for word in status(pid).get("NSpid", str(pid)).split()]


def own_uid(pid: int, uid: int) -> int:
    """What a uid, as this process sees it, is in the user namespace of another process; -1 for none.

    See user_namespaces(7): the map of a process in the same namespace says what its numbers are in the one above.
    """
    lines = _read(f"{_PROC}/{pid}/uid_map")
    if lines == _read(f"{_PROC}/self/uid_map"):
        return uid
    for first, seen, count in (map(int, line.split()) for line in lines.splitlines()):
        if seen <= uid < seen + count:
            return first + uid - seen
    return -1


def started_ns(pid: int) -> int:
    """When a process started, in nanoseconds since boot, rounded down to a clock tick."""
    return _start_ticks(pid) * (1_000_000_000 // posix.sysconf("SC_CLK_TCK"))


def _start_ticks(pid: int) -> int:
    return int(_read(f"{_PROC}/{pid}/stat").rpartition(b") ")[2].split()[_START_TIME])


def started(pid: int) -> int:
    """When a process started, in seconds since 1970, give or take one."""
    ticks = _start_ticks(pid)
    for line in _read(f"{_PROC}/stat").split(b"\n"):
        if line.startswith(b"btime "):
            return int(line[6:]) + ticks // posix.sysconf("SC_CLK_TCK")
    return 0


def descriptors(pid: int | str, most: int | None = None) -> dict[int, str]:
    """What the first descriptors of a process are, so many at the most (None: all). Needs the right to trace it."""
    found = {}
    for number in posix.listdir(f"{_PROC}/{pid}/fd")[:most]:
        try:
            found[int(number)] = posix.readlink(f"{_PROC}/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
    return found


def read_descriptor(pid: int, fd: int, max_size: int) -> bytes:
    """The first bytes of a memory file that another process holds open, wherever its file offset is.

    Raises OSError, also for any other kind of file: a name proves nothing, and opening a device may have effects.
    """
    # O_PATH does nothing to the file.
    place = posix.open(f"{_PROC}/{pid}/fd/{fd}", posix.O_PATH | posix.O_CLOEXEC)
    try:
        # The kernel knows the mount. Anything else of a file is asked of who serves it, who may be a user that gives no
        # answer (FUSE).
        if _mount(place) != _memory_mount():
            raise OSError(EINVAL, "not a file in memory")
        found = posix.fstat(place)
        if not S_ISREG(found.st_mode) or found.st_nlink:
            raise OSError(EINVAL, "not a file in memory")
        # O_NONBLOCK: the process may hold a lease on it, for which open(2) would wait (fcntl_locking(2)).
        file = posix.open(f"{_PROC}/self/fd/{place}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    finally:
        posix.close(place)
    try:
        return posix.pread(file, max_size, 0)
    finally:
        posix.close(file)


def executable(pid: int) -> str:
    """The program that a process runs, as a path. Needs the right to trace it."""
    return posix.readlink(f"{_PROC}/{pid}/exe")


def maps_file(pid: int, name: str) -> bool:
    """Whether a file of this name is in a process's memory (proc_pid_maps(5)). Needs the right to trace it."""
    ending = f"/{name}".encode()
    return any(line.endswith(ending) for line in _read(f"{_PROC}/{pid}/maps").split(b"\n"))


def socket_owners(inodes: set[int]) -> dict[int, int]:
    """A process that holds each of these sockets, for those that can be seen."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for pid in processes():
        try:
            numbers = posix.listdir(f"{_PROC}/{pid}/fd")
        except OSError:
            continue
        for number in numbers:
            try:
                inode = links.get(posix.readlink(f"{_PROC}/{pid}/fd/{number}"))
            except OSError:
                continue
            if inode is not None:
                found.setdefault(inode, pid)
        if len(found) == len(inodes):
            break
    return found


def _mount(fd: int) -> bytes:
    """The number of the mount that a descriptor of this process leads to (proc_pid_fdinfo(5), 3.15). Raises OSError."""
    for line in _read(f"{_PROC}/self/fdinfo/{fd}").split(b"\n"):
        if line.startswith(b"mnt_id:"):
            return line
    raise OSError(EINVAL, "its mount is not known")


def _memory_mount() -> bytes:
    """The mount that the kernel's files in memory have, and no others (memfd_create(2))."""
    file = posix.memfd_create("", posix.MFD_CLOEXEC)
    try:
        return _mount(file)
    finally:
        posix.close(file)


def _read(path: str, most: int | None = None) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall() if most is None else file.read(most)
