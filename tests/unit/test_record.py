"""How a grant describes itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind import record
from privbind.account import Account
from privbind.policy import Grant, Policy, parse_ports


def request(argv: list[bytes], **more: Any) -> Any:
    account = Account(33, 33, (), name="www-data")
    grant = Grant(Policy.parse(["tcp:80,udp:[fd00::/8]:53"]), 3, parse_ports("80"))
    return SimpleNamespace(argv=argv, account=account, grant=grant, port_start=1024, **more)


def test_all_that_a_list_of_grants_needs() -> None:
    said = record.describe(request([b"./server", b"-v"]), "bpf", "2.0.0", 77, 1700000000)
    assert record.decode(record.encode(said)) == said
    assert dict(said) == {
        "version": b"2.0.0",
        "mechanism": b"bpf",
        "user": b"www-data",
        "uid": b"33",
        "gid": b"33",
        "rules": b"tcp:80,udp:[fd00::/8]:53",
        "limit": b"3",
        "reuse": b"80",
        "reserved-below": b"1024",
        "pid": b"77",
        "started": b"1700000000",
        "argument": b"-v",
    }


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_arguments_are_kept_to_the_byte(argv: list[bytes]) -> None:
    said = record.decode(record.encode(record.describe(request(argv), "seccomp", "2", 1, 2)))
    assert [value for name, value in said if name == "argument"] == argv


@pytest.mark.parametrize("argument", [b"\\", b"\\n", b"\\\\n", b"\n", b"a\\\nb", b"\n\\", b""])
def test_backslashes_and_line_breaks(argument: bytes) -> None:
    text = record.encode([("argument", argument)])
    assert text.count(b"\n") == 2
    assert record.decode(text) == [("argument", argument)]


def test_a_long_command_line_is_cut_and_says_so() -> None:
    said = record.describe(request([b"x" * 4000, b"y" * 96, b"z", b"z"]), "preload", "2", 1, 2)
    assert [name for name, _ in said if name == "argument"] == ["argument"] * 2
    assert said[-1] == ("cut", b"2")


@pytest.mark.parametrize("text", [b"", b"privbind", b"privbind grant 1", b"privbind grant 2\nuser x\n", b"\0" * 64])
def test_anything_else_is_no_record(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a record"):
        record.decode(text)
