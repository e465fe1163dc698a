# SPDX-License-Identifier: MIT
"""The launch's own cgroup: a directory ``privbind.PID.N`` below the launcher's cgroup, entered as soon as it is made.

Whoever owns the cgroup above (it may be delegated) can remove an empty one and make another of the same name. So what
was made is checked to be ours once it is open, and a removed one is made again. Once this process is in it, the kernel
lets nobody remove it. Empty cgroups of ended launches are removed at later launches: the owner of each and the exact
form of its name are looked at, and one that is just being made is left alone.
"""

from __future__ import annotations

import posix
from _stat import S_IMODE
from errno import EACCES, EAGAIN, EBUSY, EEXIST, ENODEV, ENOENT, EPERM, EROFS
from time import time

from ...errors import strerror
from ...linux.cgroup import Cgroup, CgroupError

_PREFIX = "privbind."
_MADE = 0o700  # until the launch is in it
_ENTERED = 0o755  # others may look into it
_WRITABLE_BY_OTHERS = 0o022
_READABLE_BY_ALL = 0o005

_MAX_TRIES = 1000  # names tried for one launch
_MAX_LOOKS = 16  # cgroups of other launches that one launch looks at
_MAKING_S = 60  # far more than a launch needs from making its cgroup to being in it
_ST_RDONLY = 1  # bits/statvfs.h


def is_name(name: str) -> bool:
    """Whether a directory's name is that of a launch's cgroup, exactly."""
    words = name.removeprefix(_PREFIX).split(".")
    return name.startswith(_PREFIX) and len(words) == 2 and all(word.isascii() and word.isdigit() for word in words)


def pid_of(name: str) -> int:
    """The process that a launch's cgroup was made for, by its id in its own pid namespace."""
    return int(name.split(".")[1])


def check_usable(parent: Cgroup) -> None:
    """Raise CgroupError where it can be seen beforehand that no child of this cgroup could be used."""
    kind = parent.read("cgroup.type")  # the root has none
    if kind not in ("", "domain"):
        raise CgroupError(
            f"this process's cgroup '{parent.path}' is {kind}, so no process could be in a new cgroup below it",
            "start privbind from a cgroup of type 'domain'",
        )
    if is_read_only(parent):
        raise _read_only(parent)
    if not posix.access(".", posix.W_OK, dir_fd=parent.fd, effective_ids=True):
        raise _forbidden(parent)
    if parent.read("cgroup.max.depth") == "0" or parent.read("cgroup.max.descendants") == "0":
        raise _full(parent)


def is_read_only(cgroup: Cgroup) -> bool:
    """Whether it is seen through a read-only mount."""
    return bool(posix.statvfs(cgroup.fd).f_flag & _ST_RDONLY)


def enter_new(parent: Cgroup) -> tuple[str, Cgroup]:
    """Make a cgroup for this launch and move this process into it; its name, and the cgroup. Raises CgroupError."""
    for number in range(_MAX_TRIES):
        name = f"{_PREFIX}{posix.getpid()}.{number}"
        try:
            posix.mkdir(name, _MADE, dir_fd=parent.fd)
        except OSError as error:
            if error.errno == EEXIST:
                continue
            raise _mkdir_failed(parent, error) from error
        made = _open_ours(parent, name)
        if made is None:
            continue
        try:
            made.enter()
            posix.fchmod(made.fd, _ENTERED)
        except OSError as error:
            made.close()
            if error.errno in (ENOENT, ENODEV):
                continue  # it has been removed
            _remove_if_empty(parent, name)
            raise CgroupError(f"cannot enter cgroup '{made.path}': {strerror(error)}") from error
        return name, made
    raise CgroupError(
        f"no cgroup below '{parent.path}' could be made and entered: its name was taken, or it was removed, "
        f"{_MAX_TRIES} times",
        f"remove empty {_PREFIX}* cgroups there, and look who owns that cgroup",
    )


def leave(parent: Cgroup, name: str) -> None:
    """Move this process back and remove its cgroup, as far as that can be done."""
    try:
        parent.enter()
        posix.rmdir(name, dir_fd=parent.fd)
    except OSError:
        pass  # without privileges by now: this process is about to end, and a later launch removes the cgroup


def sweep(parent_fd: int) -> int:
    """Remove empty cgroups of ended launches below this one; how many they were.

    A bounded number is looked at, from a place in the list that differs from launch to launch.
    """
    return _sweep(parent_fd, [_MAX_LOOKS])


def _sweep(parent_fd: int, looks: list[int]) -> int:
    names = [name for name in posix.listdir(parent_fd) if is_name(name)]
    first = posix.getpid() % (len(names) or 1)
    removed = 0
    for name in names[first:] + names[:first]:
        if looks[0] == 0:
            break
        looks[0] -= 1
        try:
            status = posix.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            making = not status.st_mode & _READABLE_BY_ALL and time() - status.st_ctime < _MAKING_S
            if status.st_uid != posix.geteuid() or making:
                continue
            removed += _remove(parent_fd, name, looks)
        except OSError:
            continue
    return removed


def _remove(parent_fd: int, name: str, looks: list[int]) -> int:
    """Remove a cgroup that is empty but for other such ones inside. Raises OSError where it is in use."""
    removed = 0
    try:
        posix.rmdir(name, dir_fd=parent_fd)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        # An ended launch may have had other launches inside, whose cgroups keep it busy.
        fd = posix.open(name, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=parent_fd)
        with Cgroup(name, fd, 0, False) as busy:
            if "populated 0" not in busy.read("cgroup.events"):
                raise
            removed = _sweep(busy.fd, looks)
        posix.rmdir(name, dir_fd=parent_fd)
    return removed + 1


def _open_ours(parent: Cgroup, name: str) -> Cgroup | None:
    """Open what was made; None when it is not there any more, or is another's by now."""
    try:
        fd = posix.open(name, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=parent.fd)
    except OSError:
        return None
    status = posix.fstat(fd)
    made = Cgroup(f"{parent.path.rstrip('/')}/{name}", fd, parent.depth + 1, parent.exact)
    if status.st_uid == posix.geteuid() and not S_IMODE(status.st_mode) & _WRITABLE_BY_OTHERS:
        return made
    made.close()
    return None


def _remove_if_empty(parent: Cgroup, name: str) -> None:
    try:
        posix.rmdir(name, dir_fd=parent.fd)
    except OSError:
        pass


def _mkdir_failed(parent: Cgroup, error: OSError) -> CgroupError:
    if error.errno == EROFS:
        return _read_only(parent)
    if error.errno in (EACCES, EPERM):
        return _forbidden(parent)
    if error.errno == EAGAIN:
        return _full(parent)
    if error.errno == ENOENT:
        return CgroupError(f"this process's cgroup '{parent.path}' has been removed")
    return CgroupError(f"cannot make a cgroup below '{parent.path}': {strerror(error)}")


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
