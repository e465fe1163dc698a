"""How slow this machine is: PRIVBIND_TEST_PATIENCE says by how much time limits are longer than on an ordinary one."""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("PRIVBIND_TEST_PATIENCE", "1"))


def period_us(usual: int) -> str:
    """The period of a timer. Where less than a bind fits into it nothing but the timer's handler would ever run.

    A bind that another process does is slower still than the machine is: the two take turns with all others.
    """
    return str(round(usual * PATIENCE**2))


def fewer(usual: int) -> int:
    """How often something is tried of which an ordinary machine does thousands in a second."""
    return max(1, round(usual / PATIENCE))
