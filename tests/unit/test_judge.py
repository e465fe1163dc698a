"""The decision for one bind, as the helper takes it."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.helper.judge import Facts, Judge, parse_address
from privbind.helper.ledger import BOUND
from privbind.policy import Grant, Policy

NETNS = 7
START = 1024


def ipv4(address: str, port: int, family: int = socket.AF_INET) -> bytes:
    """A struct sockaddr_in."""
    return struct.pack("=H", family) + struct.pack("!H4s8x", port, socket.inet_aton(address))


def ipv6(address: str, port: int) -> bytes:
    """A struct sockaddr_in6."""
    packed = socket.inet_pton(socket.AF_INET6, address)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, packed, 0)


TCP4 = Facts(socket.AF_INET, socket.SOCK_STREAM, 6, NETNS)
TCP6 = Facts(socket.AF_INET6, socket.SOCK_STREAM, 6, NETNS)


def judge(rules: str | None = None, limit: int = 0) -> Judge:
    """One for a grant with these rules."""
    return Judge(Grant(Policy.parse([rules]) if rules else Policy(None), limit), START, NETNS)


@pytest.mark.parametrize(
    ("rules", "facts", "address", "port"),
    [
        ("tcp:80", TCP4, ipv4("127.0.0.1", 80), 80),
        ("tcp:80", TCP4, ipv4("127.0.0.1", 80) + bytes(112), 80),  # a whole struct sockaddr_storage
        ("tcp:80", TCP4, ipv4("0.0.0.0", 80, 0), 80),  # AF_UNSPEC with the wildcard is IPv4
        ("tcp:80", TCP4, ipv4("127.0.0.1", 80, 0), 0),
        ("tcp:80", TCP4, ipv4("127.0.0.1", 81), 0),
        ("tcp:80", TCP4, ipv4("127.0.0.1", 80)[:15], 0),
        ("tcp:80", TCP4, b"", 0),
        ("tcp:80", TCP4, ipv6("::1", 80), 0),
        ("tcp:80", TCP6, ipv6("::1", 80), 80),
        ("tcp:80", TCP6, ipv6("::1", 80)[:24], 80),
        ("tcp:80", TCP6, ipv6("::1", 80)[:23], 0),
        ("tcp:80", TCP6, ipv4("127.0.0.1", 80), 0),
        ("tcp:127.0.0.1:80", TCP6, ipv6("::ffff:127.0.0.1", 80), 80),
        ("tcp:80", Facts(socket.AF_INET, socket.SOCK_STREAM, 6, NETNS + 1), ipv4("127.0.0.1", 80), 0),
        ("tcp:80", Facts(socket.AF_INET, socket.SOCK_STREAM, 262, NETNS), ipv4("127.0.0.1", 80), 80),
        ("80", Facts(socket.AF_INET, socket.SOCK_DGRAM, 17, NETNS), ipv4("127.0.0.1", 80), 80),
        ("tcp:80", Facts(socket.AF_INET, socket.SOCK_DGRAM, 17, NETNS), ipv4("127.0.0.1", 80), 0),
        ("80", Facts(socket.AF_INET, socket.SOCK_DGRAM, 136, NETNS), ipv4("127.0.0.1", 80), 0),
        (None, Facts(socket.AF_INET, socket.SOCK_DGRAM, 136, NETNS), ipv4("127.0.0.1", 80), 80),
        (None, Facts(socket.AF_INET, socket.SOCK_RAW, 6, NETNS), ipv4("127.0.0.1", 80), 0),
        (None, Facts(socket.AF_UNIX, socket.SOCK_STREAM, 0, NETNS), b"\1\0/run/x", 0),
        (None, TCP4, ipv4("127.0.0.1", 0), 0),
        (None, TCP4, ipv4("127.0.0.1", START - 1), START - 1),
        (None, TCP4, ipv4("127.0.0.1", START), 0),  # not reserved: the kernel's business
        ("any", TCP4, ipv4("127.0.0.1", START), 0),
    ],
)
def test_what_is_bound(rules: str | None, facts: Facts, address: bytes, port: int) -> None:
    """The port when the grant covers the bind, else 0."""
    assert judge(rules).permits(facts, address) == port


def test_the_limit_counts_successes() -> None:
    """With the limit used up nothing is permitted any more."""
    found = judge("tcp:80", limit=2)
    for _ in range(2):
        assert not found.exhausted
        assert found.permits(TCP4, ipv4("127.0.0.1", 80)) == 80
        found.granted()
        found.succeeded()
    assert found.exhausted
    assert found.permits(TCP4, ipv4("127.0.0.1", 80)) == 0


def test_no_limit_is_never_used_up() -> None:
    """0 means no limit."""
    found = judge()
    found.counts[BOUND] = 1 << 40
    assert not found.exhausted


def test_what_is_counted() -> None:
    """Refused are reserved binds of this namespace that the grant does not cover, or no longer; never other binds."""
    found = judge("tcp:80", limit=1)
    assert found.permits(TCP4, ipv4("127.0.0.1", 81)) == 0
    assert list(found.counts) == [0, 1, 0]
    for facts, address in (
        (TCP4, ipv4("127.0.0.1", 8080)),
        (TCP4, b"\2\0"),
        (Facts(socket.AF_INET, socket.SOCK_STREAM, 6, NETNS + 1), ipv4("127.0.0.1", 81)),
        (Facts(socket.AF_UNIX, socket.SOCK_STREAM, 0, NETNS), b"\1\0/run/x"),
    ):
        assert found.permits(facts, address) == 0
    assert list(found.counts) == [0, 1, 0]
    assert found.permits(TCP4, ipv4("127.0.0.1", 80)) == 80
    found.granted()
    found.succeeded()
    assert found.permits(TCP4, ipv4("127.0.0.1", 80)) == 0
    assert list(found.counts) == [1, 2, 1]


@given(st.sampled_from([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]), st.binary(max_size=200))
def test_any_bytes_are_an_address_or_none(domain: int, data: bytes) -> None:
    """For all bytes: a packed address of the domain's length with a 16-bit port, or None, never an error."""
    found = parse_address(domain, data)
    if found is not None:
        packed, port = found
        assert len(packed) == (4 if domain == socket.AF_INET else 16)
        assert 0 <= port <= 65535
