"""preload's wire codec: any bytes are a message that encodes to the same bytes, or a WireError; nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.helper import wire
from privbind.linux.sockets import MAX_ADDRESS

from ..harness.fuzzing import fuzz


@st.composite
def near(draw: st.DrawFn, whole: bytes) -> bytes:
    """A message with a few bytes changed, cut short or prolonged."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return (
        bytes(data[: draw(st.integers(0, len(data)))])
        if draw(st.booleans())
        else bytes(data) + draw(st.binary(max_size=4))
    )


ADDRESSES = st.binary(min_size=1, max_size=MAX_ADDRESS)
REQUESTS = st.one_of(st.binary(max_size=200), ADDRESSES.flatmap(lambda address: near(wire.request(address))))
REPLIES = st.one_of(st.binary(max_size=20), st.integers(0, 4095).flatmap(lambda error: near(wire.reply(error))))


@fuzz
@given(REQUESTS)
def test_any_bytes_are_a_request_or_a_wire_error(data: bytes) -> None:
    """What is accepted is the request for its address, to the byte."""
    try:
        address = wire.parse_request(data)
    except wire.WireError:
        return
    assert 1 <= len(address) <= MAX_ADDRESS
    assert wire.request(address) == data


@fuzz
@given(REPLIES)
def test_any_bytes_are_a_reply_or_a_wire_error(data: bytes) -> None:
    """What is accepted is the reply with its errno, to the byte."""
    try:
        error = wire.parse_reply(data)
    except wire.WireError:
        return
    assert 0 <= error < 4096
    assert wire.reply(error) == data


@fuzz
@given(ADDRESSES)
def test_byte_by_byte_only_the_whole_request_is_one(address: bytes) -> None:
    """No beginning of a request is a request."""
    whole = wire.request(address)
    for size in range(len(whole)):
        with pytest.raises(wire.WireError):
            wire.parse_request(whole[:size])
    assert wire.parse_request(whole) == address
