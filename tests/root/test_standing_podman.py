"""Rootless Podman with a standing grant: ports that it publishes, and programs in the host's network as other users.

The images are folders with one static busybox; nothing is fetched.
"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from ..harness.host import Result
from ..harness.machine import ALICE, BOB, Granted
from ..harness.needs import need
from ..harness.recipes import BLOCKS, words

MOUNTS = """
mknod -m 666 /run/tun c 10 200
mount --bind /run/tun /dev/net/tun
"""

PREPARE = """
printf 'alice:100000:65536\\nbob:165536:65536\\n' > /etc/subuid
cp /etc/subuid /etc/subgid
for user in alice bob; do
    home=/home/$user
    mkdir -p $home/root/bin $home/root/www $home/root/etc $home/root/proc $home/root/dev $home/root/sys $home/root/tmp
    install "$(command -v busybox)" $home/root/bin/busybox
    for name in sh httpd nc id; do ln -s busybox $home/root/bin/$name; done
    echo hello > $home/root/www/hello.txt
    chown -R $user:$user $home
    install -d -m 700 -o $user -g $user /run/user/$(id -u $user)
done
"""
"""Two users with subordinate ids, each with a folder to start containers from."""


class Podman:
    """A user's Podman on a machine."""

    def __init__(self, machine: Granted, uid: int) -> None:
        self._machine = machine
        self._name = {ALICE: "alice", BOB: "bob"}[uid]
        self._user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", "--inh-caps=-all"]
        self._user += ["env", "-C", f"/home/{self._name}", f"HOME=/home/{self._name}", f"USER={self._name}"]
        self._user += [f"XDG_RUNTIME_DIR=/run/user/{uid}"]

    def user(self, argv: list[str]) -> list[str]:
        """A command line as the user."""
        return [*self._user, *argv]

    def argv(self, *words: str) -> list[str]:
        """Podman's own command line, but for what this kind of machine lacks: systemd, and cgroups to limit by."""
        return self.user(["podman", "--cgroup-manager=cgroupfs", "--runtime=runc", *words])

    def run_argv(self, *options: str, command: tuple[str, ...]) -> list[str]:
        """`podman run --rm` with a folder in the place of an image."""
        limits = ["--pids-limit=0", "--ulimit=nofile=1024:1024", "--ulimit=nproc=2000:2000"]
        return self.argv("run", "--rm", *limits, *options, "--rootfs", f"/home/{self._name}/root", *command)

    def run(self, *options: str, command: tuple[str, ...]) -> Result:
        """Run a container to its end."""
        return self._machine.run(self.run_argv(*options, command=command))

    def serve(self, *options: str) -> subprocess.Popen[Any]:
        """Start a container with a web server on its port 8000, and wait for the port 80 outside."""
        command = ("/bin/httpd", "-f", "-p", "8000", "-h", "/www")
        process = self._machine.popen(
            self.run_argv(*options, command=command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._machine.serves(process)
        return process


@pytest.fixture
def machine(granted: Granted) -> Granted:
    """With what rootless Podman needs: /dev/net/tun for everybody, subordinate ids, a folder instead of an image."""
    need("podman", "slirp4netns", "newuidmap", "busybox", "runc")
    granted.run(["sh", "-ec", MOUNTS + PREPARE]).ok()
    return granted


def options(name: str) -> list[str]:
    """What a line of the page gives to `podman run --rm`, but for the image, which is called site there."""
    argv = words(name)
    assert (argv[:3], argv[-1]) == (["podman", "run", "--rm"], "site")
    return argv[3:-1]


REFUSED = "cannot expose privileged port {}"


@pytest.mark.parametrize("network", ["slirp4netns", "slirp4netns:port_handler=slirp4netns"])
def test_a_published_port(machine: Granted, network: str) -> None:
    """-p 80 serves the page with the grant; not without it, not on port 81, not for another user.

    By default rootlessport, a process of Podman's, forwards; slirp4netns can do that itself.
    """
    by_podman = network == "slirp4netns"
    alice, bob = Podman(machine, ALICE), Podman(machine, BOB)

    def refused(podman: Podman, port: int) -> None:
        found = podman.run(f"--network={network}", "-p", f"{port}:8000", command=("/bin/id",))
        assert found.status != 0
        assert (REFUSED.format(port) if by_podman else "slirp4netns") in found.err, found

    refused(alice, 80)
    machine.ctl("allow", "alice", "tcp:80").ok()
    alice.serve(f"--network={network}", *options("user-podman"))
    machine.answers()
    refused(alice, 81)
    machine.ctl("disallow", "alice").ok()
    # A port of bob's, so that it is not the port's being taken.
    machine.ctl("allow", "alice", "tcp:81").ok()
    refused(bob, 81)


FILE = "mkdir -p /etc/privbind/grants.d; cat > /etc/privbind/grants.d/subids.toml"


def test_another_user_in_a_container_on_the_hosts_network(machine: Granted) -> None:
    """With `subids = true` the user's subordinate uids have the grant; without it her own uid only, the inner root."""
    alice, bob = Podman(machine, ALICE), Podman(machine, BOB)
    bind = ("/bin/sh", "-c", 'httpd -p "$0" -h /www && echo bound')

    def may(podman: Podman, user: str, port: int) -> bool:
        given = [f"--user={user}" if word == "--user=1000" else word for word in options("user-podman-host")]
        found = podman.run(*given, command=(*bind, str(port)))
        if found.status == 0:
            assert found.out == "bound\n"
            return True
        assert "Permission denied" in found.err, found
        return False

    assert not may(alice, "0", 80)
    machine.run(["sh", "-ec", FILE], input=BLOCKS["subids.toml"].replace("subids = true\n", "")).ok()
    machine.ctl("load").ok()
    assert may(alice, "0", 80)
    assert not may(alice, "1000", 80)
    machine.run(["sh", "-ec", FILE], input=BLOCKS["subids.toml"]).ok()
    machine.ctl("load").ok()
    assert may(alice, "1000", 80)
    assert not may(alice, "1000", 81)
    assert not may(bob, "1000", 80)


ROUTE = """
ip link add outer type veth peer name far
ip link set far up
ip address add 192.0.2.1/24 dev outer
ip link set outer up
ip route add default via 192.0.2.2
"""
"""pasta gives its namespace the addresses of the interface with the default route."""


def test_pasta(machine: Granted) -> None:
    """What Podman 5 forwards with, started as Podman starts it, since this Podman cannot be told to use it."""
    need("pasta")
    machine.run(["sh", "-ec", ROUTE]).ok()
    serve = ["busybox", "httpd", "-f", "-p", "8000", "-h", "/home/alice/root/www"]

    def argv(port: int, *command: str) -> list[str]:
        forward = ["-t", f"{port}:8000", "-u", "none", "-T", "none", "-U", "none"]
        return Podman(machine, ALICE).user(["pasta", "--config-net", *forward, "--", *command])

    def refused(port: int) -> None:
        found = machine.run(argv(port, "id"))
        assert found.status != 0
        assert "Failed to bind" in found.err, found

    refused(80)
    machine.ctl("allow", "alice", "tcp:80").ok()
    process = machine.popen(argv(80, *serve), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    machine.answers()
    refused(81)
