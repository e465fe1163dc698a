"""How much is tried: what fits into seconds, or with PRIVBIND_TEST_LONG set as much as makes sense."""

from __future__ import annotations

import os

LONG = os.environ.get("PRIVBIND_TEST_LONG", "") not in ("", "0")
"""Whether a test may take minutes."""


def rounds(usual: int, long: int) -> int:
    """How often something is tried that goes wrong by chance: the second with PRIVBIND_TEST_LONG=1 (make test-all)."""
    return long if LONG else usual
