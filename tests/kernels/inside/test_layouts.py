"""Hosts whose cgroups are hybrid, or of v1 only: what bpf needs is there or is not, and the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ...harness.guests.here import ALICE, binds, ctl, grant
from ...harness.host import MANY, Host, python

MOUNTS = Path("/proc/self/mounts").read_text()
V2 = " cgroup2 " in MOUNTS
V1 = " cgroup rw" in MOUNTS


def test_the_layout_is_told() -> None:
    """As it is mounted."""
    report = json.loads(ctl("doctor", "--json").stdout)
    assert V1
    assert report["cgroups"]["layout"] == ("hybrid" if V2 else "legacy"), report
    offers = {offer["name"]: offer["limit"] for offer in report["mechanisms"]}
    assert offers == {"bpf": V2, "seccomp": True, "preload": True, "ambient": False}, report


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload"])
def test_launch(host: Host, mechanism: str) -> None:
    """Each does what it does elsewhere; bpf is refused where there is no cgroup v2, and says so."""
    found = host.granted(python(MANY, "80", "81"), f"--via={mechanism}", "--allow=tcp:80", "-n1")
    if mechanism == "bpf" and not V2:
        assert (found.status, found.out) == (125, ""), found
        assert "cgroup v2 is not mounted" in found.err
    else:
        assert found.ok().lines == ["ok EACCES"]


def test_auto(host: Host) -> None:
    found = host.granted(python(MANY, "80", "81"), "-v", "--allow=tcp:80").ok()
    assert found.lines == ["ok EACCES"]
    assert f"mechanism: {'bpf' if V2 else 'seccomp'}" in found.err


def test_standing_grants() -> None:
    """They hold where there is a cgroup v2; without it a load says so."""
    grant("layout.toml", "alice", "tcp:443")
    done = ctl("load")
    if V2:
        assert done.returncode == 0, done
        assert binds(ALICE, 443, 444) == ["ok", "EACCES"]
    else:
        assert done.returncode == 125, done
        assert "cgroup v2" in done.stderr
        assert binds(ALICE, 443) == ["EACCES"]
