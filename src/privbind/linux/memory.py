# SPDX-License-Identifier: MIT
"""Files that are only in memory (memfd_create(2), 3.17). Constants from linux/memfd.h."""

from __future__ import annotations

import posix
from errno import EINVAL
from fcntl import F_DUPFD_CLOEXEC, fcntl

from .call import numbers_at, syscall
from .sockets import FIRST_FREE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableSequence

_CLOEXEC = 1
_NOEXEC_SEAL = 8  # 6.3; where vm.memfd_noexec is 2, no other file is made

_PROT_READ = 1  # asm-generic/mman-common.h
_PROT_WRITE = 2
_MAP_SHARED = 1  # linux/mman.h

_LINK = "/memfd:{} (deleted)"


def make_file(name: str, size: int) -> int:
    """A file of this many zero bytes; its descriptor is close-on-exec and no standard one. Raises OSError."""
    try:
        fd = posix.memfd_create(name, _CLOEXEC | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        fd = posix.memfd_create(name, _CLOEXEC)
    if fd < FIRST_FREE:
        low, fd = fd, int(fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FREE))
        posix.close(low)
    try:
        posix.ftruncate(fd, size)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def map_numbers(fd: int, count: int) -> MutableSequence[int]:
    """The first ``count`` 64-bit numbers of a file, mapped and shared for as long as this process lives.

    Done by the system call itself: the mmap module would have to be loaded. Raises OSError.
    """
    address = syscall("mmap", 0, 8 * count, _PROT_READ | _PROT_WRITE, _MAP_SHARED, fd, 0)
    return numbers_at(address, count)


def link_of(name: str) -> str:
    """What /proc/PID/fd says that a file of this name is."""
    return _LINK.format(name)
