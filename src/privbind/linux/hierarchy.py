# SPDX-License-Identifier: MIT
"""All of the control groups that can be seen here: how they are mounted, and those of launches among them."""

from __future__ import annotations

import posix

from .cgroup import PREFIX, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC


def layout() -> str:
    """How cgroups are mounted: "unified" (version 2 alone), "hybrid", "legacy" (version 1 alone) or "none".

    Raises CgroupError where that cannot be seen.
    """
    old, new = mounts("cgroup"), mounts("cgroup2")
    if new:
        return "hybrid" if old else "unified"
    return "legacy" if old else "none"


def launches() -> Iterator[tuple[str, int]]:
    """The cgroups of launches that have a process in them: a path for messages, and an open directory.

    The directory is closed when the next one is asked for. Raises CgroupError where no cgroups can be seen.
    """
    seen: set[tuple[int, int]] = set()
    for device, _, point in mounts("cgroup2"):
        try:
            if posix.stat(point).st_dev != device:
                continue  # something else is mounted over it
        except OSError:
            continue
        yield from _below(point, seen)


def members(fd: int) -> list[int]:
    """The processes in a cgroup, by their ids in this pid namespace. Raises OSError."""
    file = posix.open("cgroup.procs", posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=fd)
    with open(file, "rb", buffering=0) as reader:
        return [int(word) for word in reader.readall().split() if word != b"0"]


def _below(path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    try:
        fd = posix.open(path, _DIRECTORY)
    except OSError:
        return
    try:
        status = posix.fstat(fd)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        if path.rpartition("/")[2].startswith(PREFIX) and _populated(fd):
            yield path, fd
        names = [entry.name for entry in posix.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    finally:
        posix.close(fd)
    for name in sorted(names):
        yield from _below(f"{path.rstrip('/')}/{name}", seen)


def _populated(fd: int) -> bool:
    file = posix.open("cgroup.events", posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=fd)
    try:
        return b"populated 1" in posix.read(file, 4096)
    finally:
        posix.close(file)
