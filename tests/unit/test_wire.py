"""preload's wire codec, fed whole and broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.helper import wire
from privbind.linux.sockets import MAX_ADDRESS


@given(st.binary(min_size=1, max_size=MAX_ADDRESS))
def test_a_request_comes_back_as_it_was(address: bytes) -> None:
    """For every address of 1 to 128 bytes: parsing the request gives that address."""
    data = wire.request(address)
    assert len(data) <= wire.MAX_REQUEST
    assert wire.parse_request(data) == address


@given(st.integers(0, 4095))
def test_a_reply_comes_back_as_it_was(error: int) -> None:
    """For every errno: parsing the reply gives that errno."""
    assert wire.parse_reply(wire.reply(error)) == error


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_wire_error(data: bytes) -> None:
    """For all bytes: an address of 1 to 128 bytes, or WireError, never another error."""
    try:
        assert 1 <= len(wire.parse_request(data)) <= MAX_ADDRESS
    except wire.WireError:
        pass


@given(st.binary(max_size=20))
def test_any_bytes_are_a_reply_or_a_wire_error(data: bytes) -> None:
    """For all bytes: an errno that the kernel could give, or WireError, never another error."""
    try:
        assert 0 <= wire.parse_reply(data) < 4096
    except wire.WireError:
        pass


@given(st.binary(min_size=1, max_size=MAX_ADDRESS), st.data())
def test_a_request_cut_short_or_prolonged_is_refused(address: bytes, data: st.DataObject) -> None:
    """For every request: no part of it and nothing longer is a request."""
    whole = wire.request(address)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for broken in (whole[:cut], whole + b"x"):
        with pytest.raises(wire.WireError):
            wire.parse_request(broken)
