"""What holds for the units of docs/recipes.md under a systemd, whether that is process 1 or in namespaces."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from .host import MANY, python, status_of, wait_for
from .machine import ALICE, LISTENING, as_user
from .recipes import BLOCKS
from .systemd import System

GRANTED = "granted.service"
TREE = f"system.slice/{GRANTED}"


class Unit(NamedTuple):
    """A unit of the page, drop-ins for it, and the mechanism that is taken."""

    name: str
    dropins: tuple[str, ...]
    mechanism: str


def check_launched(system: System, site: Path, unit: Unit) -> None:
    """It starts, serves, reloads, restarts and stops; systemd knows the main process; no process or cgroup stays."""
    name = unit.name
    log = site / "service.log"
    log.write_text("")
    system.write(name, BLOCKS[name].replace("privbind -u", "privbind -v -u"))
    for number, text in enumerate(("[Service]\nStandardError=append:/srv/site/service.log\n", *unit.dropins)):
        system.write(f"{name}.d/{number}.conf", text)
    system.control("daemon-reload").ok()
    tree = f"system.slice/{name}"
    before = system.cgroups("system.slice")

    def serves() -> int:
        assert system.shows(name, "ActiveState") == "active", log.read_text()
        if system.machine.run(python(LISTENING, "80")).status != 0:
            return 0
        return int(system.shows(name, "MainPID"))

    system.control("start", name).ok()
    main = wait_for(serves, "the service")
    assert f"mechanism: {unit.mechanism} (the first that fits)" in log.read_text()
    assert system.machine.page() == "hello\n"
    child = [f"privbind.{main}.0"] if unit.mechanism == "bpf" else []
    assert system.cgroups(tree) == child

    if name == "site-notify.service":
        system.control("reload", name).ok()
        assert wait_for(serves, "the service") == main
        assert [found for found in system.cgroups(tree) if found != ".control"] == child

    system.control("restart", name).ok()
    second = wait_for(serves, "the service")
    assert second != main
    if unit.mechanism == "bpf":
        assert [found for found in system.cgroups(tree) if found != ".control"] == [f"privbind.{second}.0"]

    system.control("stop", name).ok()
    assert system.shows(name, "Result") == "success"
    wait_for(lambda: name not in system.cgroups("system.slice"), "the removal of the service's cgroup")
    assert system.cgroups("system.slice") == before


def check_refused(system: System) -> None:
    """125 is no failure that another try would mend."""
    system.write("site.service", BLOCKS["site.service"].replace("-u www-data", "-u nosuchuser"))
    system.control("daemon-reload").ok()
    system.control("start", "site.service")
    wait_for(lambda: system.shows("site.service", "ActiveState") == "failed", "the service's end")
    assert system.shows("site.service", "NRestarts") == "0"
    assert system.shows("site.service", "ExecMainStatus") == "125"


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


def check_granted(system: System, site: Path, *dropins: str) -> None:
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


def check_templates(system: System) -> None:
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


def check_granted_while_it_runs(system: System) -> None:
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
