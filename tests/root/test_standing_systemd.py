"""packaging/systemd under a real systemd: at boot, at a reload, after changes of the files and of the users, at a stop.

The units are as they are installed, but for the cgroup: it is the root of systemd's own cgroup namespace, a test's own.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ..harness.budget import rounds
from ..harness.host import MANY, python, read_line, wait_for
from ..harness.install import ROOT
from ..harness.machine import ALICE, BOB, Machine, as_user
from ..harness.needs import need
from ..harness.recipes import BLOCKS
from ..harness.systemd import SYSTEMD, System

UNITS = {path.name: path.read_text() for path in (ROOT / "packaging/systemd").iterdir()}
SERVICE, PATH, LOAD = "privbind.service", "privbind.path", "privbind-load.service"

GRANTS = "/etc/privbind/grants.d"
ROOT_CGROUP = "--cgroup=/sys/fs/cgroup"
LOG = "StandardError=append:/srv/site/load.log"

HERE = {
    f"{SERVICE}.d/here.conf": (
        f"[Service]\nExecStart=\nExecReload=\nExecStop=\n{LOG}\n"
        f"ExecStart=privbindctl load {ROOT_CGROUP}\nExecReload=privbindctl load {ROOT_CGROUP}\n"
        f"ExecStop=privbindctl unload {ROOT_CGROUP}\n"
    ),
    f"{LOAD}.d/here.conf": f"[Service]\nExecStart=\n{LOG}\nExecStart=privbindctl load {ROOT_CGROUP}\n",
}
"""Drop-ins for the cgroup."""

TREE = {
    "sysinit.target": "[Unit]\nDefaultDependencies=no\n",
    "basic.target": "[Unit]\nDefaultDependencies=no\nRequires=sysinit.target\nAfter=sysinit.target paths.target\n",
    "paths.target": "[Unit]\nDefaultDependencies=no\n",
    "multi-user.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    "default.target": "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\nAllowIsolate=yes\n",
}
"""The targets of a boot, ordered as those of a real system are."""


def grant(name: str, *rules: str, kind: str = "user") -> str:
    """A file of grants with one in it."""
    return f'[[grant]]\n{kind} = "{name}"\nallow = {list(rules)}\n'.replace("'", '"')


class Watched:
    """A machine under systemd with privbind's units, whose users are asked what they may bind."""

    def __init__(self, machine: Machine, site: Path, units: Mapping[str, str], files: Mapping[str, str]) -> None:
        """``files`` are in grants.d when systemd starts."""
        self.machine = machine
        self.log = site / "load.log"
        self.log.write_text("")
        machine.run(["sh", "-ec", f"rm -rf /etc/privbind; mkdir -p {GRANTS}"]).ok()
        for name, text in files.items():
            self.put(name, text)
        self.system = System(machine, site, f"privbind-systemd.{os.getpid()}", HERE | TREE | dict(units))

    def put(self, name: str, text: str) -> None:
        """Write a file of grants, in one step, as editors do."""
        write = f'cat > "{GRANTS}/.$1.new"; mv "{GRANTS}/.$1.new" "{GRANTS}/$1"'
        self.machine.run(["sh", "-ec", write, "sh", name], input=text).ok()

    def may(self, uid: int, *ports: int) -> list[bool]:
        """Which of these ports a user may bind."""
        found = self.machine.run(self.system.enter(as_user(uid, python(MANY, *map(str, ports))))).ok().out.split()
        assert set(found) <= {"ok", "EACCES"}
        return [answer == "ok" for answer in found]

    def state(self, unit: str) -> str:
        """Its ActiveState."""
        return self.system.shows(unit, "ActiveState")

    def start(self) -> None:
        """Start what `systemctl enable` has the service start."""
        self.system.control("start", SERVICE, PATH).ok()
        assert (self.state(SERVICE), self.state(PATH)) == ("active", "active")

    def settled(self) -> bool:
        """Whether nothing is going on."""
        busy = self.system.control("list-jobs", "--no-legend").ok().out.strip()
        return not busy and self.state(LOAD) in ("inactive", "failed")


@pytest.fixture
def machine(installed: Path, site: Path) -> Iterator[Machine]:
    """A machine of the test's own."""
    if not Path(SYSTEMD).exists():
        pytest.skip("not installed: systemd")
    made = Machine(installed, site)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def watched(machine: Machine, site: Path) -> Iterator[Watched]:
    """Started, with a grant for alice."""
    made = Watched(machine, site, UNITS, {"a.toml": grant("alice", "tcp:80")})
    try:
        made.start()
        assert made.may(ALICE, 80, 81) == [True, False]
        yield made
    finally:
        made.system.close()


def test_units_verify(machine: Machine, site: Path) -> None:
    """systemd-analyze has nothing to say about them, and little about their exposure."""
    need("systemd-analyze")
    for name, text in UNITS.items():
        (site / name).write_text(text)
    try:
        names = [f"/srv/site/{name}" for name in UNITS]
        found = machine.run(["systemd-analyze", "verify", "--man=no", "--generators=no", *names])
        assert "privbind" not in found.out + found.err, found
    finally:
        for name in UNITS:
            (site / name).unlink()


def test_enabled_as_the_page_says(machine: Machine, site: Path) -> None:
    """The installed units are copied and enabled by three lines; grants are in force then, and after the next boot."""
    mount = "mount -t tmpfs tmpfs /opt; mkdir /opt/privbind; mount --bind /srv/privbind /opt/privbind"
    machine.run(["sh", "-ec", mount]).ok()
    for boot in range(2):
        made = Watched(machine, site, {}, {"a.toml": grant("alice", "tcp:80")})
        try:
            if boot == 0:
                assert made.may(ALICE, 80) == [False]
                made.system.run(["sh", "-ec", BLOCKS["enable"]]).ok()
            assert (made.state(SERVICE), made.state(PATH)) == ("active", "active")
            assert made.may(ALICE, 80, 81) == [True, False]
            made.put("a.toml", grant("alice", "tcp:81"))
            wait_for(lambda: made.may(ALICE, 80, 81) == [False, True], "the load after a change")  # noqa: B023
            if boot == 1:
                made.system.control("disable", "--now", SERVICE).ok()
                assert (made.state(SERVICE), made.state(PATH)) == ("inactive", "inactive")
                assert made.may(ALICE, 80, 81) == [False, False]
        finally:
            made.system.close()


def test_grants_are_there_when_the_first_server_starts(machine: Machine, site: Path) -> None:
    """At boot, in the order of the units: the sysctls, the grants, a user's server."""
    order = "/srv/site/order"
    (site / "order").write_text("")
    units = {
        "default.target.d/wants.conf": f"[Unit]\nWants={SERVICE} server.service\n",
        f"{SERVICE}.d/path.conf": f"[Unit]\nWants={PATH}\n[Service]\nExecStartPost=sh -c 'echo loaded >> {order}'\n"
        "ReadWritePaths=/srv/site\n",
        "systemd-sysctl.service": "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n"
        f"[Service]\nType=oneshot\nExecStart=sh -c 'echo sysctl >> {order}'\n",
        "sysinit.target.d/sysctl.conf": "[Unit]\nWants=systemd-sysctl.service\nAfter=systemd-sysctl.service\n",
        "network.target": "[Unit]\n",
        "server.service": "[Unit]\nAfter=network.target\nWants=network.target\n[Service]\nType=oneshot\nUser=alice\n"
        f"RemainAfterExit=yes\nExecStart=/usr/bin/python3 -I -c 'import socket; socket.create_server((\"\", 80))'\n"
        f"ExecStartPost=+sh -c 'echo bound >> {order}'\n",
    }
    made = Watched(machine, site, UNITS | units, {"a.toml": grant("alice", "tcp:80")})
    try:
        assert made.state("server.service") == "active"
        assert (site / "order").read_text().split() == ["sysctl", "loaded", "bound"]
        assert made.state(PATH) == "active"
        assert made.may(ALICE, 81) == [False]
        # The control: the server without the grant.
        made.system.control("stop", "server.service", SERVICE).ok()
        assert made.system.control("start", "server.service").status != 0
    finally:
        made.system.close()


def test_reload(watched: Watched) -> None:
    """It puts what the files say now in force; a mistake in a file fails it, and changes nothing."""
    watched.system.control("stop", PATH).ok()
    watched.put("a.toml", grant("alice", "tcp:81"))
    watched.system.control("reload", SERVICE).ok()
    assert watched.may(ALICE, 80, 81) == [False, True]
    watched.put("a.toml", grant("alice", "tcp:http2"))
    assert watched.system.control("reload", SERVICE).status != 0
    assert watched.may(ALICE, 80, 81) == [False, True]
    assert watched.state(SERVICE) == "active"
    assert f"{GRANTS}/a.toml:1: " in watched.log.read_text()


def test_a_new_file_is_loaded(watched: Watched) -> None:
    watched.put("b.toml", grant("bob", "tcp:443"))
    wait_for(lambda: watched.may(BOB, 443)[0], "the load of the new file")
    watched.machine.run(["rm", f"{GRANTS}/b.toml"]).ok()
    wait_for(lambda: not watched.may(BOB, 443)[0], "the load without the file")
    assert watched.may(ALICE, 80, 81) == [True, False]


def test_a_folder_that_is_yet_to_come(machine: Machine, site: Path) -> None:
    """Without grants.d nobody has a grant; it is seen when it is made, as `privbindctl allow` makes it."""
    made = Watched(machine, site, UNITS, {})
    try:
        machine.run(["rm", "-r", "/etc/privbind", "/etc/subuid"]).ok()
        made.start()
        assert made.may(ALICE, 80) == [False]
        for _ in range(2):
            machine.run(["mkdir", "-p", GRANTS]).ok()
            made.put("a.toml", grant("alice", "tcp:80"))
            wait_for(lambda: made.may(ALICE, 80)[0], "the load of the file in a new folder")
            machine.run(["rm", "-r", "/etc/privbind"]).ok()
            wait_for(lambda: not made.may(ALICE, 80)[0], "the load without the folder")
    finally:
        made.system.close()


def test_a_new_member_of_a_group_has_its_grants(watched: Watched) -> None:
    """And no longer when he has left it; the tools replace /etc/group by another file."""
    watched.machine.run(["groupadd", "--gid=4800", "web"]).ok()
    watched.put("web.toml", grant("web", "tcp:443", kind="group"))
    wait_for(lambda: "web" in watched.machine.run(["privbindctl", "check"]).ok().out, "the file")
    assert watched.may(BOB, 443) == [False]
    for times in range(2):
        watched.machine.run(["gpasswd", "--add", "bob", "web"]).ok()
        wait_for(lambda: watched.may(BOB, 443)[0], f"the load with the new member ({times})")
        watched.machine.run(["gpasswd", "--delete", "bob", "web"]).ok()
        wait_for(lambda: not watched.may(BOB, 443)[0], f"the load without the member ({times})")
    assert watched.may(ALICE, 80, 443) == [True, False]


def test_a_new_user_has_the_grant_that_waited_for_her(watched: Watched) -> None:
    """A name that nobody knows is a warning, until /etc/passwd changes."""
    watched.put("carol.toml", grant("carol", "tcp:443"))
    wait_for(lambda: "carol" in watched.log.read_text(), "the warning")
    watched.machine.run(["useradd", "--no-create-home", "--uid=4713", "carol"]).ok()
    wait_for(lambda: watched.may(4713, 443)[0], "the load with the new user")
    watched.machine.run(["userdel", "carol"]).ok()
    wait_for(lambda: not watched.may(4713, 443)[0], "the load without her")


def test_a_broken_file(watched: Watched) -> None:
    """What was in force stays, privbind-load.service is failed and says why, and the next good file is loaded."""
    watched.put("b.toml", "[[grant]]\nuser = ")
    wait_for(lambda: watched.state(LOAD) == "failed", "the failed load")
    assert watched.may(ALICE, 80, 81) == [True, False]
    assert (watched.state(SERVICE), watched.state(PATH)) == ("active", "active")
    assert f"{GRANTS}/b.toml:2: " in watched.log.read_text()
    watched.put("b.toml", grant("bob", "tcp:443"))
    wait_for(lambda: watched.may(BOB, 443)[0], "the load of the good file")
    wait_for(lambda: watched.state(LOAD) == "inactive", "the state of the load")


def test_a_broken_file_at_boot(machine: Machine, site: Path) -> None:
    """privbind.service is failed, but the files are watched: the next good one is loaded, and the service is active."""
    units = {
        f"{SERVICE}.d/path.conf": f"[Unit]\nWants={PATH}\n",
        "default.target.d/wants.conf": f"[Unit]\nWants={SERVICE}\n",
    }
    made = Watched(machine, site, UNITS | units, {"a.toml": "["})
    try:
        assert (made.state(SERVICE), made.state(PATH)) == ("failed", "active")
        assert made.may(ALICE, 80) == [False]
        made.put("a.toml", grant("alice", "tcp:80"))
        wait_for(lambda: made.state(SERVICE) == "active", "the second start")
        assert made.may(ALICE, 80, 81) == [True, False]
        made.system.control("stop", SERVICE).ok()
        assert made.may(ALICE, 80) == [False]
    finally:
        made.system.close()


class Changes:
    """Changes of a file of grants without a pause, for as long as this is entered."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._begun, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._change)

    def _change(self) -> None:
        for number in itertools.count():
            if self._ends.is_set():
                return
            self._watched.put("b.toml", grant("bob", f"tcp:{200 + number % 700}"))
            self._begun.set()

    def __enter__(self) -> None:
        self._thread.start()
        assert self._begun.wait(60)

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


def test_after_a_stop_nothing_is_loaded(watched: Watched) -> None:
    """Whatever is changed, and whatever was going on when it was stopped; a start begins anew."""
    for number in range(rounds(10, 100)):
        with Changes(watched):
            if number % 2:
                wait_for(lambda: watched.state(LOAD) == "activating", "a load")
            watched.system.control("stop", SERVICE).ok()
            watched.put("a.toml", grant("alice", "tcp:80", "tcp:81"))
        wait_for(watched.settled, "the end of all jobs")
        assert (watched.state(SERVICE), watched.state(PATH)) == ("inactive", "inactive")
        assert watched.may(ALICE, 80) == [False], number
        watched.put("a.toml", grant("alice", "tcp:80"))
        assert watched.system.control("start", LOAD).status != 0
        watched.start()
        assert watched.may(ALICE, 80, 81) == [True, False]


def test_of_many_changes_the_last_one_is_in_force(watched: Watched) -> None:
    """50 in five seconds, and 200 as fast as they come, however they fall on the loads."""
    folder = watched.machine.root / GRANTS.lstrip("/")
    for count, interval_s in ((50, 0.1), (200, 0.0)) * rounds(1, 10):
        for number in range(count):
            begun = time.monotonic()
            port = 200 + number
            folder.joinpath(".new").write_text(grant("bob", f"tcp:{port}"))
            folder.joinpath(".new").rename(folder / "b.toml")
            # The pace is the test: a change every tenth of a second.
            time.sleep(max(0.0, interval_s - (time.monotonic() - begun)))
        wait_for(lambda: watched.may(BOB, port)[0], f"the last of {count} changes")  # noqa: B023
        wait_for(watched.settled, "the end of all jobs")
        assert watched.may(BOB, port - 1, port) == [False, True]
        assert (watched.state(SERVICE), watched.state(PATH), watched.state(LOAD)) == ("active", "active", "inactive")


def test_stop_takes_the_grants_out_and_leaves_what_is_bound(watched: Watched) -> None:
    """The same at a restart, which grants anew."""
    hold = "import socket; s = socket.create_server(('', 80)); print('up', flush=True); input()"
    process = watched.machine.popen(
        watched.system.enter(as_user(ALICE, python(hold))), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert read_line(process) == "up\n"
        watched.put("a.toml", grant("alice", "tcp:80", "tcp:81"))
        wait_for(lambda: watched.may(ALICE, 81)[0], "the load")
        watched.system.control("stop", SERVICE).ok()
        assert watched.may(ALICE, 81) == [False]
        assert process.poll() is None
        watched.system.control("restart", SERVICE).ok()
        assert watched.may(ALICE, 81) == [True]
    finally:
        process.communicate("\n")
    assert process.returncode == 0
