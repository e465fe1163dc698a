"""A guest's own systemd, for tests that otherwise start one in namespaces of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ..host import TIMEOUT_S, Result
from ..machine import Machine
from ..systemd import System

SERVICE = "privbind.service"
"""Which loads the standing grants."""
SERVER = "privbind-guest-server.service"
"""A server of alice's on port 80."""

_UNITS = Path("/run/systemd/system")
_SITE = Path("/srv/site")


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd."""
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def shows(unit: str, name: str) -> str:
    """A property of a unit."""
    return systemctl("show", "--value", f"--property={name}", unit).stdout.strip()


class _ThisMachine(Machine):
    """The guest itself, in its own namespaces."""

    def __init__(self) -> None:  # pylint: disable=super-init-not-called
        self.privbind = "/opt/privbind/bin/privbind"
        self.path = f"/usr/local/sbin:{os.environ['PATH']}"
        self.pid = os.getpid()
        self.root = Path("/")
        self.enter = ["env", f"PATH={self.path}"]
        self._started = []


class OwnSystem(System):
    """The systemd that is process 1, and units of the test's own beside those of the host."""

    def __init__(self, site: Path) -> None:
        """``site`` becomes /srv/site."""
        self.machine = _ThisMachine()
        self.units = _UNITS
        self._there = set(_UNITS.iterdir()) if _UNITS.exists() else set()
        _UNITS.mkdir(exist_ok=True)
        _SITE.mkdir(exist_ok=True)
        # Not a link: it is below /tmp, which units may have one of their own of.
        subprocess.run(["mount", "--bind", site, _SITE], check=True)
        self.cgroup = os.open("/sys/fs/cgroup", os.O_RDONLY)

    def run(self, argv: list[str]) -> Result:
        """Run a program there."""
        return self.machine.run(argv)

    def close(self) -> None:
        """Stop the units that were written, and take them away."""
        added = [path for path in _UNITS.iterdir() if path not in self._there]
        names = [path.name for path in added if path.suffix in {".service", ".socket"} and "@" not in path.name]
        self.control("stop", *names, "granted@*.service")
        self.control("reset-failed")
        for path in added:
            if path.is_dir():
                for inner in path.iterdir():
                    inner.unlink()
                path.rmdir()
            else:
                path.unlink()
        self.control("daemon-reload")
        os.close(self.cgroup)
        subprocess.run(["umount", _SITE], check=True)
