"""privbind-audit.service under a real systemd, with all its hardening, and a real journald."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from privbind.commands.watch import MESSAGE_ID

from ..harness.host import MANY, python, wait_for
from ..harness.install import ROOT
from ..harness.machine import ALICE, Machine, as_user
from ..harness.systemd import System

UNIT = "privbind-audit.service"
HERE = "[Service]\nExecStart=\nExecStart=privbindctl watch --journal --cgroup=/sys/fs/cgroup\n"
"""The cgroup is the root of systemd's own cgroup namespace, a test's own."""


def test_the_service(installed: Path, site: Path) -> None:
    """It starts, writes to the journal, and starts again when it is killed."""
    units = {UNIT: (ROOT / f"packaging/systemd/{UNIT}").read_text(), f"{UNIT}.d/here.conf": HERE}
    with contextlib.closing(Machine(installed, site)) as machine:
        system = System(machine, site, f"privbind-test.{os.getpid()}.audit", units)
        try:
            journald = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/lib/systemd/systemd-journald\n"
            system.write("journald.service", journald)
            system.control("daemon-reload").ok()
            system.control("start", "journald.service").ok()
            wait_for(lambda: system.run(["test", "-S", "/run/systemd/journal/socket"]).status == 0, "the journal")
            system.control("start", UNIT).ok()

            def entries(*matches: str) -> list[dict[str, Any]]:
                ask = ["journalctl", "--quiet", "--output=json", "--directory=/run/log/journal"]
                return [json.loads(line) for line in system.run([*ask, f"MESSAGE_ID={MESSAGE_ID}", *matches]).lines]

            wait_for(lambda: entries("PRIVBIND_VERDICT=start"), "its first entry")
            server = [*as_user(ALICE, python(MANY, "80"))]
            assert machine.run(system.enter(server)).ok().out == "EACCES\n"
            (entry,) = wait_for(lambda: entries("PRIVBIND_VERDICT=refused"), "the refusal")
            assert (entry["PRIVBIND_PORT"], entry["PRIVBIND_USER"]) == ("80", "alice")
            assert entry["_SYSTEMD_UNIT"] == UNIT
            system.control("kill", "--signal=KILL", UNIT).ok()
            wait_for(lambda: len(entries("PRIVBIND_VERDICT=start")) == 2, "its second start")
            system.control("stop", UNIT).ok()
            assert system.shows(UNIT, "Result") == "success"
        finally:
            system.close()
