"""-n: how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..harness.budget import rounds
from ..harness.cases import MECHANISMS
from ..harness.host import MANY, Host, python

pytestmark = pytest.mark.parametrize("mechanism", MECHANISMS)


def test_after_the_last_bind_reserved_ports_are_out_of_reach(host: Host, mechanism: str) -> None:
    """Unreserved binds go on; nothing is signalled."""
    found = host.granted(python(MANY, "80", "81", "82", "8080", "80"), f"--via={mechanism}", "-n2").ok()
    assert found.out.split() == ["ok", "ok", "EACCES", "ok", "EACCES"]


def test_binds_that_fail_are_not_counted(host: Host, mechanism: str) -> None:
    """Refused by the policy, in use, or unreserved: none of them counts."""
    code = "import socket; held = socket.socket(); held.bind(('127.0.0.1', 80))\n" + MANY
    found = host.granted(
        python(code, "80", "80", "8080", "79", "81", "82"), f"--via={mechanism}", "-n2", "--allow=80-99"
    ).ok()
    assert found.out.split() == ["EADDRINUSE", "EADDRINUSE", "ok", "EACCES", "ok", "EACCES"]


def test_no_limit(host: Host, mechanism: str) -> None:
    """-n 0 means no limit, as it always did."""
    found = host.granted(python(MANY, *["80"] * 50), f"--via={mechanism}", "-n0").ok()
    assert found.out.split() == ["ok"] * 50


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_exact_under_concurrency(host: Host, mechanism: str, programs: Path, limit: int) -> None:
    """8 processes that all try at once succeed just so often together, counted over all of them."""
    for number in range(rounds(1, 200)):
        found = host.granted([programs / "procs", "8", "50"], f"--via={mechanism}", f"-n{limit}")
        assert sorted(found.lines) == sorted([f"ok {limit}", f"EACCES {400 - limit}"]), (number, found)
