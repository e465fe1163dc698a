"""The rule parser: any text is a policy whose own text means the same, or a PolicyError of one line; nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privbind.grant.policy import Policy, PolicyError, parse_ports

from ..harness.fuzzing import fuzz

CORPUS = Path(__file__).parent / "corpus"
SERVICES = {"https": (443, 443), "domain": (53, 53), "ftp-data": (20, 0), "syslog": (0, 514), "mixed": (512, 513)}


def services(name: str, protocol: str) -> int:
    """A small /etc/services."""
    port = SERVICES.get(name, (0, 0))[protocol == "udp"]
    if not port:
        raise OSError("service/proto not found")
    return port


def corpus(kind: str) -> list[str]:
    """The lines of one corpus, escapes resolved."""
    lines = (CORPUS / kind / "rules.txt").read_text().splitlines()
    return [line.encode("latin-1", "backslashreplace").decode("unicode-escape") for line in lines]


PIECES = [
    *"0123456789:,-./[]%*abcdef \0\udcff٨８",
    *("any", "tcp", "udp", "tcp:", "udp:", "https", "65535", "65536"),
    *("127.0.0.1", "0.0.0.0", "::", "[::ffff:", "/0", "/8", "/32", "/104", "/128"),
]


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """A rule of the corpora with some pieces put in, taken out or replaced."""
    text = draw(st.sampled_from(corpus("valid") + corpus("invalid")))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 3)))
        text = text[:start] + draw(st.sampled_from(["", *PIECES])) + text[end:]
    return text


TEXTS = st.one_of(spoilt(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=60))


@pytest.mark.parametrize("text", corpus("valid"))
def test_valid(text: str) -> None:
    """Each line of the valid corpus is a policy."""
    policy = Policy.parse([text], services)
    assert Policy.parse([str(policy)]) == policy


@pytest.mark.parametrize("text", corpus("invalid"))
def test_invalid(text: str) -> None:
    """Each line of the other one is refused."""
    with pytest.raises(PolicyError):
        Policy.parse([text], services)


@fuzz
@given(TEXTS)
@example("\n")
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    """Any text: a policy that its own text gives again, with ports in range, or PolicyError."""
    try:
        policy = Policy.parse([text], services)
    except PolicyError:
        return
    assert Policy.parse([str(policy)]) == policy
    assert policy.rules
    for rule in policy.rules:
        assert 1 <= rule.ports.low <= rule.ports.high <= 65535
        assert rule.network is None or 0 <= rule.prefix <= 8 * len(rule.network)


@fuzz
@given(TEXTS)
def test_any_text_is_a_list_of_ports_or_a_policy_error(text: str) -> None:
    """Any text: ports that their own text gives again, or PolicyError."""
    try:
        found = parse_ports(text, services)
    except PolicyError:
        return
    assert parse_ports(",".join(map(str, found))) == found


@fuzz
@given(TEXTS)
@example("80/tcp")
@example("htpps")
def test_what_is_advised_can_be_read(text: str) -> None:
    """Any text that is no rule: where the error says what to write, that is a policy."""
    try:
        Policy.parse([text], services)
    except PolicyError as error:
        advised = re.search(r"\((?:write|did you mean) ([^ ?]+)\??\)$", str(error))
        if advised:
            Policy.parse([advised[1]], services)
