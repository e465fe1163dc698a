# SPDX-License-Identifier: MIT
"""Rules and policies: which binds are meant, as immutable values with a text form that reads back.

A rule is written ``[PROTOCOL:][ADDRESS:]PORTS``; a policy is a comma-separated list of rules. Every mechanism takes
its answers from `Policy.permits`: the helper calls it, the BPF compiler is tested against it.

Ports are in host order, 1 to 65535. Addresses are packed (4 bytes IPv4, 16 bytes IPv6). This module does no input
or output: service names are looked up by a function that the caller passes.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from ..values import set_fields, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Services = Callable[[str, str], int]
    """Service name and protocol to port; raises OSError where there is no such service (getservbyname(3))."""

TCP = "tcp"
UDP = "udp"
PROTOCOLS = (TCP, UDP)

ANY = "any reserved port"
"""The text form of the policy without rules."""

MAX_PORT = 65535
MAX_U32 = 0xFFFFFFFF
"""The largest limit of binds and, but for one, the largest uid and gid: all are unsigned numbers of 32 bits."""
MAX_RULES = 1000
"""A policy longer than this is refused: the kernel verifies a compiled policy in the time of the launch."""

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 2.5.5.2


def number(text: str, low: int, high: int, what: str) -> int:
    """Read a whole number in ASCII digits.

    Raises PolicyError when it is anything else or outside ``low`` to ``high`` (both included).
    """
    # str.isdigit knows other scripts' digits, and int() takes signs, spaces and underscores.
    if text.isascii() and text.isdigit() and len(text) <= 20:
        value = int(text)
        if low <= value <= high:
            return value
    raise PolicyError(f"{what} '{text}' is not a whole number from {low} to {high}")


class PolicyError(ValueError):
    """A rule, a list of ports or a limit that is not valid."""


@value
class Ports:
    """A range of ports, ``low`` to ``high``, both included."""

    low: int
    high: int

    def __init__(self, low: int, high: int) -> None:
        """Raise PolicyError unless 1 <= low <= high <= 65535."""
        if not 1 <= low <= high <= MAX_PORT:
            raise PolicyError(f"port range {low}-{high} is not within 1-{MAX_PORT}, low to high")
        set_fields(self, low=low, high=high)

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high

    def __str__(self) -> str:
        if (self.low, self.high) == (1, MAX_PORT):
            return "any"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@value
class Rule:
    """One granted set of binds.

    ``protocol`` is "tcp", "udp" or None for both. ``network`` is a packed address with ``prefix`` significant bits,
    or None for any address of either family. ``ports`` is a range.
    """

    protocol: str | None
    network: bytes | None
    prefix: int
    ports: Ports

    def __init__(self, protocol: str | None, network: bytes | None, prefix: int, ports: Ports) -> None:
        """Raise PolicyError for an unknown protocol, a bad prefix or host bits below it."""
        if protocol is not None and protocol not in PROTOCOLS:
            raise PolicyError(f"unknown protocol '{protocol}' (tcp or udp)")
        if network is None:
            prefix = 0
        else:
            if len(network) not in (4, 16):
                raise PolicyError(f"an address has 4 or 16 bytes, not {len(network)}")
            if not 0 <= prefix <= 8 * len(network):
                raise PolicyError(f"prefix /{prefix} is not within /0 and /{8 * len(network)}")
            if _bits(network) & _host_mask(network, prefix):
                raise PolicyError(f"{_address_text(network)}/{prefix} has bits set below its prefix")
            if len(network) == 16 and prefix >= 96 and network.startswith(_MAPPED):
                network, prefix = network[12:], prefix - 96
        set_fields(self, protocol=protocol, network=network, prefix=prefix, ports=ports)

    def matches_address(self, address: bytes) -> bool:
        """Whether a bind to this packed address (IPv4-mapped ones already unmapped) is meant.

        A wildcard address (all zero) stands for every address, so a longer prefix that happens to contain it does
        not grant it: only a rule without address, that exact wildcard, or /0 of its family does.
        """
        if self.network is None:
            return True
        if len(self.network) != len(address):
            return False
        if self.prefix and not any(address):
            return self.prefix == 8 * len(address) and self.network == address
        return not (_bits(self.network) ^ _bits(address)) & ~_host_mask(address, self.prefix)

    def __str__(self) -> str:
        parts = [self.protocol] if self.protocol else []
        if self.network is not None:
            text = _address_text(self.network)
            if self.prefix != 8 * len(self.network):
                text += f"/{self.prefix}"
            parts.append(text if len(self.network) == 4 else f"[{text}]")
        return ":".join([*parts, str(self.ports)])


@value
class Policy:
    """What may be bound: a bind is granted when any rule permits it. ``rules`` None: every reserved port."""

    rules: tuple[Rule, ...] | None

    def __init__(self, rules: Iterable[Rule] | None) -> None:
        """Raise PolicyError for an empty set or for more than MAX_RULES rules."""
        if rules is not None:
            rules = tuple(rules)
            if not rules:
                raise PolicyError("a policy needs a rule")
            if len(rules) > MAX_RULES:
                remedy = "write neighbouring ports as a range: 8000-8080"
                raise PolicyError(f"{len(rules)} rules are more than {MAX_RULES} ({remedy})")
        set_fields(self, rules=rules)

    @classmethod
    def parse(cls, texts: Iterable[str], services: Services | None = None) -> Policy:
        """Read comma-separated lists of rules, or the text form of any policy. Raises PolicyError, naming the rule."""
        texts = tuple(texts)
        if texts == (ANY,):
            return cls(None)
        # A blank beside a comma means nothing.
        items = (item.strip(" ") for text in texts for item in text.split(","))
        return cls(rule for item in items for rule in parse_rule(item, services))

    def permits(self, protocol: str | None, address: bytes, port: int) -> bool:
        """Decide one bind of a reserved port.

        ``protocol`` is "tcp" (MPTCP included), "udp", or None for any other; ``address`` is packed and may be
        IPv4-mapped, which is judged as the IPv4 address; ``port`` is 1 to 65535.
        """
        if self.rules is None:
            return True
        if protocol is None:
            return False
        address = unmapped(address)
        for rule in self.rules:
            if rule.protocol in (None, protocol) and port in rule.ports and rule.matches_address(address):
                return True
        return False

    def covers(self, other: Policy) -> bool:
        """Whether this policy permits every bind that the other one permits."""
        from .coverage import covers

        return covers(self, other)

    def __str__(self) -> str:
        return ANY if self.rules is None else ",".join(map(str, self.rules))


def unmapped(address: bytes) -> bytes:
    """The IPv4 address that an IPv4-mapped IPv6 address stands for; any other address as it is."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def mapped_range() -> tuple[int, int]:
    """The first and the last IPv4-mapped IPv6 address, as numbers."""
    first = _bits(_MAPPED + bytes(4))
    return first, first | 0xFFFFFFFF


def parse_rule(text: str, services: Services | None = None) -> tuple[Rule, ...]:
    """Read one rule. Two come back when a service name has different ports for tcp and udp.

    Raises PolicyError, naming the rule.
    """
    try:
        return read_rule(text, services)
    except PolicyError as error:
        from .meant import of_rule

        raise PolicyError(f"rule '{text}': {of_rule(str(error), text, services)}") from None


def read_rule(text: str, services: Services | None = None) -> tuple[Rule, ...]:
    """As `parse_rule`, with an error that says only what is wrong."""
    protocol, network, prefix, ports_text = _split_rule(text)
    found = _ports_by_protocol(ports_text, protocol, services)
    return tuple(Rule(known, network, prefix, ports) for known, ports in found)


def parse_ports(text: str, services: Services | None = None) -> tuple[Ports, ...]:
    """Read a comma-separated list of ports, ranges, service names or ``any``. Raises PolicyError, naming the item."""
    found: list[Ports] = []
    for item in text.split(","):
        try:
            if not item:
                raise PolicyError("nothing between the commas")
            found += [ports for _, ports in _ports_by_protocol(item, None, services) if ports not in found]
        except PolicyError as error:
            from .meant import of_ports

            raise PolicyError(f"ports '{text}': {of_ports(str(error), item, services)}") from None
    return tuple(found)


def _split_rule(text: str) -> tuple[str | None, bytes | None, int, str]:
    """Take a rule apart: protocol, network, prefix, and the text of its ports."""
    if not text:
        raise PolicyError("it is empty")
    protocol: str | None = None
    head, colon, rest = text.partition(":")
    if colon and head.lower() in PROTOCOLS:
        protocol, text = head.lower(), rest
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise PolicyError("an IPv6 address is written [ADDRESS]:PORTS")
        return protocol, *_parse_network(address, AF_INET6), rest[1:]
    address, colon, rest = text.partition(":")
    if not colon:
        return protocol, None, 0, text
    if "." not in address and "/" not in address and not address[:1].isdigit() and rest.count(":") < 2:
        raise PolicyError(f"unknown protocol '{address}' (tcp or udp)")
    if ":" in rest:
        raise PolicyError("an IPv6 address is written [ADDRESS]:PORTS")
    return protocol, *_parse_network(address, AF_INET), rest


def _parse_network(text: str, family: int) -> tuple[bytes, int]:
    """Read ADDRESS or ADDRESS/PREFIX of one family."""
    address, slash, prefix = text.partition("/")
    try:
        packed = inet_pton(family, address)
    except (OSError, ValueError):
        name = "IPv4" if family == AF_INET else "IPv6"
        raise PolicyError(f"'{address}' is not an {name} address") from None
    bits = 8 * len(packed)
    return packed, number(prefix, 0, bits, "prefix") if slash else bits


def _ports_by_protocol(text: str, protocol: str | None, services: Services | None) -> list[tuple[str | None, Ports]]:
    """What PORTS means, for each protocol meant (None: the same for both)."""
    if text.lower() == "any":
        return [(protocol, Ports(1, MAX_PORT))]
    low, dash, high = text.partition("-")
    if not text or (low.isdigit() and (not dash or high.isdigit() or not high)):
        first = number(low, 1, MAX_PORT, "port")
        last = number(high, 1, MAX_PORT, "port") if dash else first
        if last < first:
            raise PolicyError(f"range '{text}' runs backwards")
        return [(protocol, Ports(first, last))]
    found: list[tuple[str | None, Ports]] = []
    for known in (protocol,) if protocol else PROTOCOLS:
        port = _service(text, known, services)
        if port:
            found.append((known, Ports(port, port)))
    if not found:
        for_protocol = f" for {protocol}" if protocol else ""
        raise PolicyError(f"'{text}' is neither a port from 1 to {MAX_PORT} nor a known service{for_protocol}")
    if len(found) == len(PROTOCOLS) and found[0][1] == found[1][1]:
        return [(None, found[0][1])]
    return found


def _service(name: str, protocol: str, services: Services | None) -> int:
    """The port of a service, 0 where none is known."""
    if services is None:
        return 0
    try:
        return services(name, protocol)
    except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate in the name
        return 0


def _bits(address: bytes) -> int:
    return int.from_bytes(address, "big")


def _host_mask(address: bytes, prefix: int) -> int:
    return (1 << (8 * len(address) - prefix)) - 1


def _address_text(address: bytes) -> str:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
