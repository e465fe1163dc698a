"""Launches under bpf without the command line: prepared here, their command a forked process; and cgroups to try on."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from privbind.account import Account
from privbind.grant.grant import Grant
from privbind.grant.holder import Holder
from privbind.grant.policy import Policy, parse_ports
from privbind.grant.site import Site
from privbind.linux import bpf as calls
from privbind.linux import cgroup, sockets
from privbind.linux.cgroup import Cgroup
from privbind.mechanisms import Prepared, bpf
from privbind.mechanisms.bpf import own_cgroup
from privbind.request import Command
from privbind.request.program import Program

from .forks import NOBODY, become_nobody, forked, in_host

T = TypeVar("T")

COMMAND = Command(Account(NOBODY, NOBODY, ()), (b"./server", b"two\nlines"), Program(b"./server", b"./server", None))


def a_grant(rules: str = "", limit: int = 0, reuse: str = "") -> Grant:
    """A grant of these rules; of everything where there are none."""
    policy = Policy.parse([rules]) if rules else Policy(None)
    return Grant(policy, limit, parse_ports(reuse) if reuse else ())


def here(port_start: int = 1024) -> Site:
    """This process's network namespace, where ports from ``port_start`` on are not reserved."""
    return Site(sockets.netns_cookie(), port_start)


def holder() -> Holder:
    """This process, for nobody."""
    return Holder(str(NOBODY), NOBODY, NOBODY, COMMAND.argv, os.getpid(), int(time.time()))


def prepared(rules: str = "", limit: int = 0, reuse: str = "") -> bpf._Bpf:
    """A launch for nobody; this process is in its cgroup from then on, until it cancels the launch."""
    return prepared_grant(a_grant(rules, limit, reuse))


def prepared_grant(grant: Grant, port_start: int = 1024) -> bpf._Bpf:
    """The same, for any grant."""
    bpf.probe(grant, here(port_start), COMMAND)
    launch = bpf.prepare(grant, holder(), here(port_start), COMMAND)
    assert isinstance(launch, bpf._Bpf)
    return launch


def as_command(work: Callable[[], T]) -> T:
    """What ``work`` gives as nobody, in a child of this process and so in the same cgroup."""

    def inside() -> T:
        become_nobody()
        return work()

    return forked(inside)


def outside(launch: bpf._Bpf, work: Callable[[], T]) -> T:
    """What ``work`` gives as nobody, in the cgroup that a launch was made in."""

    def beside() -> T:
        launch._parent.enter()
        become_nobody()
        return work()

    return forked(beside)


def granted(work: Callable[[], T], rules: str = "", limit: int = 0, reuse: str = "") -> T:
    """What ``work`` gives as a command under a grant, on a host of its own."""

    def host() -> T:
        launch = prepared(rules, limit, reuse)
        try:
            return as_command(work)
        finally:
            launch.cancel()

    return in_host(host)


def execute(launch: Prepared, argv: list[str | Path]) -> str:
    """What a program prints that is executed as the command of a launch that this process has prepared."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            launch.enter()
            become_nobody()
            os.dup2(writer, 1)
            os.execve(argv[0], [str(word) for word in argv], {})
        os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as file:
        out = file.read()
    os.waitpid(pid, 0)
    return out


def counters(cgroup_fd: int) -> dict[str, int]:
    """The counters of the grant on a cgroup, found as anybody with the privilege finds them."""
    granted, refused, bound = struct.unpack("<QQQ", maps_of(cgroup_fd)["counters"])
    return {"granted": granted, "refused": refused, "bound": bound}


def maps_of(cgroup_fd: int) -> dict[str, bytes]:
    """The values of the maps of the program on a cgroup's IPv4 bind hook, by name."""
    (program,) = calls.query(cgroup_fd, calls.INET4_BIND)[1]
    found = {}
    fd = calls.open_program(program)
    for number in calls.program_info(fd)[2]:
        map_fd = calls.open_map(number)
        name, size = calls.map_info(map_fd)
        found[name] = calls.read_array(map_fd, size)
        os.close(map_fd)
    os.close(fd)
    return found


def program_exists(number: int) -> bool:
    """Whether the kernel still has a program with this id."""
    try:
        os.close(calls.open_program(number))
    except OSError:
        return False
    return True


def leftover(own: Cgroup) -> list[str]:
    """The empty cgroups of ended launches below this one. Other test runs may have launches of their own."""
    return [name for name in launches_in(own.fd) if _ended(own, name)]


def launches_in(cgroup_fd: int) -> list[str]:
    """The cgroups of launches below this one, by name."""
    return [name for name in os.listdir(cgroup_fd) if own_cgroup.is_name(name)]


def _ended(own: Cgroup, name: str) -> bool:
    if Path(f"/proc/{own_cgroup.pid_of(name)}").exists():
        return False
    try:
        return "populated 0" in cgroup._read_at(f"{name}/cgroup.events", own.fd)
    except OSError:
        return False


class Tree:
    """A cgroup of the test's own, and others below it by name; all gone at the end."""

    def __init__(self) -> None:
        """Make it below the own one."""
        self._own = cgroup.own()
        self.name = f"privbind-test.{os.getpid()}.{random.getrandbits(32)}"
        os.mkdir(self.name, 0o755, dir_fd=self._own.fd)
        self.fd = os.open(self.name, os.O_RDONLY, dir_fd=self._own.fd)
        self.path = f"{self._own.path.rstrip('/')}/{self.name}"

    def make(self, name: str) -> str:
        """Make one below."""
        os.mkdir(name, 0o755, dir_fd=self.fd)
        return name

    def open(self, name: str = ".") -> Cgroup:
        """It, or one below."""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        below = 0 if name == "." else 1 + name.count("/")
        return Cgroup(f"{self.path}/{name}", fd, self._own.depth + 1 + below, self._own.exact)

    def write(self, file: str, text: str) -> None:
        """Write to one of its files."""
        fd = os.open(file, os.O_WRONLY, dir_fd=self.fd)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def enter(self, name: str = ".") -> None:
        """Move this process into it, or into one below."""
        self.write(f"{name}/cgroup.procs", "0")

    def leave(self) -> None:
        """Move this process to where the test run is."""
        self._own.enter()

    def remove(self) -> None:
        """Remove it with all that is below, whoever made that."""
        os.close(self.fd)
        for _, folders, _, folder in os.fwalk(self.name, topdown=False, dir_fd=self._own.fd):
            for name in folders:
                os.rmdir(name, dir_fd=folder)
        os.rmdir(self.name, dir_fd=self._own.fd)
        self._own.close()
