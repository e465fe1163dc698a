"""The decision for one bind, and how it is carried out and counted."""

from __future__ import annotations

import errno
import socket
import struct
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.grant import decision
from privbind.grant.counters import BOUND
from privbind.grant.decision import Allow, Deny, Share, decide, parse_address
from privbind.grant.grant import Grant
from privbind.grant.policy import Policy, parse_ports
from privbind.grant.site import Site
from privbind.helper.executor import Executor
from privbind.linux.target import Socket

Facts = tuple[int, int, int, int]

NETNS = 7
START = 1024
SITE = Site(NETNS, START)


def ipv4(address: str, port: int, family: int = socket.AF_INET) -> bytes:
    """A struct sockaddr_in."""
    return struct.pack("=H", family) + struct.pack("!H4s8x", port, socket.inet_aton(address))


def ipv6(address: str, port: int) -> bytes:
    """A struct sockaddr_in6."""
    packed = socket.inet_pton(socket.AF_INET6, address)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, packed, 0)


TCP4 = (socket.AF_INET, socket.SOCK_STREAM, 6, NETNS)
TCP6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, NETNS)
ELSEWHERE = (socket.AF_INET, socket.SOCK_STREAM, 6, NETNS + 1)
MPTCP = (socket.AF_INET, socket.SOCK_STREAM, 262, NETNS)
UDP = (socket.AF_INET, socket.SOCK_DGRAM, 17, NETNS)
UDPLITE = (socket.AF_INET, socket.SOCK_DGRAM, 136, NETNS)
DCCP = (socket.AF_INET, 6, 33, NETNS)
SCTP = (socket.AF_INET, socket.SOCK_SEQPACKET, 132, NETNS)
RAW = (socket.AF_INET, socket.SOCK_RAW, 6, NETNS)
UNIX = (socket.AF_UNIX, socket.SOCK_STREAM, 0, NETNS)


def grant(rules: str | None = None, limit: int = 0, reuse: str = "") -> Grant:
    """A grant with these rules."""
    policy = Policy.parse([rules]) if rules else Policy(None)
    return Grant(policy, limit, parse_ports(reuse) if reuse else ())


BINDS = [
    ("tcp:80", TCP4, ipv4("127.0.0.1", 80), Allow(80)),
    ("tcp:80", TCP4, ipv4("127.0.0.1", 80) + bytes(112), Allow(80)),  # a whole struct sockaddr_storage
    ("tcp:80", TCP4, ipv4("0.0.0.0", 80, 0), Allow(80)),  # AF_UNSPEC with the wildcard is IPv4
    ("tcp:80", TCP4, ipv4("127.0.0.1", 80, 0), decision.BAD_ADDRESS),
    ("tcp:80", TCP4, ipv4("127.0.0.1", 81), decision.NO_RULE),
    ("tcp:80", TCP4, ipv4("127.0.0.1", 80)[:15], decision.BAD_ADDRESS),
    ("tcp:80", TCP4, b"", decision.BAD_ADDRESS),
    ("tcp:80", TCP4, ipv6("::1", 80), decision.BAD_ADDRESS),
    ("tcp:80", TCP6, ipv6("::1", 80), Allow(80)),
    ("tcp:80", TCP6, ipv6("::1", 80)[:24], Allow(80)),
    ("tcp:80", TCP6, ipv6("::1", 80)[:23], decision.BAD_ADDRESS),
    ("tcp:80", TCP6, ipv4("127.0.0.1", 80), decision.BAD_ADDRESS),
    ("tcp:127.0.0.1:80", TCP6, ipv6("::ffff:127.0.0.1", 80), Allow(80)),
    ("tcp:80", ELSEWHERE, ipv4("127.0.0.1", 80), decision.OTHER_NAMESPACE),
    ("tcp:80", MPTCP, ipv4("127.0.0.1", 80), Allow(80)),
    ("80", UDP, ipv4("127.0.0.1", 80), Allow(80)),
    ("tcp:80", UDP, ipv4("127.0.0.1", 80), decision.NO_RULE),
    ("80", UDPLITE, ipv4("127.0.0.1", 80), decision.NO_RULE),
    ("80", DCCP, ipv4("127.0.0.1", 80), decision.NO_RULE),
    ("80", SCTP, ipv4("127.0.0.1", 80), decision.NO_RULE),
    (None, UDPLITE, ipv4("127.0.0.1", 80), Allow(80)),
    (None, DCCP, ipv4("127.0.0.1", 80), Allow(80)),
    (None, SCTP, ipv4("127.0.0.1", 80), Allow(80)),
    (None, RAW, ipv4("127.0.0.1", 80), decision.NO_PORTS),
    (None, UNIX, b"\1\0/run/x", decision.BAD_ADDRESS),
    (None, TCP4, ipv4("127.0.0.1", 0), decision.NOT_RESERVED),
    (None, TCP4, ipv4("127.0.0.1", START - 1), Allow(START - 1)),
    (None, TCP4, ipv4("127.0.0.1", START), decision.NOT_RESERVED),  # the kernel's business
    ("any", TCP4, ipv4("127.0.0.1", START), decision.NOT_RESERVED),
]
"""A grant's rules, a socket, an address, and what is decided."""


@pytest.mark.parametrize(("rules", "facts", "address", "expected"), BINDS)
def test_what_is_decided(rules: str | None, facts: Facts, address: bytes, expected: Allow | Deny) -> None:
    """The port when the grant covers the bind, else why it does not."""
    assert decide(grant(rules), SITE, facts, address) == expected


def test_the_table_has_every_reason_but_the_limit() -> None:
    """The limit's is in the next test."""
    reasons = {value for value in vars(decision).values() if isinstance(value, Deny)}
    assert len(reasons) == 6
    assert {expected for *_, expected in BINDS if isinstance(expected, Deny)} == reasons - {decision.LIMIT_REACHED}


@pytest.mark.parametrize(
    ("limit", "bound", "port", "expected"),
    [
        (2, 1, 80, Allow(80)),
        (2, 2, 80, decision.LIMIT_REACHED),
        (2, 3, 80, decision.LIMIT_REACHED),
        (2, 2, 81, decision.LIMIT_REACHED),
        (2, 2, 8080, decision.NOT_RESERVED),
        (2, 2, 0, decision.NOT_RESERVED),
        (0, 1 << 40, 80, Allow(80)),
    ],
)
def test_a_limit(limit: int, bound: int, port: int, expected: Allow | Deny) -> None:
    """It is reached when so many have succeeded; 0 is none; what is not reserved is none of its business."""
    assert decide(grant("tcp:80", limit), SITE, TCP4, ipv4("127.0.0.1", port), bound) == expected


def test_a_reason_is_a_sentence_of_its_own() -> None:
    """Each differs from the others, and those that count as refused are the two that the grant itself gives."""
    reasons = [value for value in vars(decision).values() if isinstance(value, Deny)]
    assert len({deny.reason for deny in reasons}) == len(reasons)
    assert all(deny.reason and "\n" not in deny.reason for deny in reasons)
    assert set(decision.REFUSALS) == {decision.NO_RULE, decision.LIMIT_REACHED}


class Target:
    """As much of a `Socket` as an executor asks of it."""

    def __init__(self, facts: Facts, done: list[str]) -> None:
        self.facts = facts
        self.done = done

    def describe(self) -> Facts:
        return self.facts

    def reuse_port(self) -> None:
        self.done.append("SO_REUSEPORT")

    def fileno(self) -> int:
        return -1


class Bench:
    """An executor whose binds are only noted, or fail with this errno."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, granted: Grant, error: int = 0) -> None:
        self.counters = [0, 0, 0]
        self.executor = Executor(granted, SITE, self.counters)
        self.done: list[str] = []

        def bind(fd: int, address: bytes) -> None:
            assert fd == -1
            self.done.append(f"bind {int.from_bytes(address[2:4], 'big')}")
            if error:
                raise OSError(error, "not now")

        monkeypatch.setattr(self.executor._binder, "bind", bind)

    def ask(self, facts: Facts, address: bytes) -> Allow | Share | Deny:
        """What it decides, and for an Allow what it does about it: its bind must succeed."""
        target = self.target(facts)
        decided = self.executor.decide(target, address)
        if isinstance(decided, Allow):
            assert self.executor.bind(target, address, decided.port) == 0
        return decided

    def target(self, facts: Facts) -> Socket:
        """A socket of this kind, which notes what is done with it in the same list."""
        return cast("Socket", Target(facts, self.done))


def test_the_limit_counts_successes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit used up nothing is permitted any more."""
    bench = Bench(monkeypatch, grant("tcp:80", limit=2))
    for _ in range(2):
        assert not bench.executor.exhausted
        assert bench.ask(TCP4, ipv4("127.0.0.1", 80)) == Allow(80)
    assert bench.executor.exhausted
    assert bench.ask(TCP4, ipv4("127.0.0.1", 80)) == decision.LIMIT_REACHED
    assert bench.done == ["bind 80"] * 2


def test_no_limit_is_never_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 means no limit."""
    bench = Bench(monkeypatch, grant())
    bench.counters[BOUND] = 1 << 40
    assert not bench.executor.exhausted
    assert bench.ask(TCP4, ipv4("127.0.0.1", 80)) == Allow(80)


def test_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused are reserved binds of this namespace that the grant does not cover, or no longer; never other binds."""
    bench = Bench(monkeypatch, grant("tcp:80", limit=1))
    assert bench.ask(TCP4, ipv4("127.0.0.1", 81)) == decision.NO_RULE
    assert bench.counters == [0, 1, 0]
    for facts, address in (
        (TCP4, ipv4("127.0.0.1", 8080)),
        (TCP4, b"\2\0"),
        (ELSEWHERE, ipv4("127.0.0.1", 81)),
        (UNIX, b"\1\0/run/x"),
        (RAW, ipv4("127.0.0.1", 81)),
    ):
        assert isinstance(bench.ask(facts, address), Deny)
    assert bench.counters == [0, 1, 0]
    assert bench.ask(TCP4, ipv4("127.0.0.1", 80)) == Allow(80)
    assert bench.ask(TCP4, ipv4("127.0.0.1", 80)) == decision.LIMIT_REACHED
    assert bench.counters == [1, 2, 1]


def test_a_granted_bind_that_fails_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command hears the errno that bind(2) gave; the limit is not touched."""
    bench = Bench(monkeypatch, grant("tcp:80", limit=1), errno.EADDRINUSE)
    target = bench.target(TCP4)
    address = ipv4("127.0.0.1", 80)
    assert bench.executor.decide(target, address) == Allow(80)
    assert bench.executor.bind(target, address, 80) == errno.EADDRINUSE
    assert bench.counters == [1, 0, 0]
    assert not bench.executor.exhausted


def test_shared_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """SO_REUSEPORT is set before the bind, for the ports named only."""
    bench = Bench(monkeypatch, grant("tcp:80-81", reuse="80"))
    for port in (80, 81):
        assert bench.ask(TCP4, ipv4("127.0.0.1", port)) == Allow(port)
    assert bench.done == ["SO_REUSEPORT", "bind 80", "bind 81"]


@pytest.mark.parametrize(
    ("facts", "address", "expected"),
    [
        (TCP4, ipv4("127.0.0.1", 8080), Share(8080)),
        (UDP, ipv4("0.0.0.0", 8099), Share(8099)),
        (TCP6, ipv6("::1", 8080), Share(8080)),
        (TCP4, ipv4("0.0.0.0", 8080, 0), Share(8080)),
        (TCP4, ipv4("127.0.0.1", 8100), decision.NOT_RESERVED),
        (TCP4, ipv4("127.0.0.1", 0), decision.NOT_RESERVED),
        (ELSEWHERE, ipv4("127.0.0.1", 8080), decision.OTHER_NAMESPACE),
        (RAW, ipv4("127.0.0.1", 8080), decision.NO_PORTS),
        (TCP6, ipv4("127.0.0.1", 8080), decision.BAD_ADDRESS),
        (TCP4, ipv4("127.0.0.1", 80), decision.LIMIT_REACHED),
    ],
)
def test_a_port_that_is_not_reserved_can_be_shared(
    facts: Facts, address: bytes, expected: Allow | Share | Deny
) -> None:
    """Whatever the rules and the limit are: both are about reserved ports, and the kernel decides about the others."""
    assert decide(grant("tcp:80", limit=1, reuse="8080-8099,80"), SITE, facts, address, bound=1) == expected


def test_sharing_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor says whether it can come to that, since then the end of a limit is not the end of its work."""
    bench = Bench(monkeypatch, grant("tcp:80", limit=1, reuse="8080"))
    assert bench.executor.shares
    assert bench.ask(TCP4, ipv4("127.0.0.1", 8080)) == Share(8080)
    assert (bench.counters, bench.done) == ([0, 0, 0], [])
    for reuse in ("", "80", "1-1023"):
        assert not Bench(monkeypatch, grant("tcp:80", reuse=reuse)).executor.shares
    for reuse in ("1024", "80,8080", "any"):
        assert Bench(monkeypatch, grant("tcp:80", reuse=reuse)).executor.shares


@given(st.sampled_from([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]), st.binary(max_size=200))
def test_any_bytes_are_an_address_or_none(domain: int, data: bytes) -> None:
    """For all bytes: a packed address of the domain's length with a 16-bit port, or None, never an error."""
    found = parse_address(domain, data)
    if found is not None:
        packed, port = found
        assert len(packed) == (4 if domain == socket.AF_INET else 16)
        assert 0 <= port <= 65535
