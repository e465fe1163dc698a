# SPDX-License-Identifier: MIT
"""The decision for one bind: is this socket, with this address, what was granted?

Pure, so that every front door of the helper gives the same answer: it is told what the socket is and to what address
it is to be bound, and says whether to bind it. It also counts, since a limit is part of the grant.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM
from _struct import Struct
from sys import byteorder

from ..linux.sockets import IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, SOCK_DCCP
from ..policy import TCP, UDP
from .ledger import BOUND, GRANTED, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..policy import Grant

    class Counts(Protocol):
        """The counters, by the numbers that `ledger` gives them."""

        def __getitem__(self, index: int, /) -> int:
            """One of them."""

        def __setitem__(self, index: int, value: int, /) -> None:
            """Set it."""


_AF_UNSPEC = 0
_FAMILIES = frozenset((AF_INET, AF_INET6, _AF_UNSPEC))
_HEAD = Struct("=HBB")  # struct sockaddr_in and sockaddr_in6: the family, and the port, high byte first
_MIN_IPV4 = 16  # sizeof(struct sockaddr_in)
_MIN_IPV6 = 24  # SIN6_LEN_RFC2133: without the scope id

_RULE_PROTOCOLS = {
    (SOCK_STREAM, IPPROTO_TCP): TCP,
    (SOCK_STREAM, IPPROTO_MPTCP): TCP,
    (SOCK_DGRAM, IPPROTO_UDP): UDP,
}
_TYPES_WITH_PORTS = frozenset((SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_DCCP))


class Facts:
    """What a socket is: its domain, type and protocol, and the cookie of its network namespace."""

    __slots__ = ("domain", "kind", "netns", "protocol")

    def __init__(self, domain: int, kind: int, protocol: int, netns: int) -> None:
        """Keep the four."""
        self.domain = domain
        self.kind = kind
        self.protocol = protocol
        self.netns = netns


class Judge:
    """Decides binds for one grant, in one network namespace, and counts them.

    ``counts`` is what a `Ledger` has: whoever binds what was permitted counts that with `granted` and `succeeded`.
    """

    def __init__(self, grant: Grant, port_start: int, netns: int, counts: Counts | None = None) -> None:
        """``port_start`` is the first port that is not reserved; ``netns`` the namespace's SO_NETNS_COOKIE."""
        self.grant = grant
        self.counts: Counts = [0, 0, 0] if counts is None else counts
        self._port_start = port_start
        self._netns = netns

    @property
    def exhausted(self) -> bool:
        """Whether the limit of binds is used up."""
        return 0 < self.grant.limit <= self.counts[BOUND]

    def granted(self) -> None:
        """Count a bind that was permitted and is now tried."""
        self.counts[GRANTED] += 1

    def succeeded(self) -> None:
        """Count one of those that succeeded: the limit is of these."""
        self.counts[BOUND] += 1

    def may_permit(self, address: bytes) -> bool:
        """Whether the grant could cover a bind to this address at all: a quick look, before the socket is known."""
        family, high, low = _HEAD.unpack_from(address)
        return family in _FAMILIES and 0 < high << 8 | low < self._port_start

    def permits(self, facts: Facts, address: bytes) -> int:
        """The port to bind when the grant covers this bind; 0 when it is none of ours and the kernel's answer stands.

        ``address`` is a struct sockaddr as the command gave it, to the byte.
        """
        if facts.netns != self._netns or facts.kind not in _TYPES_WITH_PORTS:
            return 0
        found = parse_address(facts.domain, address)
        if found is None:
            return 0
        packed, port = found
        if not 0 < port < self._port_start:
            return 0
        protocol = _RULE_PROTOCOLS.get((facts.kind, facts.protocol))
        if not self.exhausted and self.grant.policy.permits(protocol, packed, port):
            return port
        self.counts[REFUSED] += 1
        return 0


def port_of(address: bytes) -> int:
    """The port in a struct sockaddr_in or sockaddr_in6."""
    return int.from_bytes(address[2:4], "big")


def parse_address(domain: int, address: bytes) -> tuple[bytes, int] | None:
    """The packed address and port in a struct sockaddr, as a socket of this domain would take it.

    None for what bind(2) refuses on such a socket before it asks for a privilege (wrong length or family).
    """
    if domain == AF_INET and len(address) >= _MIN_IPV4:
        family = int.from_bytes(address[:2], byteorder)
        packed = address[4:8]
        # An unspecified family with the wildcard address is taken as IPv4 (inet_bind, net/ipv4/af_inet.c).
        if family == AF_INET or (family == _AF_UNSPEC and not any(packed)):
            return packed, port_of(address)
    elif domain == AF_INET6 and len(address) >= _MIN_IPV6:
        family = int.from_bytes(address[:2], byteorder)
        if family == AF_INET6:
            return address[8:24], port_of(address)
    return None
