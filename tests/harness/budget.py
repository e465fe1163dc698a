"""How much is tried: what fits into seconds, or with PRIVBIND_TEST_LONG set as much as makes sense.

PRIVBIND_FUZZ_EXAMPLES says otherwise how many examples a fuzz target gets.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("PRIVBIND_TEST_LONG", "") not in ("", "0")
"""Whether a test may take minutes."""


def rounds(usual: int, long: int) -> int:
    """How often something is tried that goes wrong by chance: the second with PRIVBIND_TEST_LONG=1 (make test-all)."""
    return long if LONG else usual


EXAMPLES = int(os.environ.get("PRIVBIND_FUZZ_EXAMPLES") or rounds(1000, 100000))

fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
