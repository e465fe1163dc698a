"""Placed grants for units of systemd: the page's recipe, under a real systemd."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.host import python
from ..harness.machine import LISTENING, Machine
from ..harness.recipes import BLOCKS
from ..harness.systemd import SYSTEMD, System
from ..harness.units import (
    GRANTED,
    TREE,
    check_granted,
    check_granted_while_it_runs,
    check_templates,
    main_of,
    write_granted,
)


@pytest.fixture
def system(installed: Path, site: Path) -> Iterator[System]:
    """A systemd of the test's own, on a machine of its own."""
    if not Path(SYSTEMD).exists():
        pytest.skip("not installed: systemd")
    machine = Machine(installed, site)
    try:
        made = System(machine, site, f"privbind-units.{os.getpid()}")
        try:
            yield made
        finally:
            made.close()
    finally:
        machine.close()


@pytest.mark.parametrize(
    "dropins",
    [
        (),
        ("[Service]\nUser=\nDynamicUser=yes\n",),
        (BLOCKS["granted.service.d/reload.conf"],),
        ("[Service]\nDynamicUser=yes\nProtectSystem=strict\nProtectControlGroups=yes\nPrivateDevices=yes\n",),
    ],
    ids=["as it is", "DynamicUser", "Delegate", "hardened"],
)
def test_granted_unit(system: System, site: Path, dropins: tuple[str, ...]) -> None:
    """Granted at each start, once: start, daemon-reload, restart, crash; nothing stays when it stops."""
    check_granted(system, site, *dropins)


def test_granted_unit_with_a_socket_unit(system: System) -> None:
    """The socket is systemd's own, and what the grant covers is bound beside it."""
    write_granted(system)
    system.write("granted.socket", "[Socket]\nListenStream=127.0.0.1:8443\n")
    system.control("daemon-reload").ok()
    system.control("start", "granted.socket").ok()
    system.control("start", GRANTED).ok()
    main_of(system)
    assert system.machine.page() == "hello\n"
    assert system.machine.run(python(LISTENING, "8443")).status == 0
    assert system.programs_on(TREE) == [1, 1]


def test_granted_template_units(system: System) -> None:
    """Each instance has its own port, and not the other's."""
    check_templates(system)


def test_a_grant_for_a_unit_that_runs(system: System) -> None:
    """By its name, which systemctl knows; with a reason where it cannot be."""
    check_granted_while_it_runs(system)


def test_where_no_systemd_answers(system: System) -> None:
    """As where none is process 1: one line, and no grant."""
    grant, _, _ = (shlex.split(line) for line in BLOCKS["unit"].splitlines())
    outside = system.machine.run(["env", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent", *grant])
    assert outside.status == 125
    assert len(outside.err.splitlines()) == 1
