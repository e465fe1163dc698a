"""A host that systemd has started: standing grants are there before the first server, and follow the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.guests.here import ALICE, BOB, GRANTS, binds, ctl, grant
from ...harness.guests.own_systemd import SERVER, SERVICE, shows, systemctl
from ...harness.host import Host, python, wait_for

NOBODY = 65534
AT_BOOT = GRANTS / "boot.toml"


def watched() -> bool:
    """Whether changes of the files are looked for."""
    return shows("privbind.path", "LoadState") == "loaded"


def put(name: str, user: str, *rules: str) -> None:
    """Write a file of grants, and load it where nobody watches the files."""
    grant(name, user, *rules)
    if not watched():
        assert systemctl("reload", SERVICE).returncode == 0


@pytest.fixture
def as_at_boot() -> Iterator[None]:
    """The files as they were, and loaded."""
    text = AT_BOOT.read_text()
    yield
    for path in GRANTS.iterdir():
        path.unlink()
    AT_BOOT.write_text(text)
    systemctl("restart", SERVICE)
    wait_for(lambda: binds(ALICE, 81) == ["ok"], "the grant of the boot")


def test_it_is_systemd() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert shows(SERVICE, "ActiveState") == "active", systemctl("status", "--lines=30", SERVICE).stdout


def test_a_server_has_its_port_at_boot() -> None:
    """It is started by User=alice alone, after network.target, with nothing of privbind's around it."""
    assert shows(SERVER, "ActiveState") == "active", systemctl("status", SERVER).stdout
    assert int(shows(SERVICE, "ActiveEnterTimestampMonotonic")) <= int(shows(SERVER, "ExecMainStartTimestampMonotonic"))
    status = Path(f"/proc/{shows(SERVER, 'MainPID')}/status").read_text()
    assert f"\nUid:\t{ALICE}\t" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert "\nCapBnd:\t0000000000000000\n" in status
    assert binds(ALICE, 80, 81, 443) == ["EADDRINUSE", "ok", "EACCES"]


@pytest.mark.usefixtures("as_at_boot")
def test_reload() -> None:
    """What the files say now; a mistake changes nothing, and the service stays."""
    systemctl("stop", "privbind.path")
    grant("boot.toml", "alice", "tcp:444")
    assert systemctl("reload", SERVICE).returncode == 0
    assert binds(ALICE, 81, 444) == ["EACCES", "ok"]
    AT_BOOT.write_text("[[grant]]\nuser = 1\nallow = 'http2'\n")
    assert systemctl("reload", SERVICE).returncode != 0
    assert binds(ALICE, 81, 444) == ["EACCES", "ok"]
    assert shows(SERVICE, "ActiveState") == "active"


@pytest.mark.usefixtures("as_at_boot")
def test_changes_of_the_files() -> None:
    """A file that comes and goes."""
    put("bob.toml", "bob", "tcp:443")
    wait_for(lambda: binds(BOB, 443, 444) == ["ok", "EACCES"], "the load of the new file")
    (GRANTS / "bob.toml").unlink()
    if not watched():
        systemctl("reload", SERVICE)
    wait_for(lambda: binds(BOB, 443) == ["EACCES"], "the load without it")
    assert binds(ALICE, 81) == ["ok"]


@pytest.mark.usefixtures("as_at_boot")
def test_stop_and_start() -> None:
    """A stop takes the grants out, and what is bound stays bound."""
    assert systemctl("stop", SERVICE).returncode == 0
    assert binds(ALICE, 81) == ["EACCES"]
    assert shows(SERVER, "ActiveState") == "active"
    assert systemctl("start", SERVICE).returncode == 0
    assert binds(ALICE, 81) == ["ok"]


def test_systemds_own_restart_keeps_them() -> None:
    """daemon-reexec, as at an upgrade of systemd, and daemon-reload."""
    for word in ("daemon-reload", "daemon-reexec"):
        assert systemctl(word).returncode == 0
        assert binds(ALICE, 81, 444) == ["ok", "EACCES"]


def test_a_server_ends_and_starts_again() -> None:
    """Its grant is the user's: it is there in between, and afterwards."""
    assert ctl("check").returncode == 0
    assert systemctl("stop", SERVER).returncode == 0
    assert binds(ALICE, 80) == ["ok"]
    assert systemctl("start", SERVER).returncode == 0
    assert binds(ALICE, 80) == ["EADDRINUSE"]


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload", "ambient"])
def test_launch_in_a_service(mechanism: str, host: Host) -> None:
    """privbind in a transient unit: in that unit's cgroup, which is gone afterwards."""
    rules = [] if mechanism == "ambient" else ["--allow=tcp:443"]
    bind = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 443))"
    code = f"{bind}; print('bound', open('/proc/self/cgroup').read())"
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit=launch-{mechanism}"]
    refused = host.run([*run, f"--uid={NOBODY}", *python(bind)])
    assert refused.status != 0
    assert "Permission denied" in refused.err, refused
    found = host.run([*run, *host.command(python(code), f"--via={mechanism}", *rules)]).ok()
    assert "bound" in found.out
    assert f"/launch-{mechanism}.service" in found.out
    assert not Path(f"/sys/fs/cgroup/system.slice/launch-{mechanism}.service").exists()
