# SPDX-License-Identifier: MIT
"""Control groups, version 2: the one that this process is in, and a child of it for one launch.

A launch's cgroup is a directory ``privbind.PID.N`` below the launcher's own. While a launch prepares it, it holds a
lock (flock(2)) on the directory, which nobody else can open then, and `sweep` removes only what it can lock: so empty
cgroups of ended launches go at the next start, and never one that is about to be used. Once a process is in it, it is
open to all, and no lock counts any more: the kernel removes none that is in use. An error is a `CgroupError` with its
reason in one line.
"""

from __future__ import annotations

import posix
from _stat import S_IMODE
from _struct import pack, unpack_from
from errno import EACCES, EAGAIN, EBUSY, EEXIST, ENOENT, EPERM, EROFS
from fcntl import LOCK_EX, LOCK_NB, flock, ioctl

from .call import machine, syscall

PREFIX = "privbind."

_MEMBERSHIP = "/proc/self/cgroup"
_MOUNTS = "/proc/self/mountinfo"
_NAMESPACE = "/proc/self/ns/cgroup"
_FIRST_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO, linux/proc_ns.h
_ST_RDONLY = 1  # bits/statvfs.h

_PIDFD_GET_INFO = 0xC040FF0B  # linux/pidfd.h, 6.13: _IOWR(0xff, 11, 64 bytes)
_PIDFD_INFO_SIZE = 64  # PIDFD_INFO_SIZE_VER0
_PIDFD_INFO_CGROUPID = 1 << 2
_INFO_CGROUP_ID = 8  # offset in struct pidfd_info

_OPEN_BY_HANDLE_AT = {"x86_64": 304, "aarch64": 265}  # 2.6.39
_FILEID_KERNFS = 0xFE  # linux/exportfs.h, 5.6: the handle is the cgroup's id

_PREPARING = 0o700  # a launch's cgroup until a process is in it
_ENTERED = 0o755

_MAX_NAMES = 1000  # names tried for one launch, and looked at in one sweep
_MAX_LEVELS = 8  # of launches inside launches that a sweep goes down


class CgroupError(Exception):
    """The cgroups of this host cannot serve a launch: ``reason`` why, ``remedy`` what would change that."""

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

    def close(self) -> None:
        """Let the directory go, and with it the lock; more than once does no harm."""
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

    def open_to_all(self) -> None:
        """Say that a process has been in this launch's cgroup, and let others look into it. Raises OSError."""
        posix.fchmod(self.fd, _ENTERED)


def own() -> Cgroup:
    """The cgroup of this process. Raises CgroupError where it cannot be found or used."""
    path = _own_path()
    mounted = mounts("cgroup2")
    if not mounted:
        raise CgroupError("cgroup v2 is not mounted", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    identity = _own_identity()
    for device, root, point in mounted:
        relative = _below(root, path)
        if relative is None:
            continue
        found = _open_mounted(point + relative, device, identity)
        if found >= 0:
            depth, exact = _depth(path)
            return Cgroup(path, found, depth, exact)
    # The path that /proc tells does not lead there: a cgroup namespace with the host's mount, a mount of another part.
    if identity:
        for device, _, point in mounted:
            found = _open_identity(point, device, identity)
            if found >= 0:
                return Cgroup(path, found, _depth(path)[0], False)
    raise CgroupError(
        f"the own cgroup '{path}' is not below any cgroup v2 mount that can be seen here",
        "mount cgroup2 inside this cgroup namespace",
    )


def check_usable(cgroup: Cgroup) -> None:
    """Raise CgroupError where it can be seen beforehand that no child of this cgroup could be used."""
    kind = cgroup.read("cgroup.type")  # the root has none
    if kind not in ("", "domain"):
        raise CgroupError(
            f"the own cgroup '{cgroup.path}' is {kind}, so no process could be in a new cgroup below it",
            "start privbind from a cgroup of type 'domain'",
        )
    if posix.statvfs(cgroup.fd).f_flag & _ST_RDONLY:
        raise _read_only(cgroup)
    if not posix.access(".", posix.W_OK, dir_fd=cgroup.fd, effective_ids=True):
        raise _forbidden(cgroup)
    if cgroup.read("cgroup.max.depth") == "0" or cgroup.read("cgroup.max.descendants") == "0":
        raise _full(cgroup)


def make_child(parent: Cgroup) -> tuple[str, Cgroup]:
    """Make a cgroup for this launch and lock it; its name and the cgroup. Raises CgroupError."""
    for number in range(_MAX_NAMES):
        name = f"{PREFIX}{posix.getpid()}.{number}"
        try:
            # Closed to others, since whoever can open it can lock it.
            posix.mkdir(name, _PREPARING, dir_fd=parent.fd)
        except OSError as error:
            if error.errno == EEXIST:
                continue
            raise _mkdir_failed(parent, error) from error
        fd = _lock(name, parent.fd)
        if fd >= 0:
            path = f"{parent.path.rstrip('/')}/{name}"
            return name, Cgroup(path, fd, parent.depth + 1, parent.exact)
    raise CgroupError(f"no name is free for a cgroup below '{parent.path}'", f"remove empty {PREFIX}* cgroups there")


def remove(parent_fd: int, name: str) -> None:
    """Remove an empty cgroup. Raises OSError (EBUSY) while a process or another cgroup is in it."""
    posix.rmdir(name, dir_fd=parent_fd)


def sweep(parent_fd: int, levels: int = _MAX_LEVELS) -> int:
    """Remove the empty cgroups of ended launches below this one; how many they were.

    Whoever prepares a launch holds a lock on its cgroup; one with a process in it is busy. What cannot be
    removed stays for the next time, and so does what is too much for one launch to look at.
    """
    if levels == 0:
        return 0
    removed = 0
    for name in [name for name in posix.listdir(parent_fd) if name.startswith(PREFIX)][:_MAX_NAMES]:
        fd = _lock(name, parent_fd)
        if fd < 0:
            continue
        try:
            try:
                posix.rmdir(name, dir_fd=parent_fd)
            except OSError as error:
                # An ended launch may have had other launches inside, whose cgroups keep it busy.
                if error.errno != EBUSY or "populated 0" not in _read_at("cgroup.events", fd):
                    continue
                removed += sweep(fd, levels - 1)
                posix.rmdir(name, dir_fd=parent_fd)
            removed += 1
        except OSError:
            continue
        finally:
            posix.close(fd)
    return removed


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


def _own_path() -> str:
    try:
        lines = _read(_MEMBERSHIP).splitlines()
    except OSError as error:
        raise CgroupError(f"cannot read {_MEMBERSHIP}: {error.strerror}", "mount /proc") from error
    for line in lines:
        if line.startswith("0::"):  # hierarchy 0 is version 2's, on unified and on hybrid hosts
            return line[3:]
    raise CgroupError("the kernel has no cgroup v2", "CONFIG_CGROUPS, Linux 4.5")


def mounts(kind: str) -> list[tuple[int, str, str]]:
    """The mounts of cgroup file systems, "cgroup" or "cgroup2": device number, the part that is mounted, and where.

    Raises CgroupError where they cannot be seen.
    """
    try:
        lines = _read(_MOUNTS).splitlines()
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


def _open_mounted(path: str, device: int, identity: int) -> int:
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
    mount_fd = _open_mounted(point, device, 0)
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


def _lock(name: str, parent_fd: int) -> int:
    """Open a cgroup below another one, and lock it unless it has been entered already.

    -1 when another process holds the lock or has removed it.
    """
    try:
        fd = posix.open(name, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=parent_fd)
    except OSError:
        return -1
    try:
        if S_IMODE(posix.fstat(fd).st_mode) == _PREPARING:
            flock(fd, LOCK_EX | LOCK_NB)
        # The one who held the lock may just have removed what we opened.
        if posix.stat(name, dir_fd=parent_fd).st_ino == posix.fstat(fd).st_ino:
            return fd
    except OSError:
        pass
    posix.close(fd)
    return -1


def _mkdir_failed(parent: Cgroup, error: OSError) -> CgroupError:
    if error.errno == EROFS:
        return _read_only(parent)
    if error.errno in (EACCES, EPERM):
        return _forbidden(parent)
    if error.errno == EAGAIN:
        return _full(parent)
    if error.errno == ENOENT:
        return CgroupError(f"the own cgroup '{parent.path}' has been removed")
    return CgroupError(f"cannot make a cgroup below '{parent.path}': {error.strerror}")


def _read_only(parent: Cgroup) -> CgroupError:
    return CgroupError(
        f"cgroup v2 is mounted read-only, so no cgroup can be made below '{parent.path}'", "mount it read-write"
    )


def _forbidden(parent: Cgroup) -> CgroupError:
    return CgroupError(
        f"this user may not make a cgroup below '{parent.path}'", "run as root, or have that cgroup delegated"
    )


def _full(parent: Cgroup) -> CgroupError:
    return CgroupError(
        f"no further cgroup may be made below '{parent.path}'",
        "raise cgroup.max.depth or cgroup.max.descendants there or above",
    )


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode("utf-8", "surrogateescape")


def _read_at(name: str, dir_fd: int) -> str:
    fd = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return posix.read(fd, 4096).decode("ascii", "replace")
    finally:
        posix.close(fd)
