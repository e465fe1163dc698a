"""`Policy.covers`, held to `Policy.permits`: both ways, at every place where either policy's answer can change.

A policy's answer changes only at a boundary of a rule's ports or addresses, at the wildcard addresses and at the edges
of the IPv4-mapped addresses. So whether one policy permits all that another one does can be told from those points: one
of each piece between two boundaries stands for the whole piece.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privbind.grant.policy import PROTOCOLS, Policy, Ports, Rule

from ..harness.policies import policies

MAPPED = int.from_bytes(bytes(10) + b"\xff\xff" + bytes(4), "big")
Bind = tuple[str | None, bytes, int]


def port_points(policy: Policy) -> Iterator[int]:
    """The first port of each piece in which no rule of the policy begins or ends."""
    yield 1
    for rule in policy.rules or ():
        yield from (port for port in (rule.ports.low, rule.ports.high + 1) if port <= 65535)


def address_points(policy: Policy, size: int) -> Iterator[int]:
    """The first address of each piece of a family, as numbers; and what is special there."""
    yield from (0, 1)  # the wildcard, and what is next to it
    if size == 16:
        yield from (MAPPED, MAPPED + (1 << 32))
    for rule in policy.rules or ():
        if rule.network is not None and len(rule.network) == size:
            first = int.from_bytes(rule.network, "big")
            end = first + (1 << 8 * size - rule.prefix)
            yield from (address for address in (first, end) if address < 1 << 8 * size)


def points(one: Policy, other: Policy) -> Iterator[Bind]:
    """A bind of each piece of all binds in which neither policy's answer changes."""
    ports = {*port_points(one), *port_points(other)}
    for size in (4, 16):
        addresses = {*address_points(one, size), *address_points(other, size)}
        for protocol, address, port in itertools.product((*PROTOCOLS, None), addresses, ports):
            yield protocol, address.to_bytes(size, "big"), port


def counterexample(one: Policy, other: Policy) -> Bind | None:
    """A bind that the other policy permits and the one does not."""
    return next((bind for bind in points(one, other) if other.permits(*bind) and not one.permits(*bind)), None)


def check(one: Policy, other: Policy) -> None:
    """Both directions: covered, and nothing speaks against it; or not covered, and something does."""
    found = counterexample(one, other)
    assert one.covers(other) is (found is None), f"{one} / {other}: {found}"


# Few enough addresses and ports that rules meet, nest, touch and overlap.
ADDRESSES = (
    "0.0.0.0", "0.0.0.1", "0.0.0.2", "0.0.0.3", "127.255.255.255", "128.0.0.0", "255.255.255.254", "255.255.255.255",
    "::", "::1", "::2", "::3", "::fffe:ffff:ffff", "::1:0:0:0", "8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "::ffff:0.0.0.0", "::ffff:0.0.0.2", "::ffff:128.0.0.0",
)  # fmt: skip


@st.composite
def small_rules(draw: st.DrawFn) -> Rule:
    """A rule in a small universe, wildcards, /0 and both families among it."""
    protocol = draw(st.sampled_from([None, *PROTOCOLS]))
    low, high = sorted((draw(st.integers(1, 4)), draw(st.integers(1, 4))))
    ports = draw(st.sampled_from([Ports(low, high), Ports(low, 65535), Ports(1, 65535)]))
    if draw(st.integers(0, 3)) == 0:
        return Rule(protocol, None, 0, ports)
    address = ipaddress.ip_address(draw(st.sampled_from(ADDRESSES))).packed
    bits = 8 * len(address)
    prefix = bits - draw(st.sampled_from([0, 0, 0, 1, 1, 2, 31, 32, 33, 127, bits]).filter(lambda cut: cut <= bits))
    network = int.from_bytes(address, "big") >> bits - prefix << bits - prefix
    return Rule(protocol, network.to_bytes(len(address), "big"), prefix, ports)


small_policies = st.one_of(st.just(Policy(None)), st.lists(small_rules(), min_size=1, max_size=6).map(Policy))


def policy(text: str) -> Policy:
    """A policy by its text form."""
    return Policy.parse([text])


@given(small_policies, small_policies)
@settings(max_examples=600, deadline=None)
@example(policy("0.0.0.0/1:1,128.0.0.0/1:1,0.0.0.0:1"), policy("0.0.0.0/0:1"))
@example(policy("0.0.0.0/1:1,128.0.0.0/1:1"), policy("0.0.0.0/0:1"))
@example(policy("[::/1]:1,[8000::/1]:1,[::]:1"), policy("[::/0]:1"))
@example(policy("[::/0]:1"), policy("[::ffff:0:0/96]:1"))
@example(policy("[::/0]:1"), policy("[::/80]:1"))
@example(policy("0.0.0.0/0:1,[::/0]:1"), policy("1"))
@example(policy("1"), policy("0.0.0.0/0:1,[::/0]:1"))
@example(policy("tcp:1-2,udp:1"), policy("1-2"))
@example(policy("any"), Policy(None))
def test_covers_is_what_permits_says(one: Policy, other: Policy) -> None:
    """For all pairs of policies in a small universe."""
    check(one, other)


@given(small_policies, st.data())
@settings(max_examples=300, deadline=None)
def test_parts_are_covered_by_the_whole(whole: Policy, data: st.DataObject) -> None:
    """Whose rules are some of another's, in any order and each a part of it."""
    if whole.rules is None:
        return
    parts = []
    for rule in data.draw(st.lists(st.sampled_from(whole.rules), min_size=1, max_size=4)):
        low = data.draw(st.integers(rule.ports.low, min(rule.ports.high, rule.ports.low + 2)))
        protocol = rule.protocol or data.draw(st.sampled_from([None, *PROTOCOLS]))
        parts.append(Rule(protocol, rule.network, rule.prefix, Ports(low, rule.ports.high)))
    assert whole.covers(Policy(parts))
    check(whole, Policy(parts))


@given(small_policies, small_policies)
@settings(max_examples=200, deadline=None)
def test_a_policy_with_more_rules_covers_what_it_covered(one: Policy, other: Policy) -> None:
    """And it covers both of the policies that it is made of."""
    if one.rules is None or other.rules is None:
        return
    both = Policy(one.rules + other.rules)
    assert both.covers(one)
    assert both.covers(other)
    assert one.covers(both) is one.covers(other)


@given(policies, policies)
@settings(deadline=None)
def test_any_policies(one: Policy, other: Policy) -> None:
    """The same for policies of any addresses and ports, of which most have little to do with each other."""
    check(one, other)
    assert one.covers(one)
    assert Policy(None).covers(one)


def test_mapped_addresses_need_no_ipv6_rule() -> None:
    """All networks around ::ffff:0:0/96, and the wildcard, are as good as ::/0, which does not mean those addresses."""
    around = []
    for length in range(1, 97):
        sibling = (MAPPED >> 128 - length ^ 1) << 128 - length
        around.append(Rule("tcp", sibling.to_bytes(16, "big"), length, Ports(1, 1)))
    wildcard, everything = policy("tcp:[::]:1").rules, policy("tcp:[::/0]:1")
    assert wildcard is not None
    assert Policy([*around, *wildcard]).covers(everything)
    check(Policy([*around, *wildcard]), everything)
    assert not Policy(around).covers(everything)
    check(Policy(around), everything)
    assert not Policy([*around[1:], *wildcard]).covers(everything)


@pytest.mark.parametrize(
    ("one", "other", "covers"),
    [
        ("any", "tcp:80", True),
        ("tcp:80", "any", False),
        ("tcp:80", "tcp:80", True),
        ("80", "tcp:80", True),
        ("tcp:80", "80", False),
        ("tcp:80,udp:80", "80", True),
        ("1-79,81-1023,80", "1-1023", True),
        ("1-79,81-1023", "1-1023", False),
        ("tcp:127.0.0.0/8:80", "tcp:127.0.0.1:80", True),
        ("tcp:127.0.0.1:80", "tcp:127.0.0.0/8:80", False),
        ("10.0.0.0/9:80,10.128.0.0/9:80", "10.0.0.0/8:80", True),
        ("10.0.0.0/9:80,10.128.0.0/10:80", "10.0.0.0/8:80", False),
        ("0.0.0.0/0:80", "0.0.0.0:80", True),
        ("0.0.0.0/0:80", "80", False),  # the other family
        ("0.0.0.0/0:80,[::/0]:80", "80", True),
        ("0.0.0.0/8:80", "0.0.0.0:80", False),  # the wildcard is no address of a longer prefix
        ("0.0.0.0/8:80", "0.0.0.1:80", True),
        ("0.0.0.0/1:80,128.0.0.0/1:80", "0.0.0.0/0:80", False),
        ("0.0.0.0/1:80,128.0.0.0/1:80,0.0.0.0:80", "0.0.0.0/0:80", True),
        ("[::/0]:80", "[::1]:80", True),
        ("[::/0]:80", "10.0.0.1:80", False),
        ("[::/0]:80", "[::ffff:10.0.0.1]:80", False),  # judged as IPv4
        ("10.0.0.0/8:80", "[::ffff:10.0.0.1]:80", True),
        ("[::/64]:80", "[::]:80", False),
        ("any reserved port", "any", True),
        ("any", "any reserved port", False),  # protocols that no rule names
    ],
)
def test_table(one: str, other: str, covers: bool) -> None:
    """What people would ask."""
    assert policy(one).covers(policy(other)) is covers
    check(policy(one), policy(other))
