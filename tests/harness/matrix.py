"""What the test of servers × mechanisms saw, printed at the end of a run."""

from __future__ import annotations

MATRIX: dict[str, dict[str, str]] = {}
"""By server, then by mechanism: "pass", or why it is not possible."""
