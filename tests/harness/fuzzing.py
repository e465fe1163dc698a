"""How many examples a fuzz target gets: as many as fit into seconds, or what PRIVBIND_FUZZ_EXAMPLES says."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from .budget import rounds

EXAMPLES = int(os.environ.get("PRIVBIND_FUZZ_EXAMPLES") or rounds(1000, 100000))

fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
