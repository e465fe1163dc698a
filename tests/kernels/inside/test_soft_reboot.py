"""After a soft reboot, which ends all processes and starts systemd anew, and leaves the kernel with what is in it.

What holds after any boot (test_systemd.py) is looked at after this one, too.
"""

from __future__ import annotations

from ...harness.guests.here import ALICE, BOB, binds, ctl
from ...harness.guests.own_systemd import SERVICE, shows, systemctl


def test_it_was_a_soft_reboot() -> None:
    """Systemd has counted it, and the kernel was not started anew."""
    assert systemctl("show", "--value", "--property=SoftRebootsCount").stdout == "1\n"


def test_the_grants_are_those_of_the_files() -> None:
    """Loaded once: by the service, which was stopped before and is started again."""
    assert shows(SERVICE, "ActiveState") == "active"
    assert binds(ALICE, 81, 444) == ["ok", "EACCES"]
    assert binds(BOB, 81) == ["EACCES"]
    assert ctl("load").stdout.startswith("nothing has changed")
