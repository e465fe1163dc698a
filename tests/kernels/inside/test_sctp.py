"""SCTP, whose binds have no hook: a launch without rules reaches it by seccomp and preload, but not by bpf."""

from __future__ import annotations

import subprocess

import pytest

from ...harness.guests.here import stated
from ...harness.host import Host, python

BIND = """
import errno, socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
try:
    s.bind(("127.0.0.1", 80))
    print("ok")
except OSError as error:
    print(errno.errorcode[error.errno])
"""

pytestmark = pytest.mark.skipif("sctp" not in stated().kernel, reason="this kernel has no SCTP")


@pytest.fixture(autouse=True, scope="module")
def module() -> None:
    """The kernel's module."""
    subprocess.run(["modprobe", "sctp"], check=True)


REACHED = {"bpf": "EACCES", "seccomp": "ok", "preload": "ok", "ambient": "ok"}


@pytest.mark.parametrize("mechanism", [name for name, (usable, _, _) in stated().mechanisms.items() if usable])
def test_without_rules(host: Host, mechanism: str) -> None:
    assert host.plain(python(BIND)).ok().lines == ["EACCES"]
    assert host.granted(python(BIND), f"--via={mechanism}").ok().lines == [REACHED[mechanism]]


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload"])
def test_rules_are_for_tcp_and_udp(host: Host, mechanism: str) -> None:
    found = host.granted(python(BIND), f"--via={mechanism}", "--allow=80")
    if stated().mechanisms[mechanism][1]:
        assert found.ok().lines == ["EACCES"]
    else:
        assert (found.status, found.out) == (125, ""), found
