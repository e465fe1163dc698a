# SPDX-License-Identifier: MIT
"""What is counted of a grant, and how the counters lie in memory: in the helper's ledger and in bpf's map alike."""

from __future__ import annotations

from _struct import Struct

GRANTED, REFUSED, BOUND = range(3)
"""The counters by index: reserved binds that the grant covers, those that it does not, how many of the first succeeded.

Under bpf the last one is counted only where there is a limit.
"""

LAYOUT = Struct("=3Q")


def offset(counter: int) -> int:
    """Where a counter begins, in bytes."""
    return counter * (LAYOUT.size // 3)
