"""Generated rules, policies and grants (Hypothesis)."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from privbind.grant.grant import Grant
from privbind.grant.policy import MAX_U32, PROTOCOLS, Policy, Ports, Rule

from .bpf_machine import TCP, UDP, UDPLITE

ports = st.one_of(
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: Ports(min(pair), max(pair))),
    st.integers(1, 65535).map(lambda port: Ports(port, port)),
    st.just(Ports(1, 65535)),
)
networks = st.one_of(
    st.none(),
    st.ip_addresses().flatmap(
        lambda address: st.integers(0, address.max_prefixlen).map(
            lambda prefix: ipaddress.ip_network((address, prefix), strict=False)
        )
    ),
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule there is."""
    network = draw(networks)
    return Rule(
        draw(st.sampled_from([None, *PROTOCOLS])),
        network.network_address.packed if network else None,
        network.prefixlen if network else 0,
        draw(ports),
    )


policies = st.one_of(st.just(Policy(None)), st.lists(rules(), min_size=1, max_size=5).map(Policy))
grants = st.builds(
    Grant,
    policies,
    st.one_of(st.just(0), st.integers(1, 5), st.integers(0, MAX_U32)),
    st.lists(ports, max_size=4, unique=True),
)


def packed(address: str) -> bytes:
    """An address as the kernel has it."""
    return ipaddress.ip_address(address).packed


# Few enough networks and ports that random binds meet them, with nesting, wildcards and mapped addresses among them.
ADDRESSES_4 = [
    "0.0.0.0",
    "0.0.0.1",
    "10.0.0.0",
    "10.0.0.1",
    "10.128.0.0",
    "127.0.0.1",
    "192.168.1.0",
    "255.255.255.255",
]
ADDRESSES_6 = [
    "::",
    "::1",
    "::fffe:0:1",
    "::1:0:0:0",
    "fd00::",
    "fd00::1",
    "fd00:0:0:1::",
    "fd00:0:0:1:8000::",
    "fe80::1",
]
ADDRESSES_6 += [f"::ffff:{address}" for address in ADDRESSES_4] + ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
CLOSE_PORTS = [1, 2, 22, 79, 80, 81, 100, 443, 444, 512, 1022, 1023, 1024, 2000, 65535]

close_ports = st.one_of(st.sampled_from(CLOSE_PORTS), st.integers(1, 65535))


@st.composite
def close_rules(draw: st.DrawFn) -> Rule:
    """A rule about few networks and ports."""
    protocol = draw(st.sampled_from(["tcp", "udp", None]))
    low, high = sorted((draw(close_ports), draw(close_ports))) if draw(st.booleans()) else (draw(close_ports),) * 2
    span = Ports(low, high) if draw(st.integers(0, 9)) else Ports(1, 65535)
    if not draw(st.integers(0, 3)):
        return Rule(protocol, None, 0, span)
    address = packed(draw(st.sampled_from(ADDRESSES_4 + ADDRESSES_6)))
    bits = 8 * len(address)
    prefix = draw(
        st.one_of(st.sampled_from([bits, 0, 8, bits - 1, min(bits, 64), min(bits, 96)]), st.integers(0, bits))
    )
    network = (int.from_bytes(address, "big") >> bits - prefix << bits - prefix).to_bytes(len(address), "big")
    return Rule(protocol, network, prefix, span)


@st.composite
def close_binds(draw: st.DrawFn) -> tuple[int, bytes, int]:
    """Protocol, address and port of a bind that such rules are likely to be about."""
    address = packed(draw(st.sampled_from(ADDRESSES_4 + ADDRESSES_6)))
    if draw(st.booleans()):
        bits = 8 * len(address)
        address = (int.from_bytes(address, "big") ^ 1 << draw(st.integers(0, bits - 1))).to_bytes(len(address), "big")
    return draw(st.sampled_from([TCP, TCP, UDP, UDP, UDPLITE])), address, draw(st.one_of(st.just(0), close_ports))
