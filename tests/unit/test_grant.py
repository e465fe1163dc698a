"""A grant as text, which reads back as the same grant."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privbind.grant.grant import Grant
from privbind.grant.policy import MAX_U32, Policy, PolicyError, Ports, parse_ports

from ..harness.policies import grants


@given(grants)
@example(Grant(Policy(None)))
@example(Grant(Policy(None), MAX_U32, parse_ports("any")))
@example(Grant(Policy.parse(["any"]), 1, parse_ports("1-65535")))
@example(Grant(Policy.parse(["[::ffff:10.0.0.0/104]:1-9,tcp:[::/0]:any,udp:0.0.0.0/0:80,[::]:1,0.0.0.0:1"])))
def test_every_grant_survives_its_text_form(grant: Grant) -> None:
    """For every policy, limit and list of shared ports: reading what is shown gives the same grant, on one line."""
    assert Grant.parse(str(grant)) == grant
    assert str(Grant.parse(str(grant))) == str(grant)
    assert "\n" not in str(grant)


@given(grants, grants)
def test_different_grants_have_different_texts(one: Grant, other: Grant) -> None:
    """Nothing of a grant is left out of its text."""
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("any reserved port", Grant(Policy(None))),
        ("tcp:80", Grant(Policy.parse(["tcp:80"]))),
        ("tcp:80; at most 3 binds; SO_REUSEPORT on 80,443", Grant(Policy.parse(["tcp:80"]), 3, parse_ports("80,443"))),
        ("any reserved port; at most 1 binds", Grant(Policy(None), 1)),
        ("any reserved port; SO_REUSEPORT on any", Grant(Policy(None), 0, [Ports(1, 65535)])),
    ],
)
def test_how_grants_are_written(text: str, expected: Grant) -> None:
    """Both ways."""
    assert Grant.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("; at most 3 binds", "it is empty"),
        ("any reserved port,tcp:80", "rule 'any reserved port'"),
        ("tcp:80;at most 3 binds", "rule 'tcp:80;at most 3 binds'"),
        ("tcp:80; ", "'' is no part of a grant"),
        ("tcp:80; at most 3", "'at most 3' is no part of a grant"),
        ("tcp:80; At most 3 binds", "is no part of a grant"),
        ("tcp:80; at most 0 binds", "limit '0' is not a whole number from 1"),
        ("tcp:80; at most x binds", "limit 'x'"),
        ("tcp:80; at most  binds", "limit ''"),
        ("tcp:80; at most 4294967296 binds", "limit '4294967296'"),
        ("tcp:80; SO_REUSEPORT on ", "nothing between the commas"),
        ("tcp:80; SO_REUSEPORT on https", "'https' is neither a port"),
        ("tcp:https", "'https' is neither a port"),
    ],
)
def test_what_is_no_grant(text: str, why: str) -> None:
    """A service name is none either: what it means could change."""
    with pytest.raises(PolicyError, match=why):
        Grant.parse(text)


PIECES = ["tcp:80", "any reserved port", "; ", "at most ", "3", " binds", "SO_REUSEPORT on ", "80,443", ",", "\n", "x"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)))
def test_any_text_is_a_grant_or_a_policy_error(text: str) -> None:
    """For every text: a grant that its own text gives again, or PolicyError, never another error."""
    try:
        grant = Grant.parse(text)
    except PolicyError:
        return
    assert Grant.parse(str(grant)) == grant


def test_shared_ports() -> None:
    grant = Grant(Policy.parse(["tcp:80"]), 3, parse_ports("80,90-99"))
    assert [port for port in range(1, 200) if grant.reuses(port)] == [80, *range(90, 100)]
    assert not Grant(Policy(None)).reuses(80)
