"""Generated rules, policies and grants (Hypothesis)."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from privbind.grant.grant import Grant
from privbind.grant.policy import MAX_U32, PROTOCOLS, Policy, Ports, Rule

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
