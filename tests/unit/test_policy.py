"""Rules, policies and grants: what they mean, how they are written, and what is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.grant.grant import Grant
from privbind.grant.policy import (
    MAX_RULES,
    MAX_U32,
    Policy,
    PolicyError,
    Ports,
    Rule,
    number,
    parse_ports,
    parse_rule,
    unmapped,
)

from ..harness.policies import rules

SERVICES = {
    ("https", "tcp"): 443,
    ("https", "udp"): 443,
    ("domain", "tcp"): 53,
    ("domain", "udp"): 53,
    ("ftp-data", "tcp"): 20,
    ("syslog", "udp"): 514,
    ("mixed", "tcp"): 512,
    ("mixed", "udp"): 513,
}


def services(name: str, protocol: str) -> int:
    """A small /etc/services."""
    try:
        return SERVICES[name, protocol]
    except KeyError:
        raise OSError("service/proto not found") from None


def packed(address: str) -> bytes:
    """An address in text as a socket would have it."""
    return ipaddress.ip_address(address).packed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ["80"]),
        ("tcp:80", ["tcp:80"]),
        ("udp:domain", ["udp:53"]),
        ("domain", ["53"]),
        ("https", ["443"]),
        ("tcp:https", ["tcp:443"]),
        ("ftp-data", ["tcp:20"]),
        ("syslog", ["udp:514"]),
        ("mixed", ["tcp:512", "udp:513"]),
        ("20-21", ["20-21"]),
        ("80-80", ["80"]),
        ("any", ["any"]),
        ("1-65535", ["any"]),
        ("tcp:any", ["tcp:any"]),
        ("0080", ["80"]),
        ("127.0.0.1:80", ["127.0.0.1:80"]),
        ("tcp:10.0.0.0/8:1-1023", ["tcp:10.0.0.0/8:1-1023"]),
        ("tcp:127.0.0.1/32:80", ["tcp:127.0.0.1:80"]),
        ("0.0.0.0/0:80", ["0.0.0.0/0:80"]),
        ("0.0.0.0:80", ["0.0.0.0:80"]),
        ("tcp:[::1]:443", ["tcp:[::1]:443"]),
        ("[::]:80", ["[::]:80"]),
        ("[::/0]:80", ["[::/0]:80"]),
        ("tcp:[fd00::/8]:443", ["tcp:[fd00::/8]:443"]),
        ("tcp:[FD00:0::/8]:443", ["tcp:[fd00::/8]:443"]),
        ("[::ffff:10.1.2.3]:80", ["10.1.2.3:80"]),
        ("[::ffff:10.0.0.0/104]:80", ["10.0.0.0/8:80"]),
        ("[::ffff:0:0/96]:80", ["0.0.0.0/0:80"]),
        ("tcp:[::1]:domain", ["tcp:[::1]:53"]),
    ],
)
def test_a_rule_is_read_and_shown_in_its_shortest_form(text: str, expected: list[str]) -> None:
    """What is shown can be read again and means the same."""
    rules = parse_rule(text, services)
    assert [str(rule) for rule in rules] == expected
    assert tuple(rule for shown in expected for rule in parse_rule(shown)) == rules


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("sctp:80", "unknown protocol 'sctp'"),
        ("tcp:udp:80", "unknown protocol 'udp'"),
        (":80", "unknown protocol ''"),
        ("tcp:", "port ''"),
        ("0", "port '0'"),
        ("65536", "port '65536'"),
        ("99999999999999999999999", "port '99999999999999999999999'"),
        ("3x", "'3x' is neither a port"),
        ("-1", "'-1' is neither a port"),
        ("+80", "is neither a port"),
        ("8_0", "'8_0' is neither"),
        (" 80", "' 80' is neither"),
        ("80 ", "'80 ' is neither"),
        ("٣", "port '٣'"),
        ("²", "port '²'"),
        ("20-", "port ''"),
        ("20-10", "runs backwards"),
        ("0-10", "port '0'"),
        ("10-65536", "port '65536'"),
        ("1-2-3", "neither"),
        ("nosuch", "'nosuch' is neither a port from 1 to 65535 nor a known service"),
        ("udp:ftp-data", "service for udp"),
        ("domain-https", "neither"),
        ("\udc80", "neither"),
        ("tcp:300.1.1.1:80", "not an IPv4 address"),
        ("tcp:1.2.3:80", "not an IPv4 address"),
        ("tcp:01.2.3.4:80", "not an IPv4 address"),
        ("tcp:10.0.0.1/8:80", "bits set below its prefix"),
        ("tcp:10.0.0.0/33:80", "prefix '33'"),
        ("tcp:10.0.0.0/-1:80", "prefix '-1'"),
        ("tcp:10.0.0.0/:80", "prefix ''"),
        ("tcp:10.0.0.0/8x:80", "prefix '8x'"),
        ("tcp:[fd00::1/8]:443", "bits set below its prefix"),
        ("tcp:[::/129]:443", "prefix '129'"),
        ("tcp:[::ffff:10.0.0.0/90]:443", "bits set below its prefix"),
        ("tcp:[::1%lo]:443", "not an IPv6 address"),
        ("tcp:[10.0.0.1]:443", "not an IPv6 address"),
        ("tcp:[]:443", "not an IPv6 address"),
        ("tcp:[::1]443", r"\[ADDRESS\]:PORTS"),
        ("tcp:[::1", r"\[ADDRESS\]:PORTS"),
        ("[::1]", r"\[ADDRESS\]:PORTS"),
        ("::1:80", r"\[ADDRESS\]:PORTS"),
        ("tcp:fe80::1:80", r"\[ADDRESS\]:PORTS"),
        ("1.2.3.4:", "port ''"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_reason(text: str, why: str) -> None:
    """The message names the rule and what is wrong with it."""
    with pytest.raises(PolicyError, match=why) as caught:
        parse_rule(text, services)
    assert f"rule '{text}'" in str(caught.value)


def test_each_item_of_a_list_stands_alone() -> None:
    """A protocol does not carry over a comma, and an empty item is an error."""
    assert str(Policy.parse(["tcp:80,443", "udp:53"])) == "tcp:80,443,udp:53"
    for bad in ("80,", ",80", "80,,443"):
        with pytest.raises(PolicyError, match="it is empty"):
            Policy.parse([bad])


@pytest.mark.parametrize(
    ("rule", "protocol", "address", "port", "granted"),
    [
        ("80", "tcp", "127.0.0.1", 80, True),
        ("80", "udp", "::1", 80, True),
        ("80", None, "127.0.0.1", 80, False),  # UDP-Lite and its like: rules mean tcp and udp
        ("80", "tcp", "127.0.0.1", 81, False),
        ("tcp:80", "udp", "127.0.0.1", 80, False),
        ("20-22", "tcp", "0.0.0.0", 22, True),
        ("20-22", "tcp", "0.0.0.0", 23, False),
        ("127.0.0.1:80", "tcp", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "tcp", "127.0.0.2", 80, False),
        ("127.0.0.1:80", "tcp", "0.0.0.0", 80, False),
        ("127.0.0.1:80", "tcp", "::ffff:127.0.0.1", 80, True),
        ("127.0.0.1:80", "tcp", "::1", 80, False),
        ("127.0.0.0/8:80", "tcp", "127.255.255.255", 80, True),
        ("127.0.0.0/8:80", "tcp", "128.0.0.0", 80, False),
        ("0.0.0.0:80", "tcp", "0.0.0.0", 80, True),
        ("0.0.0.0:80", "tcp", "127.0.0.1", 80, False),
        ("0.0.0.0:80", "tcp", "::", 80, False),
        ("0.0.0.0:80", "tcp", "::ffff:0.0.0.0", 80, True),
        ("0.0.0.0/0:80", "tcp", "0.0.0.0", 80, True),
        ("0.0.0.0/0:80", "tcp", "10.1.2.3", 80, True),
        ("0.0.0.0/8:80", "tcp", "0.0.0.0", 80, False),  # a wildcard stands for all addresses, not for this one
        ("0.0.0.0/8:80", "tcp", "0.1.2.3", 80, True),
        ("[::]:80", "tcp", "::", 80, True),
        ("[::]:80", "tcp", "::1", 80, False),
        ("[::]:80", "tcp", "0.0.0.0", 80, False),
        ("[::/0]:80", "tcp", "::", 80, True),
        ("[::/0]:80", "tcp", "::1", 80, True),
        ("[::/0]:80", "tcp", "::ffff:127.0.0.1", 80, False),  # judged as IPv4, never by IPv6 rules
        ("[::/64]:80", "tcp", "::", 80, False),
        ("[::/64]:80", "tcp", "::1", 80, True),
        ("[fd00::/8]:80", "tcp", "fdff::1", 80, True),
        ("[fd00::/8]:80", "tcp", "fc00::1", 80, False),
        ("[::ffff:127.0.0.1]:80", "tcp", "127.0.0.1", 80, True),
        ("any", "udp", "10.0.0.1", 1, True),
    ],
)
def test_a_policy_permits_just_what_its_rules_say(
    rule: str, protocol: str | None, address: str, port: int, granted: bool
) -> None:
    """The table that every mechanism is held to, as a decision."""
    assert Policy.parse([rule]).permits(protocol, packed(address), port) is granted


def test_no_policy_means_every_reserved_port_of_any_protocol() -> None:
    """Without rules the protocol does not matter."""
    policy = Policy(None)
    assert policy.permits(None, packed("::"), 1)
    assert str(policy) == "any reserved port"


def test_values_cannot_be_changed_and_are_equal_by_content() -> None:
    """A policy that was checked stays what it was."""
    rule = parse_rule("tcp:80")[0]
    with pytest.raises(AttributeError):
        rule.prefix = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del rule.ports
    assert rule == parse_rule("tcp:80")[0]
    assert hash(rule) == hash(parse_rule("tcp:80")[0])
    assert rule != parse_rule("udp:80")[0]
    assert rule != object()
    assert rule.__eq__("tcp:80") is False
    assert repr(rule) == "<Rule tcp:80>"


def test_limits_are_named_and_enforced() -> None:
    """Too many rules, none at all, ports and limits out of range."""
    rule = parse_rule("80")[0]
    assert len(Policy([rule] * MAX_RULES).rules or ()) == MAX_RULES
    with pytest.raises(PolicyError, match=f"{MAX_RULES + 1} rules"):
        Policy([rule] * (MAX_RULES + 1))
    with pytest.raises(PolicyError, match="needs a rule"):
        Policy([])
    for limit in (-1, MAX_U32 + 1):
        with pytest.raises(PolicyError, match="limit"):
            Grant(Policy(None), limit)
    for low, high in ((0, 1), (2, 1), (1, 65536)):
        with pytest.raises(PolicyError, match="port range"):
            Ports(low, high)
    with pytest.raises(PolicyError, match="unknown protocol"):
        Rule("sctp", None, 0, Ports(1, 1))
    with pytest.raises(PolicyError, match="4 or 16 bytes"):
        Rule(None, b"12345", 0, Ports(1, 1))
    with pytest.raises(PolicyError, match="prefix /33"):
        Rule(None, bytes(4), 33, Ports(1, 1))


@pytest.mark.parametrize("text", ["3x", "", "-1", "4294967296", "1.0", " 1", "0x10", "1e3", "٤"])
def test_a_number_is_ascii_digits_in_range(text: str) -> None:
    """Nothing else is a number, anywhere."""
    with pytest.raises(PolicyError, match="is not a whole number from 0 to 4294967295"):
        number(text, 0, MAX_U32, "it")


def test_port_lists() -> None:
    """-r takes numbers, ranges, names and any, without repeating itself."""
    assert [str(ports) for ports in parse_ports("80,443,8000-8010,https,domain", services)] == [
        "80",
        "443",
        "8000-8010",
        "53",
    ]
    assert [str(ports) for ports in parse_ports("any")] == ["any"]
    for bad in ("", "80,", "0", "x", "tcp:80", "9-8"):
        with pytest.raises(PolicyError, match=f"ports '{bad}'"):
            parse_ports(bad, services)


def test_a_grant_says_what_it_is() -> None:
    """Its text form names the policy, the limit and the shared ports."""
    grant = Grant(Policy.parse(["tcp:80"]), 3, parse_ports("80"))
    assert str(grant) == "tcp:80; at most 3 binds; SO_REUSEPORT on 80"
    assert grant.reuses(80)
    assert not grant.reuses(81)
    assert str(Grant(Policy(None))) == "any reserved port"


@given(st.lists(rules(), min_size=1, max_size=5))
def test_every_policy_survives_its_text_form(found: list[Rule]) -> None:
    """For every policy: reading what it shows gives the same policy."""
    policy = Policy(found)
    assert Policy.parse([str(policy)]) == policy


@given(st.text() | st.text(alphabet="0123456789tcpud:[]/.-,anyf"))
def test_any_text_is_rules_or_a_policy_error(text: str) -> None:
    """For every text, also close to what is a rule: rules come back, or PolicyError, never another error."""
    try:
        found = parse_rule(text, services)
    except PolicyError:
        return
    assert 1 <= len(found) <= 2


@given(rules(), st.sampled_from([None, "tcp", "udp"]), st.ip_addresses(), st.integers(1, 65535))
def test_a_decision_agrees_with_another_way_of_asking(
    rule: Rule, protocol: str | None, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """For every rule and bind: the answer is that of the ipaddress module, but for wildcards."""
    plain = ipaddress.ip_address(unmapped(address.packed))
    expected = protocol is not None and rule.protocol in (None, protocol) and port in rule.ports
    if rule.network is not None:
        network = ipaddress.ip_network((rule.network, rule.prefix))
        inside = plain.version == network.version and plain in network
        if not any(plain.packed):
            inside = inside and network.prefixlen in (0, network.max_prefixlen)
        expected = expected and inside
    assert Policy([rule]).permits(protocol, address.packed, port) is expected
