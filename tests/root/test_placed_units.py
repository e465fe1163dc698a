"""Placed grants for units of systemd: the page's recipe, under a real systemd."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.host import MANY, python, status_of, wait_for
from ..harness.machine import ALICE, LISTENING, Machine, as_user
from ..harness.recipes import BLOCKS
from ..harness.systemd import SYSTEMD, System

GRANTED = "granted.service"
TREE = f"system.slice/{GRANTED}"


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


def write_granted(system: System, *dropins: str) -> None:
    """Have systemd know the page's unit with these drop-ins; its errors go to the log."""
    system.write(GRANTED, BLOCKS[GRANTED])
    shutil.rmtree(system.units / f"{GRANTED}.d", ignore_errors=True)
    for number, text in enumerate(("[Service]\nStandardError=append:/srv/site/service.log\n", *dropins)):
        system.write(f"{GRANTED}.d/{number}.conf", text)
    system.control("daemon-reload").ok()


def main_of(system: System, unit: str = GRANTED, port: int = 80, but: int = 0) -> int:
    """The main process of a unit, by its number there, once it serves; another than ``but``."""

    def serves() -> int:
        if system.machine.run(python(LISTENING, str(port))).status != 0:
            return 0
        main = int(system.shows(unit, "MainPID"))
        return 0 if main == but else main

    return wait_for(serves, "the service")


def outer(system: System, unit: str) -> int:
    """The one process of a unit, by its number here."""
    (pid,) = Path(f"/proc/self/fd/{system.cgroup}/{unit}/cgroup.procs").read_text().split()
    return int(pid)


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
    log = site / "service.log"
    log.write_text("")
    write_granted(system, *dropins, "[Service]\nExecStartPre=\nRestart=no\n")
    system.control("start", GRANTED)
    wait_for(lambda: system.shows(GRANTED, "ActiveState") == "failed", "the control's end")
    assert "Permission denied" in log.read_text(), "the control: without the grant it cannot start"

    write_granted(system, *dropins)
    system.control("reset-failed", GRANTED).ok()
    system.control("start", GRANTED).ok()
    main = main_of(system)
    assert system.machine.page() == "hello\n"
    status = status_of(outer(system, TREE))
    assert "0" not in status["Uid"].split()
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert system.programs_on(TREE) == [1, 1]
    assert system.binds_in(TREE, 80, 81) == ["EADDRINUSE", "EACCES"]
    assert system.machine.run(as_user(ALICE, python(MANY, "80", "81"))).out.split() == ["EACCES"] * 2

    system.control("daemon-reload").ok()
    assert system.programs_on(TREE) == [1, 1]
    if BLOCKS["granted.service.d/reload.conf"] in dropins:
        assert system.binds_in(TREE, 443) == ["EACCES"]
        system.control("reload", GRANTED).ok()
        assert system.binds_in(TREE, 443, 81) == ["ok", "EACCES"]
        assert system.programs_on(TREE) == [1, 1]
        assert main_of(system) == main

    system.control("restart", GRANTED).ok()
    second = main_of(system, but=main)
    assert system.programs_on(TREE) == [1, 1]
    assert system.binds_in(TREE, 80, 81, 443) == ["EADDRINUSE", "EACCES", "EACCES"]

    system.control("kill", "--signal=SEGV", GRANTED).ok()
    main_of(system, but=second)
    assert system.shows(GRANTED, "NRestarts") == "1"
    assert system.programs_on(TREE) == [1, 1]
    assert system.machine.page() == "hello\n"

    system.control("stop", GRANTED).ok()
    wait_for(lambda: GRANTED not in system.cgroups("system.slice"), "the removal of the service's cgroup")


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
    system.write("granted@.service", BLOCKS["granted@.service"])
    system.control("daemon-reload").ok()
    ports = (80, 81)
    for port in ports:
        system.control("start", f"granted@{port}.service").ok()
    for port in ports:
        main_of(system, f"granted@{port}.service", port)
    for port, other in (ports, ports[::-1]):
        tree = f"system.slice/system-granted.slice/granted@{port}.service"
        assert system.binds_in(tree, port, other) == ["EADDRINUSE", "EACCES"]


def test_a_grant_for_a_unit_that_runs(system: System) -> None:
    """By its name, which systemctl knows; with a reason where it cannot be."""
    write_granted(system, "[Service]\nExecStartPre=\nExecStart=\nExecStart=/usr/bin/python3 -m http.server 8080\n")
    grant, listed, revoke = (shlex.split(line) for line in BLOCKS["unit"].splitlines())
    stopped = system.run(grant)
    assert stopped.status == 125
    assert f"unit '{GRANTED}' has no cgroup: it is not running" in stopped.err
    unknown = system.run(["privbindctl", "grant", "--unit=nosuch.service", "--allow=tcp:80"])
    assert unknown.status == 125
    assert "unit 'nosuch.service' is not known (systemctl list-units)" in unknown.err
    system.control("start", GRANTED).ok()
    main_of(system, port=8080)
    assert system.binds_in(TREE, 80, 81) == ["EACCES", "EACCES"]
    system.run(grant).ok()
    assert system.binds_in(TREE, 80, 81) == ["ok", "EACCES"]
    assert f"/{TREE}" in system.run(listed).ok().out
    system.run(revoke).ok()
    assert system.binds_in(TREE, 80, 81) == ["EACCES", "EACCES"]


def test_where_no_systemd_answers(system: System) -> None:
    """As where none is process 1: one line, and no grant."""
    grant, _, _ = (shlex.split(line) for line in BLOCKS["unit"].splitlines())
    outside = system.machine.run(["env", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent", *grant])
    assert outside.status == 125
    assert len(outside.err.splitlines()) == 1
