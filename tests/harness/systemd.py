"""A real systemd in namespaces of its own, on a machine of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from privbind.linux import bpf, cgroup

from .host import MANY, Result, kill, python, wait_for
from .machine import ALICE, Machine, as_user, children_of

SYSTEMD = "/lib/systemd/systemd"
TARGETS = ("default", "sysinit", "basic", "shutdown", "network", "multi-user", "umount", "exit")

INIT = """
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
exec env container=other SYSTEMD_UNIT_PATH=/etc/systemd/system:/srv/site/units SYSTEMD_GENERATOR_PATH=/nonexistent \
    setpriv --bounding-set=-sys_time,-sys_boot,-sys_module,-sys_rawio,-syslog,-mknod \
    "$SYSTEMD" --system --unit=default.target --show-status=no --log-target=null
"""
"""systemd as process 1 of namespaces of its own, which sees its own cgroups only and can change nothing outside."""


class System:
    """A real systemd, in namespaces of its own on a machine of a test's own, with units of the test's own."""

    def __init__(self, machine: Machine, site: Path, cgroup_name: str, units: Mapping[str, str] | None = None) -> None:
        """Start it. ``units`` are there at its start, and may replace the empty targets."""
        self.machine = machine
        self.units = site / "units"
        shutil.rmtree(self.units, ignore_errors=True)
        self.units.mkdir()
        for name in TARGETS:
            self.write(f"{name}.target", "[Unit]\nDefaultDependencies=no\n")
        for name, text in (units or {}).items():
            self.write(name, text)
        own = cgroup.own()
        try:
            os.mkdir(cgroup_name, dir_fd=own.fd)
            self.cgroup = os.open(cgroup_name, os.O_RDONLY, dir_fd=own.fd)
        finally:
            own.close()
        self._name = cgroup_name
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork"]
        enter = f'echo $$ > /proc/{os.getpid()}/fd/{self.cgroup}/cgroup.procs; exec "$@"'
        unshare = ["sh", "-ec", enter, "sh", "unshare", *namespaces, "sh", "-ec", INIT]
        self._process = machine.popen(
            unshare, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | {"SYSTEMD": SYSTEMD}
        )
        wait_for(self._up, "systemd's start")

    def _up(self) -> bool:
        assert self._process.poll() is None, "systemd ended"
        below = children_of(self._process.pid)
        if not below or Path(f"/proc/{below[0]}/comm").read_text() != "systemd\n":
            return False
        self._pid = below[0]
        return self.control("is-system-running").out in ("running\n", "degraded\n")

    def control(self, *words: str) -> Result:
        """Run systemctl there."""
        return self.run(["systemctl", *words])

    def run(self, argv: list[str]) -> Result:
        """Run a program there, though not in systemd's cgroup."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--net"]
        return self.machine.run([*enter, "env", "SYSTEMD_UNIT_PATH=/etc/systemd/system:/srv/site/units", *argv])

    def binds_in(self, unit: str, *ports: int) -> list[str]:
        """What binds as an unprivileged user give in the cgroup of a unit."""
        place = f"/proc/{os.getpid()}/fd/{self.cgroup}/{unit}"
        join = ["sh", "-ec", 'echo $$ > "$0/cgroup.procs"; exec "$@"', place]
        return self.machine.run([*join, *as_user(ALICE, python(MANY, *map(str, ports)))]).ok().out.split()

    def programs_on(self, unit: str) -> list[int]:
        """How many programs a unit's cgroup has, of each bind hook."""
        fd = os.open(f"/proc/self/fd/{self.cgroup}/{unit}", os.O_RDONLY)
        try:
            return [len(bpf.query(fd, hook)[1]) for hook in (bpf.INET4_BIND, bpf.INET6_BIND)]
        finally:
            os.close(fd)

    def enter(self, argv: list[str], folder: str = "asked") -> list[str]:
        """A command line that runs in a cgroup of its own below systemd's."""
        place = f"/proc/{os.getpid()}/fd/{self.cgroup}/{folder}"
        return ["sh", "-ec", f'mkdir -p {place}; echo $$ > {place}/cgroup.procs; exec "$@"', "sh", *argv]

    def write(self, name: str, text: str) -> None:
        """Put a unit file or a drop-in there."""
        path = self.units / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.control("show", unit, f"--property={name}", "--value").ok().out.strip()

    def cgroups(self, path: str = ".") -> list[str]:
        """The cgroups below one of systemd's."""
        place = Path(f"/proc/self/fd/{self.cgroup}") / path
        return sorted(str(found.relative_to(place)) for found in place.rglob("*") if found.is_dir())

    def close(self) -> None:
        """End it and all that it started, and remove its cgroups."""
        for pid in children_of(self._process.pid):
            kill(pid)
        self._process.wait()
        os.close(self.cgroup)
        own = cgroup.own()
        try:
            place = Path(f"/proc/self/fd/{own.fd}/{self._name}")
            wait_for(lambda: "populated 0" in (place / "cgroup.events").read_text(), "the end of all processes")
            for path in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
                path.rmdir()
            place.rmdir()
        finally:
            own.close()
