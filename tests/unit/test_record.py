"""How a grant describes itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.grant import record
from privbind.grant.grant import Grant
from privbind.grant.holder import Holder
from privbind.grant.policy import Policy, parse_ports
from privbind.grant.site import Site

GRANT = Grant(Policy.parse(["tcp:80,udp:[fd00::/8]:53"]), 3, parse_ports("80"))
SITE = Site(7, 1024)


def describe(*argv: bytes, mechanism: str = "bpf") -> list[tuple[str, bytes]]:
    return record.describe(GRANT, Holder("www-data", 33, 34, argv, 77, 1700000000), SITE, mechanism)


def test_all_that_a_list_of_grants_needs() -> None:
    said = describe(b"./server", b"-v")
    assert record.decode(record.encode(said)) == said
    assert dict(said) == {
        "mechanism": b"bpf",
        "grant": b"tcp:80,udp:[fd00::/8]:53; at most 3 binds; SO_REUSEPORT on 80",
        "user": b"www-data",
        "uid": b"33",
        "gid": b"34",
        "reserved-below": b"1024",
        "netns": b"7",
        "holder": b"command",
        "pid": b"77",
        "since": b"1700000000",
        "argument": b"-v",
    }
    assert Grant.parse(dict(said)["grant"].decode()) == GRANT


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_arguments_are_kept_to_the_byte(argv: list[bytes]) -> None:
    said = record.decode(record.encode(describe(*argv, mechanism="seccomp")))
    assert [value for name, value in said if name == "argument"] == argv


@pytest.mark.parametrize("argument", [b"\\", b"\\n", b"\\\\n", b"\n", b"a\\\nb", b"\n\\", b""])
def test_backslashes_and_line_breaks(argument: bytes) -> None:
    text = record.encode([("argument", argument)])
    assert text.count(b"\n") == 2
    assert record.decode(text) == [("argument", argument)]


def test_a_long_command_line_is_cut_and_says_so() -> None:
    said = describe(b"x" * 4000, b"y" * 96, b"z", b"z", mechanism="preload")
    assert [name for name, _ in said if name == "argument"] == ["argument"] * 2
    assert said[-1] == ("cut", b"2")


@pytest.mark.parametrize("text", [b"", b"privbind", b"privbind grant 1", b"privbind grant 2\nuser x\n", b"\0" * 64])
def test_anything_else_is_no_record(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a record"):
        record.decode(text)
