# SPDX-License-Identifier: MIT
"""What the names of authbind's files stand for, and the lines of those in byuid, as authbind(1) says. Pure."""

from __future__ import annotations

import re
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from ipaddress import ip_address, summarize_address_range

from .entries import MAX_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    Network = tuple[bytes, int]
    """A packed address and the length of its prefix."""

_MARK = "!"
_FIRST_MARKED = 512
"""From this port on, authbind looks at names only that begin with the mark."""
_END = 1024
"""From this port on, it is not asked."""

# Numbers as authbind writes them into names. Of lines the man page does not say so, but a line that is read in
# another way than authbind reads it could permit more.
_NUMBER = r"(0|[1-9][0-9]{0,9})"
_ADDRESS = r"([0-9A-Fa-f.:]+)"
_LINE = re.compile(rf"{_ADDRESS}(?:-{_ADDRESS}|/{_NUMBER})?,{_NUMBER}(?:-{_NUMBER})?")
_OLD_LINE = re.compile(rf"([0-9.]+)/{_NUMBER}:{_NUMBER},{_NUMBER}")

_NO_SUCH_NAME = "authbind never looks at a file of this name"


class NoSuchNameError(ValueError):
    """A name that authbind never looks at."""


def port_of(name: str) -> int:
    """The port that a file in byport is about. Raises NoSuchNameError."""
    return _port(*_unmarked(name))


def uid_and_ports(name: str) -> tuple[int, range]:
    """The uid that a file in byuid is about, and the ports for which it is looked at. Raises NoSuchNameError."""
    marked, digits = _unmarked(name)
    if not re.fullmatch(_NUMBER, digits) or int(digits) > MAX_ID:
        raise NoSuchNameError(_NO_SUCH_NAME)
    return int(digits), range(_FIRST_MARKED, _END) if marked else range(1, _FIRST_MARKED)


def _unmarked(name: str) -> tuple[bool, str]:
    return name.startswith(_MARK), name.removeprefix(_MARK)


def _port(marked: bool, text: str) -> int:
    """The port that a name is about."""
    if not re.fullmatch(_NUMBER, text) or text == "0":
        raise NoSuchNameError(_NO_SUCH_NAME)
    port = int(text)
    if port >= _END:
        raise NoSuchNameError(f"authbind is not asked about ports from {_END} on, which are not reserved")
    if marked != (port >= _FIRST_MARKED):
        needed = f"must begin with {_MARK}" if port >= _FIRST_MARKED else f"must not begin with {_MARK}"
        raise NoSuchNameError(f"{_NO_SUCH_NAME}: for port {port} it {needed}")
    return port


def _split_address(name: str) -> tuple[bytes, str, str] | None:
    """The address, what stands between it and the port, and the port's text."""
    for separator in (",", ":"):
        address, found, port = name.rpartition(separator)
        if found:
            packed = _packed(address)
            return None if packed is None else (packed, separator, port)
    return None


def address_and_port(name: str) -> tuple[bytes, int]:
    """The packed address and the port that a file in byaddr is about. Raises NoSuchNameError."""
    marked, text = _unmarked(name)
    split = _split_address(text)
    if split is None or text.rpartition(split[1])[0] not in _written(*split[:2]):
        raise NoSuchNameError(_NO_SUCH_NAME)
    return split[0], _port(marked, split[2])


def _written(address: bytes, separator: str) -> tuple[str, ...]:
    """How an address may be written in a name, in the order in which authbind tries it."""
    if len(address) == 4:
        return (inet_ntop(AF_INET, address),)
    if separator == ":":
        return ()
    groups = (int.from_bytes(address[at : at + 2], "big") for at in range(0, 16, 2))
    return inet_ntop(AF_INET6, address), ":".join(f"{group:x}" for group in groups)


def is_second_choice(name: str) -> bool:
    """Whether authbind looks at a file in byaddr only where there is none of the other name for it."""
    _, text = _unmarked(name)
    split = _split_address(text)
    if split is None:
        return False
    address, separator, _ = split
    return separator == ":" or text.rpartition(",")[0] not in _written(address, separator)[:1]


def _packed(text: str) -> bytes | None:
    for family in (AF_INET, AF_INET6):
        try:
            return inet_pton(family, text)
        except (OSError, ValueError):
            continue
    return None


def parse_line(line: str) -> tuple[list[Network], int, int] | None:
    """The networks of a line of byuid and its first and last port; None for a line that authbind ignores."""
    if old := _OLD_LINE.fullmatch(line):
        low, length, first, last = old.groups()
        high = None
    elif new := _LINE.fullmatch(line):
        low, high, length, first, last = new.groups()
    else:
        return None
    ports = int(first), int(last or first)
    packed = _packed(low)
    if packed is None or ports[0] > ports[1]:
        return None
    if high is not None:
        end = _packed(high)
        if end is None or len(end) != len(packed) or packed > end:
            return None
        found = summarize_address_range(ip_address(packed), ip_address(end))
        return [(network.network_address.packed, network.prefixlen) for network in found], *ports
    bits = 8 * len(packed)
    prefix = bits if length is None else int(length)
    if prefix > bits or int.from_bytes(packed, "big") & ((1 << (bits - prefix)) - 1):
        return None
    return [(packed, prefix)], *ports


def holds(network: Network, address: bytes) -> bool:
    """Whether an address is in a network, by its number alone."""
    packed, prefix = network
    if len(packed) != len(address):
        return False
    return not (int.from_bytes(packed, "big") ^ int.from_bytes(address, "big")) >> (8 * len(packed) - prefix)
