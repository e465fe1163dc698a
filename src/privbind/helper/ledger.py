# SPDX-License-Identifier: MIT
"""A helper's ledger: its grant's record and counters, where root can read them while the helper lives.

It is a file in memory that the helper holds open and writes to by mapping it, which takes no system call; root opens
it through /proc/PID/fd. The counters come first, then the text of the record.
"""

from __future__ import annotations

import posix

from ..errors import strerror
from ..grant import counters, record
from ..linux.memory import make_file, map_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableSequence


class Ledger:
    """What one helper publishes. ``counters`` are in the order of `grant.counters`.

    If it cannot be put where root reads it, the grant still holds, and ``notes`` says why it is not listed.
    """

    def __init__(self, text: bytes) -> None:
        """``text`` is the record."""
        self._fd = -1
        self.notes: tuple[str, ...] = ()
        self.counters: MutableSequence[int] = [0, 0, 0]
        try:
            self._fd = make_file(record.NAME, counters.LAYOUT.size + len(text))
            posix.pwrite(self._fd, text, counters.LAYOUT.size)
            self.counters = map_numbers(self._fd, len(self.counters))
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


def parse(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """The counters and the record's text. Raises ValueError."""
    if len(data) < counters.LAYOUT.size:
        raise ValueError("not a helper's ledger")
    return counters.LAYOUT.unpack_from(data), data[counters.LAYOUT.size :]
