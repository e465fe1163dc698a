"""-r: SO_REUSEPORT on every port that it names, reserved or not, by every mechanism that sees the bind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import MANY, Host, python, read_line, table, wait_for
from ..harness.needs import need

pytestmark = pytest.mark.parametrize("mechanism", MECHANISMS)

SHARED = """
import errno, socket, sys
def bind(family, kind, address, port):
    s = socket.socket(family, kind)
    try:
        s.bind((address, port))
        return s, s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    except OSError as error:
        return s, errno.errorcode[error.errno]
held = []
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for port in map(int, sys.argv[1:]):
            held.append(bind(family, kind, address, port))
            print(held[-1][1], end=" ")
        print()
"""
"""Binds the ports among its arguments one after the other, and keeps them; of each the option, or the errno."""

HOLD = """
import socket, sys
held = []
try:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            held.append(socket.socket(family, kind))
            held[-1].bind((address, int(sys.argv[1])))
            if kind == socket.SOCK_STREAM:
                held[-1].listen()
    print("all", flush=True)
except OSError as error:
    print(error.errno, flush=True)
sys.stdin.read()
"""
"""Binds a port by TCP and UDP, IPv4 and IPv6, listens, says so, and stays."""

TWICE = ["80", "80", "81", "81", "8080", "8080", "8081", "8081"]
EADDRINUSE = "98"


@pytest.fixture
def unreserved(installed: Path) -> Iterator[Host]:
    """A host where no port is reserved."""
    host = Host(installed, "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    yield host
    host.close()


def shared(host: Host, mechanism: str, ports: list[str], *options: str) -> list[str]:
    """What each of the ports gave, by whatever family and protocol."""
    found = host.granted(python(SHARED, *ports), f"--via={mechanism}", *options).ok()
    assert len(found.lines) == 4
    assert len(set(found.lines)) == 1, found
    return found.lines[0].split()


def test_within_one_command(host: Host, mechanism: str) -> None:
    """Set on the ports named, so that two sockets share one; not on others, and not without -r."""
    wanted = ["1", "1", "0", "EADDRINUSE"]
    assert shared(host, mechanism, TWICE, "-r80,8080") == wanted * 2
    assert shared(host, mechanism, TWICE, "-r8000-8080", "--allow=80-81") == ["0", "EADDRINUSE"] * 2 + wanted
    assert shared(host, mechanism, TWICE, "-rany") == ["1"] * 8
    assert shared(host, mechanism, TWICE) == ["0", "EADDRINUSE"] * 4


@pytest.mark.parametrize("port", ["80", "8080"])
def test_two_commands_listen_on_one_port(host: Host, mechanism: str, port: str) -> None:
    """Of the same user. Without -r the second finds it in use, and so it does when only one of them has -r."""

    def hold(*options: str) -> subprocess.Popen[Any]:
        return host.start(python(HOLD, port), f"--via={mechanism}", *options, stdin=-1, stdout=-1)

    first = hold(f"-r{port}")
    assert read_line(first) == "all\n"
    assert read_line(hold()) == f"{EADDRINUSE}\n"
    assert read_line(hold(f"-r{port}")) == "all\n"
    first.communicate()
    assert read_line(hold(f"-r{port}")) == "all\n"


def test_nothing_else_is_granted(host: Host, mechanism: str) -> None:
    """A reserved port that -r names and no rule permits stays out of reach."""
    assert shared(host, mechanism, ["80", "81", "81"], "-r80-81", "--allow=80") == ["1", "EACCES", "EACCES"]


def test_a_limit_neither_counts_nor_ends_it(host: Host, mechanism: str) -> None:
    """-n is about reserved ports: the others are shared before and after the last bind of the limit."""
    code = SHARED.replace(', (socket.AF_INET6, "::1")', ",").replace("SOCK_STREAM, socket.SOCK_DGRAM", "SOCK_STREAM,")
    ports = ["8080", "8080", "80", "8080", "81", "81", "8080", "8080"]
    found = host.granted(python(code, *ports), f"--via={mechanism}", "-n2", "-r8080").ok()
    assert found.out.split() == ["1", "1", "0", "1", "0", "EACCES", "1", "1"]
    found = host.granted(python(code, *ports), f"--via={mechanism}", "-n1", "-r8080").ok()
    assert found.out.split() == ["1", "1", "0", "1", "EACCES", "EACCES", "1", "1"]


@pytest.mark.parametrize("rules", [[], ["--allow=tcp:8080"]])
def test_where_nothing_is_reserved(unreserved: Host, mechanism: str, rules: list[str]) -> None:
    """There is nothing to grant, but this is still to be done; without -r no mechanism is needed."""
    assert shared(unreserved, mechanism, ["80", "80", "8080", "8080"], "-r80,8080", *rules) == ["1"] * 4
    told = unreserved.granted(["true"], "-v", f"--via={mechanism}", "-r8080", *rules).ok().err
    assert f"mechanism: {mechanism} " in told
    assert "SO_REUSEPORT on 8080" in told
    assert "mechanism: none" in unreserved.granted(["true"], "-v", f"--via={mechanism}", *rules).ok().err


def test_there_is_nothing_to_warn_of(host: Host, mechanism: str) -> None:
    """The ports of -r need not be reserved."""
    assert host.granted(["true"], f"--via={mechanism}", "-r8080", "--allow=tcp:80").ok().err == ""


@pytest.mark.parametrize("program", ["serve", "serve-musl", "serve-musl-static"])
def test_servers_in_c(host: Host, programs: Path, mechanism: str, program: str) -> None:
    """Two on one port, whatever they are linked with; a static one is out of preload's reach."""
    if "musl" in program:
        need("musl-gcc")
    argv = [programs / program, "8080"]
    if mechanism == "preload" and "static" in program:
        assert "statically linked" in host.granted(argv, "--via=preload", "-r8080").err
        return

    def listeners() -> int:
        return host.run(["cat", "/proc/net/tcp"]).ok().out.count(":1F90 00000000:0000 0A")

    host.start(argv, f"--via={mechanism}", "-r8080")
    wait_for(lambda: listeners() == 1, "the first listener")
    alone = host.granted(argv, f"--via={mechanism}")
    assert alone.status == 1
    assert " in use" in alone.err, alone
    host.start(argv, f"--via={mechanism}", "-r8080")
    wait_for(lambda: listeners() == 2, "the second listener")


@pytest.mark.parametrize("library", ["", "-musl"])
def test_bad_addresses_give_what_root_gets(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """Pointers to nothing and odd lengths, with every port named."""
    if library:
        need("musl-gcc")
    argv = [programs / f"efault{library}"]
    assert table(host.granted(argv, f"--via={mechanism}", "-rany").ok()) == table(host.run(argv).ok())


def test_other_sockets_are_left_alone(host: Host, mechanism: str) -> None:
    """The command line's ports are those of the launch's network namespace, and every other bind works as ever."""
    code = (
        "import os, socket\n"
        "with socket.socket(socket.AF_UNIX) as s: s.bind('\\0privbind-test')\n"
        "with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as s: s.bind((0, 0))\n"
        "with socket.socket() as s: s.bind(('127.0.0.1', 0)); print(s.getsockopt(1, 15))\n"
    ) + MANY
    found = host.granted(python(code, "80", "8080", "8080"), f"--via={mechanism}", "-r8080").ok()
    assert found.out.split() == ["0", "ok", "ok", "ok"]
