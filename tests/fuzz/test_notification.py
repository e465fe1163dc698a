"""seccomp's front door: any notification gets one answer, "go on" or the outcome of a bind that the grant covers.

Whatever registers, memory and descriptors the command has; what is bound is, to the byte, what was read once.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.grant.grant import Grant
from privbind.grant.policy import Policy
from privbind.grant.site import Site
from privbind.helper.executor import Executor
from privbind.helper.supervisor import Supervisor
from privbind.linux import notify
from privbind.linux.binds import calls
from privbind.linux.sockets import netns_cookie
from privbind.linux.target import Binder, Descriptors, Memory

from ..harness.fuzzing import fuzz

NOTIFICATION = struct.Struct("=QI4xIIQ6Q")  # struct seccomp_notif
ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags
CONTINUE = 1
START = 1024

EDGES = [0, 1, 2, 16, 24, 28, 127, 128, 129, 2**31, 2**32 - 1, 2**63]
U64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from(EDGES))

CALLS = st.sampled_from([(call.arch, call.number) for call in calls()])
SOCKETCALLS = {(call.arch, call.number) for call in calls() if call.socketcall}


GRANTED = [
    (0, socket.AF_INET, 80, "127.0.0.1"),
    (0, socket.AF_INET, 80, "192.0.2.1"),
    (0, 0, 80, "0.0.0.0"),
    (1, socket.AF_INET6, 80, "::1"),
    (1, socket.AF_INET6, 80, "::ffff:10.0.0.1"),
    (2, socket.AF_INET, 53, "127.0.0.1"),
]
"""Which descriptor, and a family, port and host that are granted to it."""


FLAWS = ("call", "registers", "size", "memory", "family", "port", "descriptor", "gone")


class Case(NamedTuple):
    """One system call: its notification, what each read of memory gives, the descriptor, whether it still waits."""

    notification: bytes
    reads: list[bytes | None]
    which: int
    still_waits: bool
    flawless: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A bind that is granted, and some things wrong with it, from none to all."""
    one = st.sampled_from(FLAWS).map(lambda name: {name})
    flaws = draw(st.one_of(st.just(set[str]()), one, one, st.sets(st.sampled_from(FLAWS))))
    which, family, port, host = draw(st.sampled_from(GRANTED))
    if "family" in flaws:
        family = draw(st.sampled_from([0, 0, 0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 0xFFFF]))
    if "port" in flaws:
        port = draw(st.one_of(st.sampled_from([0, 53, 79, 80, 81, 1023, 1024]), st.integers(0, 65535)))
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    head = struct.pack("=H", family) + port.to_bytes(2, "big")
    address = head + (packed if len(packed) == 4 else bytes(4) + packed)
    arch, number = draw(
        st.tuples(U64, U64).map(lambda pair: (pair[0] % 2**32, pair[1] % 2**32)) if "call" in flaws else CALLS
    )
    size = draw(
        st.one_of(st.sampled_from([15, 16, 23, 24, 28, 129]), U64) if "size" in flaws else st.sampled_from([28, 128])
    )
    args = [3, 0x1000, size, *(draw(U64) for _ in range(3))]
    if "registers" in flaws:
        args[:2] = draw(U64), draw(U64)
    reads: list[bytes | None] = [address.ljust(128, b"\0")]
    if (arch, number) in SOCKETCALLS:
        reads.insert(0, struct.pack("=3I", 3, 0x1000, size % 2**32))
    if "memory" in flaws:
        reads = draw(
            st.lists(st.one_of(st.none(), st.binary(max_size=128), st.just(reads[-1])), min_size=1, max_size=3)
        )
    notification = NOTIFICATION.pack(
        draw(st.integers(1, 2**64 - 1)), draw(st.integers(0, 2**32 - 1)), number, arch, draw(U64), *args
    )
    return Case(
        notification, reads, draw(st.integers(0, 5)) if "descriptor" in flaws else which, "gone" not in flaws, not flaws
    )


class Command:
    """What a command has: what each read of its memory gives (None: it cannot be read), and a descriptor."""

    def __init__(self, reads: list[bytes | None], fd: int | None) -> None:
        """The reads come in this order, the last one again and again."""
        self.reads = reads
        self.fd = fd
        self.read_last = b""

    def read(self, tid: int, address: int, size: int) -> bytes:
        """As `Memory`."""
        assert 0 <= tid < 2**32
        assert 0 <= address < 2**64
        found = self.reads[0] if len(self.reads) == 1 else self.reads.pop(0)
        if found is None:
            raise OSError("cannot be read")
        self.read_last = found.ljust(size, b"\0")[:size]
        return self.read_last

    def fetch(self, tid: int, fd: int) -> int:
        """As `Descriptors`."""
        assert 0 <= tid < 2**32
        assert -(2**31) <= fd < 2**31
        if self.fd is None:
            raise OSError("no such descriptor")
        return os.dup(self.fd)


class Bench:
    """A supervisor whose listener, command and binds are the test's."""

    def __init__(self, still_waits: bool) -> None:
        """``still_waits``: whether the thread does when it is asked."""
        self.counters = [0, 0, 0]
        grant = Grant(Policy.parse(["tcp:80,udp:127.0.0.1:53"]))
        executor = Executor(grant, Site(netns_cookie(), START), self.counters)
        executor._binder = cast("Binder", self)
        page = notify.new_page()
        near, far = socket.socketpair()
        near.close()
        self.supervisor = Supervisor(executor, far, page)
        self._events, self._more = os.pipe()
        self.listener = notify.Listener(self._events, page)
        self.answers: list[tuple[int, int, int, int]] = []
        self.bound: list[tuple[tuple[int, int], bytes]] = []
        self._page = page

        def valid(*_: int) -> int:
            if not still_waits:
                raise OSError("gone")
            return 0

        def send(*_: int) -> int:
            self.answers.append(ANSWER.unpack_from(page, NOTIFICATION.size))
            return 0

        self.listener._id_valid = valid
        self.listener._send = send
        far.close()

    def bind(self, fd: int, address: bytes) -> None:
        """As `Binder`, but it only remembers."""
        with socket.socket(fileno=os.dup(fd)) as sock:
            self.bound.append(((sock.family, sock.type), address))

    def serve(self, command: Command, notification: bytes) -> None:
        """Let the supervisor serve one system call of a command."""

        def receive(*_: int) -> int:
            os.read(self._events, 1)
            self._page[: len(notification)] = notification
            return 0

        self.listener._receive = receive
        self.supervisor._memory = cast("Memory", command)
        self.supervisor._descriptors = cast("Descriptors", command)
        os.write(self._more, b"x")
        request = self.listener.receive()
        assert request is not None
        self.supervisor._serve_one(self.listener, request)
        os.close(self._more)
        os.close(self._events)


@pytest.fixture(scope="module")
def descriptors() -> Iterator[list[int | None]]:
    """Sockets that a rule can be about, others, what is no socket, and none."""
    made = [
        socket.socket(family, kind)
        for family, kind in [
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_STREAM),
            (socket.AF_INET, socket.SOCK_DGRAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
        ]
    ]
    null = os.open("/dev/null", os.O_RDONLY)
    yield [*(sock.fileno() for sock in made), null, None]
    os.close(null)
    for sock in made:
        sock.close()


def covered(sock: tuple[int, int], address: bytes) -> bool:
    """Whether the grant of the bench covers a bind: written anew, to check the decision against."""
    family, port = int.from_bytes(address[:2], "little"), int.from_bytes(address[2:4], "big")
    domain, kind = sock
    if domain == socket.AF_INET:
        known = len(address) >= 16 and (family == socket.AF_INET or (family == 0 and address[4:8] == bytes(4)))
        host = address[4:8]
    else:
        known = domain == socket.AF_INET6 and len(address) >= 24 and family == socket.AF_INET6
        host = address[8:24]
    tcp = kind == socket.SOCK_STREAM and port == 80
    udp = kind == socket.SOCK_DGRAM and port == 53 and host in (b"\x7f\0\0\1", bytes(10) + b"\xff\xff\x7f\0\0\1")
    return known and (tcp or udp)


@fuzz
@given(cases())
def test_each_notification_gets_one_answer(descriptors: list[int | None], case: Case) -> None:
    """Go on, or a bind that is covered, of a thread that still waits, and counted."""
    notification, reads, which, still_waits, flawless = case
    bench = Bench(still_waits)
    command = Command(list(reads), descriptors[which])
    bench.serve(command, notification)
    ((answered, value, error, flags),) = bench.answers
    assert answered == NOTIFICATION.unpack(notification)[0]
    assert value == error == 0
    if not bench.bound:
        assert not flawless
        assert flags == CONTINUE
        return
    assert flags == 0
    assert still_waits
    ((sock, address),) = bench.bound
    assert address == command.read_last
    assert covered(sock, address)
    assert bench.counters == [1, 0, 1]


@pytest.mark.parametrize("still_waits", [True, False])
def test_a_granted_bind_is_done(descriptors: list[int | None], still_waits: bool) -> None:
    """The bench can tell: a plain bind is done, unless nobody waits for it any more."""
    call = next(call for call in calls() if not call.socketcall)
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 80, socket.inet_aton("127.0.0.1"))
    bench = Bench(still_waits)
    bench.serve(
        Command([address], descriptors[0]), NOTIFICATION.pack(7, 42, call.number, call.arch, 0, 3, 0x1000, 16, 0, 0, 0)
    )
    assert bool(bench.bound) is still_waits
    assert bench.answers == [(7, 0, 0, 0 if still_waits else CONTINUE)]
