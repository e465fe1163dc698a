"""Signals while a bind waits for its answer: none of them makes a granted bind fail, or succeed twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...harness.host import Host, table


@pytest.mark.parametrize("period_us", [10000, 2000])
def test_granted_binds_under_signals(host: Host, programs: Path, period_us: int) -> None:
    """3,000 granted binds with a timer whose handler has SA_RESTART: no error."""
    argv = [programs / "seccomp_signals", "3000", str(period_us)]
    found = table(host.granted(argv, "--via=seccomp").ok())
    assert int(found.pop("ticks")) > 0
    assert found == {"ok": "3000"}
