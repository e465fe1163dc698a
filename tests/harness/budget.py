"""How much is tried: some thousand examples in seconds, or what PRIVBIND_FUZZ_EXAMPLES says (each, for each target)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("PRIVBIND_FUZZ_EXAMPLES", "1000"))

fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
