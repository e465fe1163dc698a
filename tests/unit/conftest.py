"""What unit tests share: no example of hypothesis has a deadline, which a busy machine would miss."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
