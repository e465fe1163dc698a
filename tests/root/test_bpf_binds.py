"""The bpf mechanism by itself, against the kernel: decisions, the limit, strangers, launches beside and inside others.

`in_host` and `Command` are what the other files of this mechanism's tests use too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import pickle
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from privbind import account, record
from privbind.account import Account
from privbind.linux import bpf as calls
from privbind.linux import cgroup, sockets
from privbind.mechanisms import Prepared, bpf
from privbind.mechanisms.bpf import compiler
from privbind.policy import Grant, Policy, Ports, Rule, parse_ports

T = TypeVar("T")
NOBODY = 65534
CLONE_NEWNET = 0x40000000
UDPLITE = 136
_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """unshare(2), which Python has only from 3.12 on."""
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def loopback_up() -> None:
    """Bring the loopback interface of a new network namespace up."""
    with socket.socket() as sock:
        name = struct.pack("16sh", b"lo", 1)  # struct ifreq: IFF_UP
        fcntl.ioctl(sock, 0x8914, name)  # SIOCSIFFLAGS


class Failure(Exception):
    """What a child said when it failed."""


def forked(work: Callable[[], T]) -> T:
    """What ``work`` gives in a child process, whatever it does to itself there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer: Any = (True, work())
        except BaseException as error:  # noqa: BLE001
            answer = (False, f"{type(error).__name__}: {error}")
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    done, value = pickle.loads(data)
    if not done:
        raise Failure(value)
    return value  # type: ignore[no-any-return]


def in_host(work: Callable[[], T]) -> T:
    """What ``work`` gives, as root, in a new network namespace with loopback up."""

    def inside() -> T:
        unshare(CLONE_NEWNET)
        loopback_up()
        return work()

    return forked(inside)


def request(rules: str = "", limit: int = 0, reuse: str = "", **more: Any) -> Any:
    """A launch's request, for nobody."""
    policy = more.pop("policy", None) or (Policy.parse([rules]) if rules else Policy(None))
    given = {
        "account": Account(NOBODY, NOBODY, ()),
        "grant": Grant(policy, limit, parse_ports(reuse) if reuse else ()),
        "argv": [b"./server", b"two\nlines"],
        "port_start": 1024,
    }
    return SimpleNamespace(**given | more)


def prepared(rules: str = "", limit: int = 0, reuse: str = "", **more: Any) -> Any:
    """What the mechanism prepares."""
    asked = request(rules, limit, reuse, **more)
    bpf.probe(asked)
    return bpf.prepare(asked)


def become_nobody() -> None:
    """Give up everything, as a launch does."""
    account.become(Account(NOBODY, NOBODY, ()))


class Command:
    """A command under a grant: a process that enters the launch's cgroup, becomes nobody, and then does some work."""

    def __init__(self, launch: Any) -> None:
        self.launch = launch

    def run(self, work: Callable[[], T], *, drop: bool = True) -> T:
        """What ``work`` gives there."""

        def inside() -> T:
            self.launch.enter()
            if drop:
                become_nobody()
            return work()

        return forked(inside)


def run(work: Callable[[], T], rules: str = "", limit: int = 0, reuse: str = "", **more: Any) -> T:
    """What ``work`` gives as a command under a grant, on a host of its own."""

    def host() -> T:
        launch = prepared(rules, limit, reuse, **more)
        try:
            return Command(launch).run(work)
        finally:
            launch.cancel()

    return in_host(host)


def try_bind(
    port: int, address: str = "0.0.0.0", kind: int = socket.SOCK_STREAM, protocol: int = 0, held: Any = None
) -> str:
    """What a bind gives: "ok" or the errno's name. The socket goes to ``held``, or is closed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind, protocol)
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        return errno.errorcode[error.errno or 0]
    if held is None:
        sock.close()
    else:
        held.append(sock)
    return "ok"


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No descriptor of ours is left open by a test, and no cgroup once it has been swept."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before
    own = cgroup.own()
    try:
        deadline = time.monotonic() + 10
        while leftover(own) and time.monotonic() < deadline:
            cgroup.sweep(own.fd)  # zombies of grandchildren may still be in one
            time.sleep(0.01)
        assert leftover(own) == []
    finally:
        own.close()


def leftover(own: cgroup.Cgroup) -> list[str]:
    """The empty cgroups of ended launches that are still there. Other test runs may have launches of their own."""
    return [name for name in os.listdir(own.fd) if name.startswith(cgroup.PREFIX) and _ended(own, name)]


def _ended(own: cgroup.Cgroup, name: str) -> bool:
    if Path(f"/proc/{name.split('.')[1]}").exists():
        return False
    try:
        return "populated 0" in cgroup._read_at(f"{name}/cgroup.events", own.fd)
    except OSError:
        return False


def test_the_control() -> None:
    """Without a grant nobody binds a reserved port here: else every test of this file would say nothing."""

    def plain() -> list[str]:
        become_nobody()
        return [try_bind(80), try_bind(80, "::"), try_bind(8080)]

    assert in_host(plain) == ["EACCES", "EACCES", "ok"]


def test_granted_and_not() -> None:
    assert run(lambda: [try_bind(80), try_bind(81), try_bind(80, "::"), try_bind(8080)], "tcp:80") == [
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
    KINDS = ((socket.SOCK_STREAM, 0, "tcp"), (socket.SOCK_DGRAM, 0, "udp"), (socket.SOCK_DGRAM, UDPLITE, None))
    POLICIES = 400
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

    def mismatches(self, seed: int) -> tuple[list[Any], int, int]:
        """What the kernel decided otherwise, and how many binds were granted and refused."""
        chance = random.Random(seed)
        policy = Policy([self.rule(chance) for _ in range(chance.choice((1, 2, 3, 5, 10, 30, 100)))])
        launch = prepared(policy=policy)

        def binds() -> tuple[list[Any], int, int]:
            wrong, granted, refused = [], 0, 0
            for _ in range(self.BINDS):
                kind, number, protocol = chance.choice(self.KINDS)
                address = chance.choice(self.ALL)
                port = chance.choice((chance.choice(self.PORTS), chance.randint(1, 1100)))
                permitted = port >= 1024 or policy.permits(protocol, ipaddress.ip_address(address).packed, port)
                found = try_bind(port, address, kind, number)
                if found != ("ok" if permitted else "EACCES"):
                    wrong.append((str(policy), protocol, address, port, found))
                granted += permitted
                refused += not permitted
            return wrong, granted, refused

        try:
            return Command(launch).run(binds)
        finally:
            launch.cancel()

    def test_no_mismatch(self) -> None:
        def host() -> list[tuple[list[Any], int, int]]:
            for family in ("ipv4", "ipv6"):  # any address may be bound in this network namespace
                Path(f"/proc/sys/net/{family}/ip_nonlocal_bind").write_text("1")
            return [self.mismatches(seed) for seed in range(self.POLICIES)]

        found = in_host(host)
        assert [wrong for wrong, _, _ in found if wrong] == []
        assert sum(granted for _, granted, _ in found) > 2000
        assert sum(refused for _, _, refused in found) > 2000


class TestLimit:
    """-n, exactly."""

    ROUNDS = 200

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
                        held: list[Any] = []
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
                return Command(launch).run(command)
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
            held: list[Any] = []

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
            successes, found = run(work, limit=3)
            assert successes == 3
            assert len(found) == 5

    def test_after_the_limit_the_ports_can_be_bound_by_others(self) -> None:
        """Nothing of a refused bind is left in the kernel's tables."""

        def host() -> list[str]:
            launch = prepared(limit=1)
            Command(launch).run(lambda: [try_bind(port) for port in (80, 81, 82)])
            launch.cancel()
            return [try_bind(port) for port in (80, 81, 82)]

        assert in_host(host) == ["ok"] * 3

    def test_the_capability_still_binds(self) -> None:
        """A process in the cgroup that has CAP_NET_BIND_SERVICE itself binds when the limit is used up."""

        def host() -> tuple[list[str], list[str], dict[str, int]]:
            launch = prepared("80-89", limit=2)
            command = Command(launch)
            as_nobody = command.run(lambda: [try_bind(port) for port in (80, 81, 82, 99)])
            as_root = command.run(lambda: [try_bind(port) for port in (80, 82, 83, 99)], drop=False)
            counted = counters(launch)
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

        assert run(work, "80", limit=2) == ["EACCES", "ok", "ok", "ok", "ok", "EACCES", "EACCES", "ok"]

    @pytest.mark.parametrize("limit", [1, 5])
    def test_a_socket_that_many_threads_bind(self, programs: Path, limit: int) -> None:
        """Threads that bind the same socket at once, also to unreserved ports, get no more than the limit."""

        def host() -> tuple[str, dict[str, int]]:
            launch = prepared("tcp:80", limit=limit)
            out = execute(launch, [programs / "net_race", "300"])
            counted = counters(launch)
            launch.cancel()
            return out, counted

        out, counted = in_host(host)
        assert out == f"reserved={limit}\n"
        assert counted["bound"] == limit

    def test_binds_in_use_are_not_counted(self) -> None:
        def work() -> list[str]:
            held: list[Any] = []
            first = try_bind(80, held=held)
            return [first, *(try_bind(80) for _ in range(20)), try_bind(81), try_bind(82)]

        assert run(work, limit=2) == ["ok", *["EADDRINUSE"] * 20, "ok", "EACCES"]


def counters(launch: Any) -> dict[str, int]:
    """The counters of a launch, found as anybody with the privilege finds them: from the cgroup."""
    maps = maps_of(launch._child.fd)
    granted, refused, bound = struct.unpack("<QQQ", maps["counters"])
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


def execute(launch: Any, argv: list[str | Path]) -> str:
    """What a program prints that is executed as a command under a grant."""
    reader, writer = os.pipe()

    def inside() -> None:
        launch.enter()
        become_nobody()
        os.dup2(writer, 1)
        os.execve(argv[0], [str(word) for word in argv], {})

    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            inside()
        os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as file:
        out = file.read()
    os.waitpid(pid, 0)
    return out


class TestStrangers:
    """A socket that is handed on carries no grant."""

    def test_a_process_outside_the_cgroup(self) -> None:
        """It gets a socket made inside over SCM_RIGHTS, and cannot bind it; nor one inside that was made outside."""

        def host() -> tuple[list[str], list[str]]:
            launch = prepared("tcp:80")
            here, there = socket.socketpair()
            ready = os.pipe()

            def inside() -> str:
                made = [socket.socket() for _ in range(2)]
                socket.send_fds(there, [b"x"], [sock.fileno() for sock in made])
                _, fds, _, _ = socket.recv_fds(there, 1, 1)
                theirs = socket.socket(fileno=fds[0])
                return bind_to(theirs, 80)

            def stranger() -> list[str]:
                become_nobody()
                os.read(ready[0], 1)
                own = socket.socket()
                socket.send_fds(here, [b"x"], [own.fileno()])
                _, fds, _, _ = socket.recv_fds(here, 1, 2)
                first, second = (socket.socket(fileno=fd) for fd in fds)
                return [bind_to(first, 80), bind_to(second, 8080)]

            result_reader, result_writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(result_writer, " ".join(stranger()).encode())
                os._exit(0)
            os.write(ready[1], b"x")
            inner = Command(launch).run(inside)
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

            Command(launch).run(inside)
            launch.cancel()
            become_nobody()
            return bind_to(socket.socket(fileno=socket.recv_fds(here, 1, 1)[1][0]), 80)

        assert in_host(host) == "EACCES"

    def test_a_process_in_a_cgroup_below(self) -> None:
        """What the command's own cgroups hold is still the command."""

        def host() -> str:
            launch = prepared("tcp:80")
            below = os.open(".", os.O_RDONLY, dir_fd=launch._child.fd)
            os.mkdir("below", dir_fd=below)

            def work() -> str:
                procs = os.open("below/cgroup.procs", os.O_WRONLY, dir_fd=below)
                os.write(procs, b"0")
                become_nobody()
                return try_bind(80)

            try:
                return Command(launch).run(work, drop=False)
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

            found = Command(launch).run(work, drop=False)
            launch.cancel()
            return found

        assert in_host(host) == ["EACCES", "ok"]

    def test_a_socket_from_before(self) -> None:
        """What the command inherits was made outside and carries no grant."""

        def host() -> list[str]:
            launch = prepared("tcp:80")
            inherited = socket.socket()
            found = Command(launch).run(lambda: [bind_to(inherited, 80), try_bind(80)])
            launch.cancel()
            return found

        assert in_host(host) == ["EACCES", "ok"]


def bind_to(sock: socket.socket, port: int) -> str:
    """Bind a socket; "ok" or the errno's name."""
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


class TestReusePort:
    """-r sets SO_REUSEPORT on granted binds of these ports."""

    def test_shared_and_not(self) -> None:
        def work() -> list[str]:
            held: list[Any] = []
            found = []
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for address in ("127.0.0.1", "::1"):
                    for port in (80, 80, 81, 81, 8080, 8080):
                        found.append(try_bind(port, address, kind, held=held))
            return found

        expected = ["ok", "ok", "ok", "EADDRINUSE", "ok", "EADDRINUSE"] * 4
        assert run(work, "80-81", reuse="80,8080") == expected

    def test_both_listen(self) -> None:
        def work() -> int:
            held: list[Any] = []
            assert [try_bind(80, held=held) for _ in range(4)] == ["ok"] * 4
            for sock in held:
                sock.listen()
            return len(held)

        assert run(work, reuse="any") == 4

    def test_with_a_limit(self) -> None:
        """Each bind counts, shared or not."""

        def work() -> list[str]:
            held: list[Any] = []
            return [try_bind(80, held=held) for _ in range(4)]

        assert run(work, limit=3, reuse="80") == ["ok", "ok", "ok", "EACCES"]


class TestSeveralLaunches:
    """Beside each other, and inside one another."""

    def test_side_by_side(self) -> None:
        def host() -> list[list[str]]:
            launches = [prepared("tcp:80", limit=2), prepared("tcp:81")]
            found = [Command(launch).run(lambda: [try_bind(80), try_bind(81)]) for launch in launches * 3]
            for launch in launches:
                launch.cancel()
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
                binds = Command(inner).run(lambda: [try_bind(port) for port in (80, 81, 81, 80, 82)])
                inner.cancel()
                return inner.notes, binds

            found = Command(outer).run(inside, drop=False)
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
            binds = Command(launch).run(lambda: [try_bind(80), try_bind(81), try_bind(8080)])
            said = record.decode(maps_of(launch._child.fd)[record.NAME])
            found = dict(said), [name for name, _ in said], counters(launch), started
            launch.cancel()
            assert binds == ["ok", "EACCES", "ok"]
            return found

        said, names, counted, started = in_host(host)
        assert (said["rules"], said["limit"], said["reuse"]) == (b"tcp:80,udp:[fd00::/8]:53", b"3", b"80")
        assert (said["uid"], said["argument"], names.count("argument")) == (b"65534", b"two\nlines", 2)
        assert started <= int(said["started"]) <= started + 60
        assert counted == {"granted": 1, "refused": 1, "bound": 1}

    def test_it_cannot_be_changed(self) -> None:
        """The map is frozen."""

        def host() -> int | None:
            launch = prepared("tcp:80")
            (program,) = calls.query(launch._child.fd, calls.INET4_BIND)[1]
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
            (program,) = calls.query(launch._child.fd, calls.INET4_BIND)[1]
            there = program_exists(program)
            launch.cancel()
            deadline = time.monotonic() + 10
            while program_exists(program) and time.monotonic() < deadline:
                time.sleep(0.01)  # the kernel lets go after a grace period
            return there, program_exists(program)

        assert in_host(host) == (True, False)

    def test_cancel_after_entering(self) -> None:
        """The process goes back to where it came from, and the cgroup goes."""

        def host() -> tuple[str, str, list[str]]:
            before = Path("/proc/self/cgroup").read_text()
            launch = prepared("tcp:80")
            path = launch._child.path
            launch.enter()
            inside = Path("/proc/self/cgroup").read_text()
            assert path in inside
            launch.cancel()
            after = Path("/proc/self/cgroup").read_text()
            become_nobody()
            return before, after, [try_bind(80)]

        before, after, binds = in_host(host)
        assert before == after
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


def program_exists(number: int) -> bool:
    try:
        os.close(calls.open_program(number))
    except OSError:
        return False
    return True


def test_a_later_change_of_the_sysctl() -> None:
    """What is reserved is asked at the launch; the kernel's own rules hold on top."""

    def host() -> list[str]:
        launch = prepared("tcp:80")
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("80")
        found = Command(launch).run(lambda: [try_bind(79), try_bind(80), try_bind(81)])
        launch.cancel()
        return found

    assert in_host(host) == ["EACCES", "ok", "ok"]


def test_fewer_reserved_ports() -> None:
    """Where ports begin to be free at 100, the hook leaves those from there on to the kernel."""
    assert run(lambda: [try_bind(80), try_bind(81)], "80-200", port_start=81) == ["ok", "EACCES"]


def test_netns_cookie_is_what_the_hook_sees() -> None:
    assert in_host(sockets.netns_cookie) != sockets.netns_cookie()


def test_names_fit() -> None:
    """The kernel cuts names at 15 bytes."""
    assert all(len(name) <= 15 for name in [*compiler.NAMES.values(), record.NAME])
