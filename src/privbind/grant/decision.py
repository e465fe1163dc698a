# SPDX-License-Identifier: MIT
"""The decision of one bind: does the grant cover this socket, with this address, at this site?

Pure, so that whoever asks gets the same answer: it is told what the socket is and to what address it is to be bound.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM
from _struct import Struct
from sys import byteorder

from ..values import value
from .policy import TCP, UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .grant import Grant
    from .site import Site

    Facts = tuple[int, int, int, int]
    """What a socket is: its domain, type and protocol (socket(2)), and the cookie of its network namespace."""

_AF_UNSPEC = 0
_FAMILIES = frozenset((AF_INET, AF_INET6, _AF_UNSPEC))
_HEAD = Struct("=HBB")  # struct sockaddr_in and sockaddr_in6: the family, and the port, high byte first
_MIN_IPV4 = 16  # sizeof(struct sockaddr_in)
_MIN_IPV6 = 24  # SIN6_LEN_RFC2133: without the scope id

_SOCK_DCCP = 6  # linux/net.h
_IPPROTO_MPTCP = 262  # linux/in.h, 5.6
_RULE_PROTOCOLS = {
    (SOCK_STREAM, IPPROTO_TCP): TCP,
    (SOCK_STREAM, _IPPROTO_MPTCP): TCP,
    (SOCK_DGRAM, IPPROTO_UDP): UDP,
}
_TYPES_WITH_PORTS = frozenset((SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, _SOCK_DCCP))


@value
class Allow:
    """The grant covers the bind of this port."""

    port: int


@value
class Share:
    """The kernel decides about the bind, but the grant names its port: SO_REUSEPORT is to be set first."""

    port: int


@value
class Deny:
    """The grant does not cover the bind, so the kernel's own answer stands."""

    reason: str


NO_PORTS = Deny("a socket of this type has no ports")
OTHER_NAMESPACE = Deny("the socket is in another network namespace")
BAD_ADDRESS = Deny("the kernel takes no such address for this socket")
NOT_RESERVED = Deny("the port is not reserved")
NO_RULE = Deny("no rule permits it")
LIMIT_REACHED = Deny("all binds of the limit are used up")

REFUSALS = (NO_RULE, LIMIT_REACHED)
"""The reasons for which a bind counts as refused; the others mean that the grant does not concern it."""


def may_concern(grant: Grant, site: Site, address: bytes) -> bool:
    """Whether the grant could have a say in a bind to this address: a quick look, before the socket is known."""
    family, high, low = _HEAD.unpack_from(address)
    port = high << 8 | low
    return family in _FAMILIES and (0 < port < site.port_start or grant.reuses(port))


def decide(grant: Grant, site: Site, facts: Facts, address: bytes, bound: int = 0) -> Allow | Share | Deny:  # noqa: PLR0911  # one a reason
    """Decide one bind.

    ``address`` is a struct sockaddr as the command gave it, to the byte; ``bound`` is how many binds have succeeded by
    this grant so far.
    """
    domain, kind, protocol, netns = facts
    if kind not in _TYPES_WITH_PORTS:
        return NO_PORTS
    if netns != site.netns:
        return OTHER_NAMESPACE
    found = parse_address(domain, address)
    if found is None:
        return BAD_ADDRESS
    packed, port = found
    if not 0 < port < site.port_start:
        return Share(port) if grant.reuses(port) else NOT_RESERVED
    if 0 < grant.limit <= bound:
        return LIMIT_REACHED
    if grant.policy.permits(_RULE_PROTOCOLS.get((kind, protocol)), packed, port):
        return Allow(port)
    return NO_RULE


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
