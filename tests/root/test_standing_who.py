"""Whose a standing grant is, whatever he runs: each test has one who may and one who may not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ..harness.cases import Bind
from ..harness.host import python, table
from ..harness.install import PROGRAMS, world_readable_folder
from ..harness.needs import build_i386, need
from ..harness.standing import ALICE, BOB, NO_PRIVILEGES, SUBIDS, WEB, StandingHost

GRANTS = """
[[grant]]
user = "alice"
allow = "tcp:80"

[[grant]]
group = "web"
allow = "tcp:443"
"""
BINDS = [
    Bind("tcp", family, address, port) for port in (80, 81) for family, address in (("4", "127.0.0.1"), ("6", "::1"))
]
MAY = ["ok", "ok", "EACCES", "EACCES"]
"""What the binds of 80 and 81 give one who may bind port 80."""
MAY_NOT = ["EACCES"] * 4
SECURE = [Bind("tcp", "4", "127.0.0.1", 443), Bind("tcp", "6", "::", 443)]


@pytest.fixture(scope="module")
def host(installed: Path) -> Iterator[StandingHost]:
    """One host with its grants for all: nothing here changes it."""
    host = StandingHost(installed)
    try:
        host.load(GRANTS)
        yield host
    finally:
        host.close()


@pytest.fixture
def trybind(programs: Path) -> Path:
    return programs / "trybind"


def binds_in(host: StandingHost, user: str, before: Sequence[str], program: Path) -> list[str]:
    """What the binds give that a user makes with these words before the program."""
    argv = [*before, program, *(word for bind in BINDS for word in bind.words())]
    found = host.as_user(user, argv)
    assert len(found.lines) == len(BINDS), found
    return [line.split()[0] for line in found.lines]


def test_the_user_and_another_one(host: StandingHost, trybind: Path) -> None:
    assert host.binds("alice", trybind, *BINDS) == MAY
    assert host.binds("bob", trybind, *BINDS) == MAY_NOT


@pytest.mark.parametrize("more", [[option] for option in NO_PRIVILEGES] + [NO_PRIVILEGES], ids=" ".join)
def test_who_can_gain_no_privilege(host: StandingHost, trybind: Path, more: list[str]) -> None:
    """An empty bounding set and no_new_privs take nothing from a grant."""
    assert host.binds("alice", trybind, *BINDS, more=more) == MAY
    assert host.binds("bob", trybind, *BINDS, more=more) == MAY_NOT


def test_members_of_a_group(host: StandingHost, trybind: Path) -> None:
    """By the group file, whatever groups the process has; and whoever has it as real primary group."""
    for who, more, expected in (
        ("carol", [], "ok"),  # a member, without the supplementary group
        ("carol", [f"--groups={WEB}"], "ok"),
        ("dave", [], "ok"),  # it is the primary group
        ("dave", [f"--regid={BOB}"], "ok"),  # is still a member
        ("bob", [f"--regid={WEB}"], "ok"),  # as after newgrp(1)
        ("bob", [], "EACCES"),
        ("bob", [f"--groups={WEB}"], "EACCES"),  # the kernel's hook cannot see those
        ("alice", [], "EACCES"),
    ):
        assert host.binds(who, trybind, *SECURE, more=more) == [expected] * 2, (who, more)
        assert host.binds(who, trybind, Bind("tcp", "4", "127.0.0.1", 444), more=more) == ["EACCES"]


@pytest.mark.parametrize(
    "mapped", [["--map-root-user"], ["--map-user=5555", "--map-group=5555"], []], ids=["root", "another number", "none"]
)
def test_a_user_namespace_of_the_users(host: StandingHost, trybind: Path, mapped: list[str]) -> None:
    """What he is called there makes no difference, nor that he has all capabilities there."""
    assert binds_in(host, "alice", ["unshare", "--user", *mapped], trybind) == MAY
    assert binds_in(host, "bob", ["unshare", "--user", *mapped], trybind) == MAY_NOT


def test_a_number_in_a_user_namespace_of_anothers(host: StandingHost, trybind: Path) -> None:
    """Who gives himself alice's number there is not alice."""
    claim = ["unshare", "--user", f"--map-user={ALICE}", f"--map-group={WEB}"]
    who = host.as_user("bob", [*claim, "sh", "-c", "id -u; id -g"]).ok()
    assert who.lines == [str(ALICE), str(WEB)]
    assert binds_in(host, "bob", claim, trybind) == MAY_NOT
    assert binds_in(host, "alice", claim, trybind) == MAY


def test_the_users_own_network_namespace(host: StandingHost, trybind: Path) -> None:
    """It is left alone: who made one may bind everything there, and who may not there gets nothing from the grant."""
    own = ["unshare", "--user", "--map-root-user", "--net"]
    up = [*own, "sh", "-ec", 'ip link set lo up; exec "$@"', "sh"]
    for user in ("alice", "bob"):
        assert binds_in(host, user, up, trybind) == ["ok"] * 4
        powerless = [*up, "setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        assert binds_in(host, user, powerless, trybind) == MAY_NOT


def test_another_network_namespace(host: StandingHost, trybind: Path) -> None:
    """One that root made, in which the user has no rights: the grant is for the namespace in which it was loaded."""
    words = host.words_as("alice", [trybind, *(word for bind in BINDS for word in bind.words())])
    found = host.run(["unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh", *words])
    assert found.lines == MAY_NOT


AS = """
import errno, os, socket, sys
gids, uids, ports = (tuple(map(int, word.split(","))) for word in sys.argv[1:])
os.setgroups([])
os.setresgid(*gids)
os.setresuid(*uids)
for port in ports:
    try:
        socket.socket().bind(("127.0.0.1", port))
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("gids", "uids", "expected"),
    [
        ((BOB,) * 3, (ALICE, BOB, BOB), ["ok", "EACCES", "EACCES"]),
        ((BOB,) * 3, (BOB, ALICE, ALICE), ["EACCES"] * 3),
        ((BOB,) * 3, (BOB, BOB, ALICE), ["EACCES"] * 3),
        ((WEB, BOB, BOB), (BOB,) * 3, ["EACCES", "ok", "EACCES"]),
        ((BOB, WEB, WEB), (BOB,) * 3, ["EACCES"] * 3),
    ],
)
def test_the_real_ids_count(
    host: StandingHost, gids: tuple[int, ...], uids: tuple[int, ...], expected: list[str]
) -> None:
    """Not the effective and saved ones: ports 80 (alice's), 443 (web's) and 81 (nobody's)."""
    words = [",".join(map(str, numbers)) for numbers in (gids, uids, (80, 443, 81))]
    assert host.run(python(AS, *words)).ok().lines == expected


def test_a_setuid_program(host: StandingHost, trybind: Path) -> None:
    """Of another user, started by alice, it may; alice's own, started by another, may not."""
    with world_readable_folder(writable=False) as folder:
        for owner, name in ((ALICE, "alices"), (BOB, "bobs")):
            shutil.copy(trybind, folder / name)
            os.chown(folder / name, owner, owner)
            (folder / name).chmod(0o4755)
        assert host.binds("alice", folder / "bobs", *BINDS) == MAY
        assert host.binds("bob", folder / "alices", *BINDS) == MAY_NOT
        assert host.binds("bob", folder / "bobs", *BINDS) == MAY_NOT


def test_subordinate_uids(standing: StandingHost, trybind: Path) -> None:
    """With the key they are meant, at both ends of the range; without it they are not, nor are their neighbours."""
    first, count = SUBIDS
    uids = (first, first + 1, first + 255, first + 256, first + 30000, first + count - 1)
    for key, expected in (("true", MAY), ("false", MAY_NOT)):
        standing.load(f'[[grant]]\nuser = "alice"\nallow = "tcp:80"\nsubids = {key}\n')
        for uid in uids:
            assert standing.binds(uid, trybind, *BINDS) == expected, uid
        for uid in (first - 1, first + count):
            assert standing.binds(uid, trybind, *BINDS) == MAY_NOT, uid
        assert standing.binds("alice", trybind, *BINDS) == MAY


def test_a_container_of_the_users_with_another_user_inside(standing: StandingHost, trybind: Path) -> None:
    """As a rootless container's runtime makes it: newuidmap(1) maps the subordinate uids, and uid 1000 there binds."""
    need("newuidmap")
    mapped = ["unshare", "--user", "--map-auto", "--map-root-user", "--setuid=0", "--setgid=0"]
    inside = [*mapped, "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    who = standing.as_user("alice", [*mapped, "sh", "-c", "id -u; cat /proc/self/uid_map"])
    assert who.lines[:1] == ["0"], who
    for key, expected in (("true", MAY), ("false", MAY_NOT)):
        standing.load(f'[[grant]]\nuser = "alice"\nallow = "tcp:80"\nsubids = {key}\n')
        assert binds_in(standing, "alice", inside, trybind) == expected
        assert binds_in(standing, "alice", mapped, trybind) == MAY


@pytest.mark.parametrize(
    ("program", "arguments", "count"), [("threads", ["16", "50"], 800), ("procs", ["8", "50"], 400)]
)
def test_threads_and_processes(
    host: StandingHost, programs: Path, program: str, arguments: list[str], count: int
) -> None:
    """All bind at once, each socket checked with getsockname."""
    argv = [programs / program, *arguments]
    assert table(host.as_user("alice", argv).ok()) == {"ok": str(count)}
    assert table(host.as_user("bob", argv)) == {"EACCES": str(count)}


@pytest.mark.parametrize("kind", ["static", "musl", "musl-static"])
def test_however_a_program_is_linked(host: StandingHost, programs: Path, kind: str) -> None:
    if "musl" in kind:
        need("musl-gcc")
    assert host.binds("alice", programs / f"trybind-{kind}", *BINDS) == MAY
    assert host.binds("bob", programs / f"trybind-{kind}", *BINDS) == MAY_NOT


def test_32_bit_programs(host: StandingHost, folder: Path) -> None:
    """By their own system calls, socketcall(2) among them."""
    assert host.binds("alice", build_i386("trybind", folder), *BINDS) == MAY
    assert host.binds("bob", folder / "trybind-i386", *BINDS) == MAY_NOT
    argv = [build_i386("net_socketcall", folder), "127.0.0.1", "80", "81", "8080"]
    assert host.as_user("alice", argv).ok().lines == ["ok", "EACCES", "ok"]
    assert host.as_user("bob", argv).ok().lines == ["EACCES", "EACCES", "ok"]


def test_go(host: StandingHost, folder: Path) -> None:
    """Go without the C library."""
    need("go")
    settings = {"CGO_ENABLED": "0", "GOCACHE": str(folder / "cache"), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    argv = ["go", "build", "-o", str(folder / "go"), str(PROGRAMS / "net_bind.go")]
    subprocess.run(argv, env=os.environ | settings, cwd=folder, check=True)
    addresses = ("127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "127.0.0.1:8080")
    assert host.as_user("alice", [folder / "go", *addresses]).ok().lines == ["ok", "ok", "EACCES", "ok"]
    assert host.as_user("bob", [folder / "go", *addresses]).ok().lines == ["EACCES", "EACCES", "EACCES", "ok"]


def test_io_uring(host: StandingHost, programs: Path) -> None:
    """IORING_OP_BIND is a bind like any other."""
    argv = [programs / "net_uring", "127.0.0.1", "80", "81", "8080"]
    found = host.as_user("alice", argv).lines
    if "missing" in found:
        pytest.skip("IORING_OP_BIND needs Linux 6.11 and io_uring enabled")
    assert found == ["ok", "EACCES", "ok"]
    assert host.as_user("bob", argv).lines == ["EACCES", "EACCES", "ok"]


def test_mptcp(host: StandingHost, trybind: Path) -> None:
    """Counts as TCP."""
    binds = [bind._replace(protocol="mptcp") for bind in BINDS]
    assert host.binds("alice", trybind, *binds) == MAY
    assert host.binds("bob", trybind, *binds) == MAY_NOT


def test_a_socket_that_is_handed_on(host: StandingHost) -> None:
    """Who binds counts, not who made the socket."""
    code = (
        "import os, socket, sys\n"
        "sock = socket.socket()\n"
        "os.setgroups([])\n"
        "uid = int(sys.argv[1])\n"
        "os.setresuid(uid, uid, uid)\n"
        "sock.bind(('127.0.0.1', 80))\n"
    )
    assert host.run(python(code, str(ALICE))).status == 0
    found = host.run(python(code, str(BOB)))
    assert found.status == 1
    assert "Permission denied" in found.err


def test_when_more_ports_become_reserved(standing: StandingHost, trybind: Path) -> None:
    """A grant of a port holds as soon as the port is reserved, without another load."""
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:1500"\n')
    binds = [Bind("tcp", "4", "127.0.0.1", port) for port in (1500, 1501)]
    assert standing.binds("bob", trybind, *binds) == ["ok", "ok"]
    standing.run(["sh", "-c", "echo 2000 > /proc/sys/net/ipv4/ip_unprivileged_port_start"]).ok()
    assert standing.binds("alice", trybind, *binds) == ["ok", "EACCES"]
    assert standing.binds("bob", trybind, *binds) == ["EACCES", "EACCES"]
