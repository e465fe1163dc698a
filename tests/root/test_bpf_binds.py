"""The bpf mechanism by itself, against the kernel: decisions, the limit, strangers, launches side by side or nested."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from privbind.grant import record
from privbind.grant.grant import Grant
from privbind.grant.policy import Policy, Ports, Rule
from privbind.linux import bpf as calls
from privbind.linux import sockets
from privbind.mechanisms import Prepared, bpf
from privbind.mechanisms.bpf import compiler

from ..harness.forks import CLONE_NEWNET, become_nobody, bind_to, forked, in_host, loopback_up, try_bind, unshare
from ..harness.host import wait_for
from ..harness.launches import (
    a_grant,
    as_command,
    counters,
    execute,
    granted,
    maps_of,
    prepared,
    prepared_grant,
    program_exists,
)
from ..harness.patience import fewer

pytestmark = pytest.mark.usefixtures("nothing_stays")

UDPLITE = 136


def udplite() -> list[tuple[int, int, None]]:
    """The kind of its sockets, where the kernel has it: the newest have no UDP-Lite any more."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, UDPLITE).close()
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return []
    return [(socket.SOCK_DGRAM, UDPLITE, None)]


class Mismatch(NamedTuple):
    """A bind that the kernel decided otherwise than the policy."""

    policy: str
    protocol: str | None
    address: str
    port: int
    found: str


class Tally(NamedTuple):
    """What many binds gave."""

    wrong: list[Mismatch]
    granted: int
    refused: int


def test_the_control() -> None:
    """Without a grant nobody binds a reserved port here: else every test of this file would say nothing."""

    def plain() -> list[str]:
        become_nobody()
        return [try_bind(80), try_bind(80, "::"), try_bind(8080)]

    assert in_host(plain) == ["EACCES", "EACCES", "ok"]


def test_granted_and_not() -> None:
    assert granted(lambda: [try_bind(80), try_bind(81), try_bind(80, "::"), try_bind(8080)], "tcp:80") == [
        "ok",
        "EACCES",
        "ok",
        "ok",
    ]


class TestRandomPolicies:
    """The kernel decides as `Policy.permits` does."""

    ADDRESSES = (
        "0.0.0.0",
        "127.0.0.1",
        "127.0.0.2",
        "127.128.0.1",
        "10.0.0.1",
        "10.1.2.3",
        "192.168.77.9",
        "255.1.1.1",
    )
    ADDRESSES_6 = ("::", "::1", "fd00::1", "fd00:0:0:1::2", "fd80::1", "2001:db8::1", "::2:0:0:1")
    ALL = ADDRESSES + ADDRESSES_6 + tuple(f"::ffff:{address}" for address in ADDRESSES)
    PORTS = (1, 22, 79, 80, 81, 443, 1000, 1023, 1024, 8080)
    KINDS = ((socket.SOCK_STREAM, 0, "tcp"), (socket.SOCK_DGRAM, 0, "udp"), *udplite())
    POLICIES = fewer(400)
    BINDS = 60

    def rule(self, chance: random.Random) -> Rule:
        protocol = chance.choice(("tcp", "udp", None))
        low = chance.choice((chance.choice(self.PORTS), chance.randint(1, 1100)))
        ports = Ports(low, max(low, chance.choice((low, low + 1, low + 30, 1023, 65535))))
        if chance.random() < 0.25:
            return Rule(protocol, None, 0, ports)
        address = ipaddress.ip_address(chance.choice(self.ALL)).packed
        bits = 8 * len(address)
        prefix = chance.choice((bits, bits, 0, 8, 9, bits - 1, min(bits, 64), min(bits, 96), chance.randint(0, bits)))
        number = int.from_bytes(address, "big") >> bits - prefix << bits - prefix
        return Rule(protocol, number.to_bytes(len(address), "big"), prefix, ports)

    def mismatches(self, seed: int) -> Tally:
        """What the kernel decided otherwise, and how many binds were granted and refused."""
        chance = random.Random(seed)
        policy = Policy([self.rule(chance) for _ in range(chance.choice((1, 2, 3, 5, 10, 30, 100)))])
        launch = prepared_grant(Grant(policy))

        def binds() -> Tally:
            wrong: list[Mismatch] = []
            lifted = refused = 0
            for _ in range(self.BINDS):
                kind, number, protocol = chance.choice(self.KINDS)
                address = chance.choice(self.ALL)
                port = chance.choice((chance.choice(self.PORTS), chance.randint(1, 1100)))
                permitted = port >= 1024 or policy.permits(protocol, ipaddress.ip_address(address).packed, port)
                found = try_bind(port, address, kind, number)
                if found != ("ok" if permitted else "EACCES"):
                    wrong.append(Mismatch(str(policy), protocol, address, port, found))
                lifted += permitted
                refused += not permitted
            return Tally(wrong, lifted, refused)

        try:
            return as_command(binds)
        finally:
            launch.cancel()

    def test_no_mismatch(self) -> None:
        def host() -> list[Tally]:
            for family in ("ipv4", "ipv6"):  # any address may be bound in this network namespace
                Path(f"/proc/sys/net/{family}/ip_nonlocal_bind").write_text("1")
            return [self.mismatches(seed) for seed in range(self.POLICIES)]

        found = in_host(host)
        assert [tally.wrong for tally in found if tally.wrong] == []
        assert sum(tally.granted for tally in found) > 5 * self.POLICIES
        assert sum(tally.refused for tally in found) > 5 * self.POLICIES


class TestLimit:
    """-n, exactly."""

    ROUNDS = fewer(200)

    def test_eight_processes(self) -> None:
        """8 processes bind at once, TCP and UDP of both families: always exactly so many succeed; then none does."""

        def round_of(limit: int) -> tuple[int, set[str], list[str], int]:
            launch = prepared(limit=limit)

            def command() -> tuple[int, set[str], list[str], int]:
                start, go = os.pipe()
                reader, writer = os.pipe()
                pids = []
                for number in range(8):
                    pid = os.fork()
                    if pid == 0:
                        os.close(go)
                        held: list[socket.socket] = []
                        found = []
                        os.read(start, 1)  # until nobody can write any more
                        for i in range(4):
                            kind = (socket.SOCK_STREAM, socket.SOCK_DGRAM)[i % 2]
                            found.append(try_bind(100 + 8 * number + i, ("127.0.0.1", "::1")[i // 2], kind, held=held))
                        os.write(writer, " ".join(found).encode() + b" ")
                        os._exit(0)
                    pids.append(pid)
                os.close(go)
                for pid in pids:
                    os.waitpid(pid, 0)
                os.close(writer)
                with os.fdopen(reader) as file:
                    found = file.read().split()
                later = [try_bind(80), try_bind(80, "::1", socket.SOCK_DGRAM), try_bind(8080)]
                return found.count("ok"), set(found), later, len(found)

            try:
                return as_command(command)
            finally:
                launch.cancel()

        def host() -> list[tuple[int, tuple[int, set[str], list[str], int]]]:
            chance = random.Random(7)
            limits = [chance.randint(1, 31) for _ in range(self.ROUNDS)]
            return [(limit, round_of(limit)) for limit in limits]

        for limit, (successes, kinds, later, all_tries) in in_host(host):
            assert (successes, all_tries) == (limit, 32)
            assert kinds <= {"ok", "EACCES"}
            assert later == ["EACCES", "EACCES", "ok"]

    def test_a_refused_port_is_free(self) -> None:
        """What the second hook takes back is really given back, to the same socket and to others."""

        def work() -> tuple[int, list[str]]:
            found: list[str] = []
            start = threading.Barrier(8)
            held: list[socket.socket] = []

            def bind(number: int) -> None:
                sock = socket.socket()
                start.wait()
                try:
                    sock.bind(("127.0.0.1", 100 + number))
                except OSError:
                    sock.bind(("127.0.0.1", 8100 + number))  # the socket is unbound: else EINVAL
                    found.append(f"free {sock.getsockname()[1]}")
                held.append(sock)

            threads = [threading.Thread(target=bind, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sum(sock.getsockname()[1] < 1024 for sock in held), found

        for _ in range(20):
            successes, found = granted(work, limit=3)
            assert successes == 3
            assert len(found) == 5

    def test_after_the_limit_the_ports_can_be_bound_by_others(self) -> None:
        """Nothing of a refused bind is left in the kernel's tables."""

        def host() -> list[str]:
            launch = prepared(limit=1)
            as_command(lambda: [try_bind(port) for port in (80, 81, 82)])
            launch.cancel()
            return [try_bind(port) for port in (80, 81, 82)]

        assert in_host(host) == ["ok"] * 3

    def test_the_capability_still_binds(self) -> None:
        """A process in the cgroup that has CAP_NET_BIND_SERVICE itself binds when the limit is used up."""

        def host() -> tuple[list[str], list[str], dict[str, int]]:
            launch = prepared("80-89", limit=2)
            as_nobody = as_command(lambda: [try_bind(port) for port in (80, 81, 82, 99)])
            as_root = forked(lambda: [try_bind(port) for port in (80, 82, 83, 99)])
            counted = counters(launch._own.fd)
            launch.cancel()
            return as_nobody, as_root, counted

        as_nobody, as_root, counted = in_host(host)
        assert as_nobody == ["ok", "ok", "EACCES", "EACCES"]
        assert as_root == ["ok"] * 4
        assert counted == {"granted": 2, "refused": 6, "bound": 2}

    def test_what_a_thread_did_before_does_not_matter(self) -> None:
        """Refused and unreserved binds of the same thread come before, between and after; each lifted one counts."""

        def work() -> list[str]:
            return [try_bind(port) for port in (99, 80, 8080, 80, 0, 99, 80, 8080)]

        assert granted(work, "80", limit=2) == ["EACCES", "ok", "ok", "ok", "ok", "EACCES", "EACCES", "ok"]

    @pytest.mark.parametrize("limit", [1, 5])
    def test_a_socket_that_many_threads_bind(self, programs: Path, limit: int) -> None:
        """Threads that bind the same socket at once, also to unreserved ports, get no more than the limit."""

        def host() -> tuple[str, dict[str, int]]:
            launch = prepared("tcp:80", limit=limit)
            out = execute(launch, [programs / "net_race", "300"])
            counted = counters(launch._own.fd)
            launch.cancel()
            return out, counted

        out, counted = in_host(host)
        assert out == f"reserved={limit}\n"
        assert counted["bound"] == limit

    def test_binds_in_use_are_not_counted(self) -> None:
        def work() -> list[str]:
            held: list[socket.socket] = []
            first = try_bind(80, held=held)
            return [first, *(try_bind(80) for _ in range(20)), try_bind(81), try_bind(82)]

        assert granted(work, limit=2) == ["ok", *["EADDRINUSE"] * 20, "ok", "EACCES"]


class TestStrangers:
    """A socket that is handed on carries no grant."""

    def test_a_process_outside_the_cgroup(self) -> None:
        """It gets a socket made inside over SCM_RIGHTS, and cannot bind it; nor one inside that was made outside."""

        def host() -> tuple[list[str], list[str]]:
            here, there = socket.socketpair()
            result_reader, result_writer = os.pipe()

            def stranger() -> list[str]:
                become_nobody()
                _, fds, _, _ = socket.recv_fds(here, 1, 2)
                own = socket.socket()
                socket.send_fds(here, [b"x"], [own.fileno()])
                first, second = (socket.socket(fileno=fd) for fd in fds)
                return [bind_to(first, 80), bind_to(second, 8080)]

            def inside() -> str:
                made = [socket.socket() for _ in range(2)]
                socket.send_fds(there, [b"x"], [sock.fileno() for sock in made])
                _, fds, _, _ = socket.recv_fds(there, 1, 1)
                return bind_to(socket.socket(fileno=fds[0]), 80)

            pid = os.fork()
            if pid == 0:
                os.write(result_writer, " ".join(stranger()).encode())
                os._exit(0)
            launch = prepared("tcp:80")
            inner = as_command(inside)
            os.waitpid(pid, 0)
            launch.cancel()
            return os.read(result_reader, 100).decode().split(), [inner]

        outside, inside = in_host(host)
        assert outside == ["EACCES", "ok"]
        assert inside == ["EACCES"]

    def test_after_the_cgroup_is_gone(self) -> None:
        """The programs live as long as a socket made inside: still nobody outside can use them."""

        def host() -> str:
            here, there = socket.socketpair()
            launch = prepared("tcp:80")

            def inside() -> None:
                with socket.socket() as made:
                    socket.send_fds(there, [b"x"], [made.fileno()])

            as_command(inside)
            launch.cancel()
            become_nobody()
            return bind_to(socket.socket(fileno=socket.recv_fds(here, 1, 1)[1][0]), 80)

        assert in_host(host) == "EACCES"

    def test_a_process_in_a_cgroup_below(self) -> None:
        """What the command's own cgroups hold is still the command."""

        def host() -> str:
            launch = prepared("tcp:80")
            below = os.open(".", os.O_RDONLY, dir_fd=launch._own.fd)
            os.mkdir("below", dir_fd=below)

            def work() -> str:
                procs = os.open("below/cgroup.procs", os.O_WRONLY, dir_fd=below)
                os.write(procs, b"0")
                become_nobody()
                return try_bind(80)

            try:
                return forked(work)
            finally:
                os.rmdir("below", dir_fd=below)
                launch.cancel()

        assert in_host(host) == "ok"

    def test_another_network_namespace(self) -> None:
        """The grant is for the namespace of the launch; elsewhere the kernel decides."""

        def host() -> list[str]:
            launch = prepared("tcp:80")

            def work() -> list[str]:
                first = socket.socket()
                unshare(CLONE_NEWNET)
                loopback_up()
                become_nobody()
                return [try_bind(80), bind_to(first, 80)]

            found = forked(work)
            launch.cancel()
            return found

        assert in_host(host) == ["EACCES", "ok"]

    def test_a_socket_from_before(self) -> None:
        """What the command inherits was made outside and carries no grant."""

        def host() -> list[str]:
            inherited = socket.socket()
            launch = prepared("tcp:80")
            found = as_command(lambda: [bind_to(inherited, 80), try_bind(80)])
            launch.cancel()
            return found

        assert in_host(host) == ["EACCES", "ok"]


class TestReusePort:
    """-r sets SO_REUSEPORT on binds of these ports, reserved or not."""

    def test_shared_and_not(self) -> None:
        def work() -> list[str]:
            held: list[socket.socket] = []
            found = []
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for address in ("127.0.0.1", "::1"):
                    for port in (80, 80, 81, 81, 8080, 8080, 8081, 8081):
                        found.append(try_bind(port, address, kind, held=held))
            return found

        expected = ["ok", "ok", "ok", "EADDRINUSE"] * 8
        assert granted(work, "80-81", reuse="80,8080") == expected

    def test_both_listen(self) -> None:
        def work() -> int:
            held: list[socket.socket] = []
            assert [try_bind(80, held=held) for _ in range(4)] == ["ok"] * 4
            for sock in held:
                sock.listen()
            return len(held)

        assert granted(work, reuse="any") == 4

    def test_with_a_limit(self) -> None:
        """Each bind counts, shared or not."""

        def work() -> list[str]:
            held: list[socket.socket] = []
            return [try_bind(80, held=held) for _ in range(4)]

        assert granted(work, limit=3, reuse="80") == ["ok", "ok", "ok", "EACCES"]


@contextlib.contextmanager
def occupied() -> Iterator[None]:
    """A process that stays in this process's cgroup, so that no other launch removes it as a leftover."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    yield
    os.close(writer)
    os.waitpid(pid, 0)


class TestSeveralLaunches:
    """Beside each other, and inside one another."""

    def test_side_by_side(self) -> None:
        def command(launch: bpf._Bpf) -> list[str]:
            def work() -> list[str]:
                launch._own.enter()
                become_nobody()
                return [try_bind(80), try_bind(81)]

            return forked(work)

        def host() -> list[list[str]]:
            first = prepared("tcp:80", limit=2)
            with occupied():
                first._parent.enter()
                second = prepared("tcp:81")
                found = [command(launch) for launch in [first, second] * 3]
                second.cancel()
            first.cancel()
            return found

        assert in_host(host) == [["ok", "EACCES"], ["EACCES", "ok"], ["ok", "EACCES"], ["EACCES", "ok"]] + [
            ["EACCES", "EACCES"],
            ["EACCES", "ok"],
        ]

    def test_one_inside_another(self) -> None:
        """The inner launch adds to the outer grant, and its notes say so."""

        def host() -> tuple[tuple[str, ...], list[str]]:
            outer = prepared("tcp:80")

            def inside() -> tuple[tuple[str, ...], list[str]]:
                inner = prepared("tcp:81", limit=1)
                binds = as_command(lambda: [try_bind(port) for port in (80, 81, 81, 80, 82)])
                inner.cancel()
                return inner.notes, binds

            found = forked(inside)
            outer.cancel()
            return found

        notes, binds = in_host(host)
        assert "inside another launch of privbind, whose grant holds as well: tcp:80" in notes
        assert binds == ["ok", "ok", "EACCES", "ok", "EACCES"]


class TestRecord:
    """The grant describes itself, without any file."""

    def test_found_from_the_cgroup(self) -> None:
        def host() -> tuple[dict[str, bytes], list[str], dict[str, int], int]:
            started = int(time.time())
            launch = prepared("tcp:80,udp:[fd00::/8]:53", limit=3, reuse="80")
            binds = as_command(lambda: [try_bind(80), try_bind(81), try_bind(8080)])
            said = record.decode(maps_of(launch._own.fd)[record.NAME])
            found = dict(said), [name for name, _ in said], counters(launch._own.fd), started
            launch.cancel()
            assert binds == ["ok", "EACCES", "ok"]
            return found

        said, names, counted, started = in_host(host)
        wanted = a_grant("tcp:80,udp:[fd00::/8]:53", limit=3, reuse="80")
        assert Grant.parse(said["grant"].decode()) == wanted
        assert said["grant"] == b"tcp:80,udp:[fd00::/8]:53; at most 3 binds; SO_REUSEPORT on 80"
        assert (said["uid"], said["argument"], names.count("argument")) == (b"65534", b"two\nlines", 2)
        assert started <= int(said["since"]) <= started + 60
        assert counted == {"granted": 1, "refused": 1, "bound": 1}

    def test_it_cannot_be_changed(self) -> None:
        """The map is frozen."""

        def host() -> int | None:
            launch = prepared("tcp:80")
            (program,) = calls.query(launch._own.fd, calls.INET4_BIND)[1]
            fd = calls.open_program(program)
            try:
                for number in calls.program_info(fd)[2]:
                    map_fd = calls.open_map(number)
                    name, size = calls.map_info(map_fd)
                    if name == record.NAME:
                        calls.write_array(map_fd, bytes(size))
            except OSError as error:
                return error.errno
            finally:
                launch.cancel()
            return None

        assert in_host(host) == errno.EPERM


class TestWhatStays:
    """Nothing but the cgroup, and that not for long."""

    def test_the_programs_go_with_the_cgroup(self) -> None:
        def host() -> tuple[bool, bool]:
            launch = prepared("tcp:80")
            (program,) = calls.query(launch._own.fd, calls.INET4_BIND)[1]
            there = program_exists(program)
            launch.cancel()
            # The kernel lets go after a grace period.
            wait_for(lambda: not program_exists(program), "the end of the program")
            return there, program_exists(program)

        assert in_host(host) == (True, False)

    def test_cancel(self) -> None:
        """The process was in the cgroup; it goes back to where it came from, and the cgroup goes."""

        def host() -> tuple[str, str, bool, list[str]]:
            before = Path("/proc/self/cgroup").read_text()
            launch = prepared("tcp:80")
            path = launch._own.path
            assert path in Path("/proc/self/cgroup").read_text()
            launch.enter()
            assert path in Path("/proc/self/cgroup").read_text()
            parent = os.dup(launch._parent.fd)
            assert launch._name in os.listdir(parent)
            launch.cancel()
            after = Path("/proc/self/cgroup").read_text()
            gone = launch._name not in os.listdir(parent)
            become_nobody()
            return before, after, gone, [try_bind(80)]

        before, after, gone, binds = in_host(host)
        assert before == after
        assert gone
        assert binds == ["EACCES"]

    def test_no_descriptor_survives_exec(self) -> None:
        """The command's descriptors are what they are without a grant."""

        def host() -> tuple[str, str]:
            listing: list[str | Path] = ["/bin/ls", "/proc/self/fd"]
            without = execute(Prepared(), listing)
            launch = prepared("tcp:80", limit=1)
            granted = execute(launch, listing)
            launch.cancel()
            return without, granted

        without, granted = in_host(host)
        assert without == granted


def test_a_later_change_of_the_sysctl() -> None:
    """What is reserved is asked at the launch; the kernel's own rules hold on top."""

    def host() -> list[str]:
        launch = prepared("tcp:80")
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("80")
        found = as_command(lambda: [try_bind(79), try_bind(80), try_bind(81)])
        launch.cancel()
        return found

    assert in_host(host) == ["EACCES", "ok", "ok"]


def test_fewer_reserved_ports() -> None:
    """Where ports begin to be free at 100, the hook leaves those from there on to the kernel."""

    def host() -> list[str]:
        launch = prepared_grant(a_grant("80-200"), port_start=81)
        found = as_command(lambda: [try_bind(80), try_bind(81)])
        launch.cancel()
        return found

    assert in_host(host) == ["ok", "EACCES"]


def test_netns_cookie_is_what_the_hook_sees() -> None:
    assert in_host(sockets.netns_cookie) != sockets.netns_cookie()


def test_names_fit() -> None:
    """The kernel cuts names at 15 bytes."""
    assert all(len(name) <= 15 for name in [*compiler.NAMES.values(), record.NAME])
