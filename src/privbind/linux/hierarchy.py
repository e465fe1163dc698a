# SPDX-License-Identifier: MIT
"""All of the control groups that can be seen here: how they are mounted, and walking through them."""

from __future__ import annotations

import posix

from .cgroup import mounts

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


def walk() -> Iterator[tuple[str, int]]:
    """All cgroups, each once: a path for messages, and an open directory, closed when the next one is asked for.

    A cgroup that goes away meanwhile is passed over. Raises CgroupError where none can be seen.
    """
    seen: set[tuple[int, int]] = set()
    for device, _, point in mounts("cgroup2"):
        try:
            if posix.stat(point).st_dev != device:
                continue  # something else is mounted over it
        except OSError:
            continue
        yield from _walk(point, seen)


def walk_below(fd: int) -> Iterator[tuple[str, int]]:
    """An open cgroup and all below it, as `walk` gives them; the paths are of no use to others."""
    return _walk(f"/proc/self/fd/{fd}", set())


def _walk(top: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    # A list, not recursion: others decide how deep cgroups are nested.
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            fd = posix.open(path, _DIRECTORY)
        except OSError:
            continue
        try:
            status = posix.fstat(fd)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            yield path, fd
            names = [entry.name for entry in posix.scandir(path) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        finally:
            posix.close(fd)
        waiting += [f"{path.rstrip('/')}/{name}" for name in sorted(names, reverse=True)]


def populated(fd: int) -> bool:
    """Whether a process is in a cgroup or below it. Raises OSError."""
    file = posix.open("cgroup.events", posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=fd)
    try:
        return b"populated 1" in posix.read(file, 4096)
    finally:
        posix.close(file)


def members(fd: int) -> list[int]:
    """The processes in a cgroup, by their ids in this pid namespace. Raises OSError."""
    file = posix.open("cgroup.procs", posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=fd)
    with open(file, "rb", buffering=0) as reader:
        return [int(word) for word in reader.readall().split() if word != b"0"]
