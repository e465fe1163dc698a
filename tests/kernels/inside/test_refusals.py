"""On kernels that are too old for a mechanism: it is refused before anything is started, and ambient still works."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...harness.guests.here import ALICE, binds, ctl, grant
from ...harness.host import Host, python

CODE = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print('bound')"
REFUSED = ("bpf", "seccomp", "preload")


@pytest.mark.parametrize("mechanism", REFUSED)
def test_a_launch_says_why(host: Host, mechanism: str) -> None:
    """One line with the reason, status 125, and nothing started."""
    found = host.granted(python(CODE), f"--via={mechanism}", "--allow=tcp:80")
    assert (found.status, found.out, len(found.err.splitlines())) == (125, "", 1), found
    assert "Linux 5.14" in found.err


def test_ambient_works(host: Host, programs: Path) -> None:
    """It is for every kernel from 4.3 on: every reserved port, static programs included."""
    asked = ("tcp", "4", "127.0.0.1", "80", "udp", "6", "::1", "1023", "tcp", "4", "0.0.0.0", "8080")
    for program in ("trybind", "trybind-static"):
        assert host.plain([programs / program, *asked]).lines[:2] == ["EACCES", "EACCES"]
        found = host.granted([programs / program, *asked], "--via=ambient").ok()
        assert [line.split()[0] for line in found.lines] == ["ok"] * 3


def test_standing_grants_are_refused() -> None:
    """A load says why, and changes nothing."""
    grant("alice.toml", "alice", "tcp:80")
    found = ctl("load")
    assert found.returncode == 125, found
    assert "Linux 5.14" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert binds(ALICE, 80) == ["EACCES"]
