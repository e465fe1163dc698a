# SPDX-License-Identifier: MIT
"""What the shim and the helper say to each other (docs/architecture.md has the layout; preload/client.h the C side).

Sans-I/O: bytes to values and back. For all bytes, `parse_request` gives an address of 1 to 128 bytes or raises
WireError, never another error.
"""

from __future__ import annotations

from _struct import Struct

from ..linux.sockets import MAX_ADDRESS

MAGIC = 0x31766270
_REQUEST = Struct("=II")
_REPLY = Struct("=Ii")

MAX_REQUEST = _REQUEST.size + MAX_ADDRESS
DESCRIPTORS = 2
"""With every request: the socket to bind, then the socket to reply on."""


class WireError(ValueError):
    """Bytes that are no message of ours."""


def request(address: bytes) -> bytes:
    """The datagram that asks for a bind to this address."""
    return _REQUEST.pack(MAGIC, len(address)) + address


def parse_request(data: bytes) -> bytes:
    """The address asked for. Raises WireError."""
    if len(data) < _REQUEST.size:
        raise WireError(f"{len(data)} bytes are no request")
    magic, size = _REQUEST.unpack_from(data)
    address = data[_REQUEST.size :]
    if magic != MAGIC or size != len(address) or not 1 <= size <= MAX_ADDRESS:
        raise WireError("not a request of this version")
    return address


def reply(error: int) -> bytes:
    """The datagram that answers: 0 when the socket was bound, else the errno."""
    return _REPLY.pack(MAGIC, error)


def parse_reply(data: bytes) -> int:
    """The errno answered, 0 for success. Raises WireError."""
    if len(data) != _REPLY.size:
        raise WireError(f"{len(data)} bytes are no reply")
    magic, error = _REPLY.unpack(data)
    if magic != MAGIC or not 0 <= error < 4096:  # MAX_ERRNO, linux/err.h
        raise WireError("not a reply of this version")
    return int(error)
