# SPDX-License-Identifier: MIT
"""Control groups, version 2: finding one, and asking what it is. Errors are `CgroupError` with the reason in a line."""

from __future__ import annotations

import posix
from _struct import pack, unpack_from
from fcntl import ioctl

from .call import machine, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_MEMBERSHIP = "/proc/{}/cgroup"
_MOUNTS = "/proc/self/mountinfo"
_NAMESPACE = "/proc/self/ns/cgroup"
_FIRST_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO, linux/proc_ns.h

_PIDFD_GET_INFO = 0xC040FF0B  # linux/pidfd.h, 6.13: _IOWR(0xff, 11, 64 bytes)
_PIDFD_INFO_SIZE = 64  # PIDFD_INFO_SIZE_VER0
_PIDFD_INFO_CGROUPID = 1 << 2
_INFO_CGROUP_ID = 8  # offset in struct pidfd_info

_OPEN_BY_HANDLE_AT = {"x86_64": 304, "aarch64": 265}  # 2.6.39
_FILEID_KERNFS = 0xFE  # linux/exportfs.h, 5.6: the handle is the cgroup's id


class CgroupError(Exception):
    """The cgroups of this host cannot be used: ``reason`` why, ``remedy`` what would change that."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        """Keep the two apart."""
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Cgroup:
    """A cgroup, held open. ``path`` is for messages, ``fd`` its directory, ``identity`` what the kernel calls it.

    ``depth`` counts the cgroups above it. It is exact in the first cgroup namespace (``exact``); elsewhere there may
    be more above than can be seen.
    """

    def __init__(self, path: str, fd: int, depth: int, exact: bool) -> None:
        """Take over ``fd``."""
        self.path = path
        self.fd = fd
        self.depth = depth
        self.exact = exact
        self.identity = posix.fstat(fd).st_ino

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the directory go; more than once does no harm."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            posix.close(fd)

    def read(self, name: str) -> str:
        """One of the cgroup's files, without the white space around; empty where it has no such file."""
        try:
            return _read_at(name, self.fd).strip()
        except FileNotFoundError:
            return ""

    def enter(self) -> None:
        """Move this process into the cgroup. Raises OSError.

        The kernel waits for an RCU grace period here: milliseconds in which nothing is computed.
        """
        fd = posix.open("cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=self.fd)
        try:
            # Not through a file object: one that is dropped loses the error.
            posix.write(fd, b"0")
        finally:
            posix.close(fd)


def own() -> Cgroup:
    """The cgroup of this process. Raises CgroupError where it cannot be found or used."""
    path = path_of("self")
    mounted = mounts_of_v2()
    identity = _own_identity()
    for device, root, point in mounted:
        relative = _below(root, path)
        if relative is None:
            continue
        found = open_mounted(point + relative, device, identity)
        if found >= 0:
            depth, exact = _depth(path)
            return Cgroup(path, found, depth, exact)
    # The path in /proc does not lead to the cgroup: a cgroup namespace that has the host's mount, or a mount of another
    # part of the tree.
    if identity:
        for device, _, point in mounted:
            found = _open_identity(point, device, identity)
            if found >= 0:
                return Cgroup(path, found, _depth(path)[0], False)
    raise CgroupError(
        f"this process's cgroup '{path}' is not below any cgroup v2 mount that can be seen here",
        "mount cgroup2 inside this cgroup namespace",
    )


def open_path(path: str) -> Cgroup:
    """A cgroup by its directory in a cgroup2 mount, or by its path in the hierarchy. Raises CgroupError."""
    if "/.." in path or not path.startswith("/"):
        raise CgroupError("it is not named by a full path", "without '..'")
    mounted = mounts_of_v2()
    by_directory = [(device, point, root.rstrip("/"), _below(point, path)) for device, root, point in mounted]
    by_path = [(device, point, root.rstrip("/"), _below(root, path)) for device, root, point in mounted]
    for device, point, root, relative in by_directory + by_path:
        found = -1 if relative is None else open_mounted(point + relative, device, 0)
        if relative is not None and found >= 0:
            inside = root + relative or "/"
            depth, exact = _depth(inside)
            return Cgroup(inside, found, depth, exact)
    raise CgroupError("there is no such cgroup")


def by_identity(identity: int) -> Cgroup:
    """A cgroup by its id, which is never given to another. Needs CAP_DAC_READ_SEARCH. Raises CgroupError."""
    for device, root, point in mounts_of_v2():
        found = _open_identity(point, device, identity)
        if found >= 0:
            try:
                path = posix.readlink(f"/proc/self/fd/{found}")
            except OSError:
                path = point
            inside = root.rstrip("/") + (_below(point, path) or "")
            return Cgroup(inside or "/", found, *_depth(inside))
    raise CgroupError("there is no such cgroup")


def ancestors(fd: int) -> list[int]:
    """Descriptors of the cgroups above this one that can be seen, the nearest first; the caller closes them."""
    found: list[int] = []
    try:
        here = posix.fstat(fd)
        while True:
            fd = posix.open("..", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=fd)
            there = posix.fstat(fd)
            if there.st_dev != here.st_dev or there.st_ino == here.st_ino:
                posix.close(fd)
                return found
            found.append(fd)
            here = there
    except OSError:  # the top of a mount of a part of the tree, or beyond it
        return found


def path_of(pid: int | str) -> str:
    """The path in the hierarchy of a process's cgroup ("self": this one's). Raises CgroupError."""
    membership = _MEMBERSHIP.format(pid)
    try:
        lines = _read(membership).split("\n")
    except OSError as error:
        raise CgroupError(f"cannot read {membership}: {error.strerror}", "mount /proc") from error
    for line in lines:
        if line.startswith("0::"):  # hierarchy 0 is version 2's, on unified and on hybrid hosts
            return line[3:]
    # The kernel leaves it out until cgroup v2 is mounted for the first time, so on hosts that have version 1 alone.
    raise _not_mounted()


def mounts(kind: str) -> list[tuple[int, str, str]]:
    """The mounts of cgroup file systems, "cgroup" or "cgroup2": device number, the part that is mounted, and where.

    Raises CgroupError where they cannot be seen.
    """
    try:
        lines = _read(_MOUNTS).split("\n")
    except OSError as error:
        raise CgroupError(f"cannot read {_MOUNTS}: {error.strerror}", "mount /proc") from error
    found = []
    for line in lines:
        # 38 31 0:41 / /sys/fs/cgroup/unified rw,relatime [tags] - cgroup2 cgroup2 rw (proc_pid_mountinfo(5))
        head, dash, tail = line.partition(" - ")
        if dash and tail.startswith(f"{kind} "):
            _, _, device, root, point, _ = head.split(" ", 5)
            major, _, minor = device.partition(":")
            found.append((posix.makedev(int(major), int(minor)), _unescaped(root), _unescaped(point)))
    return found


def mounts_of_v2() -> list[tuple[int, str, str]]:
    """The mounts of version 2, of which there is one at least. Raises CgroupError."""
    found = mounts("cgroup2")
    if not found:
        raise _not_mounted()
    return found


def _not_mounted() -> CgroupError:
    return CgroupError("cgroup v2 is not mounted", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def _unescaped(text: str) -> str:
    """A path as mountinfo writes it: a backslash and three octal digits for what separates fields."""
    first, *others = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in others)


def _below(root: str, path: str) -> str | None:
    """The part of ``path`` below ``root``, None when it is not below. Both start with a slash."""
    if "/.." in root or "/.." in path:  # outside of this cgroup namespace: names are missing
        return None
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :]
    return None


def _depth(path: str) -> tuple[int, bool]:
    """How many cgroups are above, as far as the path tells, and whether that is all of them."""
    names = [name for name in path.split("/") if name not in ("", "..")]
    try:
        exact = posix.stat(_NAMESPACE).st_ino == _FIRST_NAMESPACE
    except OSError:
        exact = False
    return len(names), exact


def _own_identity() -> int:
    """The id of this process's cgroup, 0 before Linux 6.13."""
    fd = posix.pidfd_open(posix.getpid())
    try:
        info = bytearray(pack("=Q", _PIDFD_INFO_CGROUPID)).ljust(_PIDFD_INFO_SIZE, b"\0")
        ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError:
        return 0
    finally:
        posix.close(fd)
    mask, identity = unpack_from("=QQ", info)
    return int(identity) if mask & _PIDFD_INFO_CGROUPID else 0


def open_mounted(path: str, device: int, identity: int) -> int:
    """The directory of a cgroup, -1 unless it is on that file system and (where known) is that cgroup."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return -1
    status = posix.fstat(fd)
    if status.st_dev == device and identity in (0, status.st_ino):
        return fd
    posix.close(fd)  # something else is mounted over it
    return -1


def _open_identity(point: str, device: int, identity: int) -> int:
    """The directory of a cgroup that no path leads to; -1 where that cannot be done."""
    mount_fd = open_mounted(point, device, 0)
    if mount_fd < 0:
        return -1
    try:
        handle = bytearray(pack("=IiQ", 8, _FILEID_KERNFS, identity))  # struct file_handle
        flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
        return syscall(_OPEN_BY_HANDLE_AT[machine()], mount_fd, handle, flags)
    except OSError:
        return -1
    finally:
        posix.close(mount_fd)


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode("utf-8", "surrogateescape")


def _read_at(name: str, dir_fd: int) -> str:
    fd = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return posix.read(fd, 4096).decode("ascii", "replace")
    finally:
        posix.close(fd)
