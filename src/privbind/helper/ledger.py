# SPDX-License-Identifier: MIT
"""A helper's ledger: its grant's record and counters, where root can read them while the helper lives.

It is a file in memory that the helper holds open and writes to by mapping it, which takes no system call; root opens
it through /proc/PID/fd. The counters come first, then the text of the record.
"""

from __future__ import annotations

import posix
from _struct import Struct
from time import time

from .. import __version__, record
from ..errors import strerror
from ..linux.memory import make_file, map_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from ..request import Request

GRANTED, REFUSED, BOUND = range(3)
"""The counters: binds that the grant covers, reserved ones that it does not, and those of the first that succeeded."""

COUNTERS = Struct("=3Q")


class Ledger:
    """What one helper publishes. ``counts`` are its counters.

    Where it cannot be put where root reads it, the grant holds all the same, and ``notes`` says why it is not listed.
    """

    def __init__(self, text: bytes) -> None:
        """``text`` is the record."""
        self._fd = -1
        self.notes: tuple[str, ...] = ()
        self.counts: MutableSequence[int] = [0, 0, 0]
        try:
            self._fd = make_file(record.NAME, COUNTERS.size + len(text))
            posix.pwrite(self._fd, text, COUNTERS.size)
            self.counts = map_numbers(self._fd, len(self.counts))
        except OSError as error:
            self.close()
            self.notes = (f"privbindctl cannot list this grant: no file in memory for it: {strerror(error)}",)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the helper holds open for it."""
        return () if self._fd < 0 else (self._fd,)

    def close(self) -> None:
        """Let go of the descriptor, which the helper has as well; more than once does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            posix.close(fd)


def open_ledger(request: Request, mechanism: str) -> Ledger:
    """The ledger of a launch that this process does."""
    return Ledger(record.encode(record.describe(request, mechanism, __version__, posix.getpid(), int(time()))))


def parse(data: bytes) -> tuple[tuple[int, int, int], bytes]:
    """The counters and the record's text. Raises ValueError."""
    if len(data) < COUNTERS.size:
        raise ValueError("not a helper's ledger")
    granted, refused, bound = COUNTERS.unpack_from(data)
    return (granted, refused, bound), data[COUNTERS.size :]
