"""Signals while a bind waits for its answer: none of them makes a granted bind fail, or succeed twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...harness.host import Host, table
from ...harness.patience import fewer, period_us


@pytest.mark.parametrize("period", [1000, 200])
def test_granted_binds_under_signals(host: Host, programs: Path, period: int) -> None:
    """Thousands of granted binds with a timer whose handler has SA_RESTART: no error."""
    count = fewer(30000)
    argv = [programs / "seccomp_signals", str(count), period_us(period)]
    found = table(host.granted(argv, "--via=seccomp").ok())
    assert int(found.pop("ticks")) > 0
    assert found == {"ok": str(count)}
