# SPDX-License-Identifier: MIT
"""BPF ring buffers (5.8), read by mapping them. Layout from kernel/bpf/ringbuf.c and linux/bpf.h.

A reader that looks at regular times needs no wake-up, so a program that writes with `NO_WAKEUP` saves that cost. When
the ring is full, a program cannot write: what is in it already stays.
"""

from __future__ import annotations

import posix
from _struct import Struct
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap

from . import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

NO_WAKEUP = 1  # BPF_RB_NO_WAKEUP, 5.8
HEADER = 8  # BPF_RINGBUF_HDR_SZ

_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: it is being written
_DISCARD = 1 << 30  # BPF_RINGBUF_DISCARD_BIT
_PAGE = posix.sysconf("SC_PAGESIZE")
_GIVEN_BACK = 1 << 15  # bytes
_POSITION = Struct("=Q")
_LENGTH = Struct("=I")


class Ring:
    """A ring buffer of our own, and how far it has been read."""

    def __init__(self, name: str, size: int) -> None:
        """``size`` is in bytes: a power of 2, and whole pages. Raises OSError (EINVAL before Linux 5.8)."""
        self._size = size
        self.fd = bpf.create_ring(name, size)
        try:
            # Its first page is the reader's; then come the writers' position, and the data, twice, so that no record is
            # ever in two parts.
            self._consumed = mmap(self.fd, _PAGE, MAP_SHARED, PROT_READ | PROT_WRITE, offset=0)
            self._data = mmap(self.fd, _PAGE + 2 * size, MAP_SHARED, PROT_READ, offset=_PAGE)
        except BaseException:
            posix.close(self.fd)
            raise
        self._place = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the memory and the map go."""
        self._consumed.close()
        self._data.close()
        posix.close(self.fd)

    def ready(self) -> int:
        """Up to where records are complete.

        After this, and before `records`, the caller makes a system call: it orders the reads of the two on machines
        that would do them in another order.
        """
        end = int(_POSITION.unpack_from(self._data, 0)[0])
        place = self._place
        while place < end:
            (length,) = _LENGTH.unpack_from(self._data, _PAGE + place % self._size)
            if length & _BUSY:
                break
            place += _step(length)
        return place

    def records(self, end: int) -> Iterator[bytes]:
        """The records up to there, in the order of their writing; their room is given back bit by bit."""
        given_back = self._place
        while self._place < end:
            start = _PAGE + self._place % self._size
            (length,) = _LENGTH.unpack_from(self._data, start)
            self._place += _step(length)
            if not length & _DISCARD:
                yield self._data[start + HEADER : start + HEADER + length]
            if self._place - given_back >= _GIVEN_BACK or self._place == end:
                _POSITION.pack_into(self._consumed, 0, self._place)
                given_back = self._place


def _step(length: int) -> int:
    """How far the next record is: lengths are rounded up to 8 bytes."""
    return (HEADER + (length & ~(_BUSY | _DISCARD)) + 7) & ~7
