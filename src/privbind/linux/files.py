# SPDX-License-Identifier: MIT
"""Writing to the last byte: write(2) may take less than it is given."""

from __future__ import annotations

import posix


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[posix.write(fd, left) :]
