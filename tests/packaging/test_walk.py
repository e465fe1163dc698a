"""A newcomer's walk: a Debian as it is new, and nothing but what the README's first screen says to type."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness.containers import NOTHING, TCP_80, TRY, Node, binds
from ..harness.debian import Built, Debian
from ..harness.host import Result, python, wait_for
from ..harness.install import ROOT, world_readable_folder
from ..harness.machine import GET, denied, descendants
from ..harness.needs import need
from ..harness.readme import DRIVER, EXAMPLE_SAYS, block
from ..harness.systemd import INIT, SYSTEMD, TARGETS

SERVER = "/usr/bin/python3 -m http.server 80"
UNIT = """\
[Service]
User=www-data
ExecStart={server}
{line}
"""


class Newcomer(Debian):
    """Whoever has just installed privbind, as the README says."""

    def __init__(self, built: Built) -> None:
        super().__init__(built.suite, built.folder)
        self.line = block(ROOT, "make deb").splitlines()[1]
        # `make deb` has been done: what it makes is in /mnt.
        self.sh("mkdir -p /root/dist/debian; ln -s /mnt /root/dist/debian/bookworm; cd /root; yes | " + self.line)
        # And then it is as the README has it, but on a machine whose own cgroups are nobody's to change.
        self.keep_to_own_cgroup()

    def serves(self) -> bool:
        """Whether something answers on port 80."""
        return self.run(python(GET, "")).status == 0


@pytest.fixture
def newcomer(built: Built) -> Iterator[Newcomer]:
    """A new one for each walk."""
    with contextlib.closing(Newcomer(built)) as made:
        yield made


def test_a_user(newcomer: Newcomer) -> None:
    """alice is refused port 80; one line; she serves on it, plainly. bob is refused still, and so is port 81."""
    newcomer.sh("useradd alice; useradd bob")

    def command(user: str, port: int) -> list[str]:
        server = SERVER.replace("80", str(port)).split()
        return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *server]

    denied(newcomer.run(command("alice", 80)))
    newcomer.sh(block(ROOT, "privbindctl allow"))
    denied(newcomer.run(command("alice", 81)))
    denied(newcomer.run(command("bob", 80)))
    server = newcomer.popen(command("alice", 80), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(newcomer.serves, "alice's server")
    assert server.poll() is None


def test_a_service(newcomer: Newcomer) -> None:
    """Under a real systemd: without the line the service fails, with it it serves, as its user."""
    with contextlib.closing(Booted(newcomer)) as booted:

        def becomes(state: str, line: str) -> None:
            newcomer.path("/etc/systemd/system/site.service").write_text(UNIT.format(server=SERVER, line=line))
            booted.control("daemon-reload").ok()
            booted.control("start", "site.service")
            shows = ("show", "site.service", "--property=ActiveState", "--value")
            wait_for(lambda: booted.control(*shows).out == f"{state}\n", f"a unit that is {state}")

        becomes("failed", "")
        assert not newcomer.serves()
        becomes("active", block(ROOT, "ExecStartPre"))
        wait_for(newcomer.serves, "the service's server")
        (main,) = booted.control("show", "site.service", "--property=MainPID", "--value").lines
        owner = booted.run("stat", "--format=%U", f"/proc/{main}").out
        assert owner == "www-data\n"


BOOT = INIT.replace("mount -t sysfs -o ro sysfs /sys\n", "umount /sys/fs/cgroup\n")
"""In a Debian, /sys is mounted, and of its cgroups another part."""


def is_systemd(pid: int) -> bool:
    """Whether a process is systemd by now."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
    except FileNotFoundError:
        return False


class Booted:
    """A systemd as process 1 of namespaces of its own in a Debian, with that Debian's units in /etc/systemd/system."""

    def __init__(self, debian: Debian) -> None:
        units = debian.path("/srv/site/units")
        units.mkdir(parents=True)
        for name in TARGETS:
            (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        start = (
            "mkdir /sys/fs/cgroup/booted; echo $$ > /sys/fs/cgroup/booted/cgroup.procs; export SYSTEMD=$1; shift; "
            'exec unshare --mount --uts --ipc --pid --cgroup --fork sh -ec "$1"'
        )
        self._debian = debian
        self._process: subprocess.Popen[Any] = debian.popen(
            ["sh", "-ec", start, "sh", SYSTEMD, BOOT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self.pid = wait_for(self._up, "systemd's start")

    def _up(self) -> int:
        assert self._process.poll() is None, "systemd ended"
        below = next((pid for pid in descendants(self._process.pid) if is_systemd(pid)), 0)
        return (
            below
            if below and self._run(below, "systemctl", "is-system-running").out in ("running\n", "degraded\n")
            else 0
        )

    def control(self, *words: str) -> Result:
        """Run systemctl there."""
        return self.run("systemctl", *words)

    def run(self, *argv: str) -> Result:
        """Run a program there."""
        return self._run(self.pid, *argv)

    def _run(self, pid: int, *argv: str) -> Result:
        kinds = ("--mount", "--uts", "--ipc", "--pid", "--cgroup", "--net", "--root", "--wdns=/")
        words = ["nsenter", f"--target={pid}", *kinds, *argv]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        """End all in the Debian's cgroup, this among it."""
        self._process.kill()


def test_a_container(installed: Path, programs: Path) -> None:
    """By Podman's runtime entry, on this machine, which has Podman: port 80 and no other, without any capability."""
    need("podman", "runc")
    install, run = map(shlex.split, block(ROOT, "privbindctl oci-install").splitlines())
    assert (run[0], run[-1]) == ("podman", "IMAGE")
    with world_readable_folder() as folder, contextlib.closing(Node(installed, folder, programs)) as node:
        place = node.folder / "podman"
        own = [f"--root={place}/root", f"--runroot={place}/run", f"--tmpdir={place}/tmp", "--storage-driver=vfs"]
        own += ["--cgroup-manager=cgroupfs", "--events-backend=none"]
        at = run.index("run") + 1
        here = ["--pids-limit=0", "--ulimit=nofile=1024:1024", "--ulimit=nproc=2000:2000", "--log-driver=none"]
        here += [f"--cgroup-parent={node.tree.path}"]

        def container(*front: str) -> list[str]:
            argv = ["podman", *own, *front, "run", *here, *run[at:-1], "--rootfs", node.root, *TRY.split()]
            return binds(node.run(argv))

        assert container("--runtime", "runc") == NOTHING
        node.ctl(*install[1:]).ok()
        assert container(*run[1 : at - 1]) == TCP_80


def test_a_single_program(newcomer: Newcomer) -> None:
    """The server on port 80 runs as nobody, without a capability; nobody's own is refused, and so is port 81."""
    example = block(ROOT, "privbind -u nobody").strip()
    assert newcomer.run(["/usr/bin/python3", "-I", "-c", DRIVER, example]).ok().lines[-4:] == EXAMPLE_SAYS


def test_what_the_programs_had_said(newcomer: Newcomer) -> None:
    """Python's line is one of those that the README begins with; the others' are in tests of their own."""
    errors = block(ROOT, "Error: listen EACCES").splitlines()
    assert "PermissionError: [Errno 13] Permission denied" in errors
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *SERVER.split()]
    assert newcomer.run(as_nobody).err.splitlines()[-1] in errors
