# SPDX-License-Identifier: MIT
"""What a rule that cannot be read was meant to be. Loaded only for an error.

A guess is given only when it can be read as a rule itself.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from .policy import PROTOCOLS, PolicyError, read_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .policy import Services

_SERVICES = (
    "http", "https", "domain", "smtp", "submission", "submissions", "imap2", "imaps", "pop3", "pop3s", "ssh", "ftp",
    "ftp-data", "ntp", "snmp", "snmp-trap", "ldap", "ldaps", "syslog", "tftp", "bootps", "telnet", "sunrpc",
    "kerberos", "domain-s", "microsoft-ds", "netbios-ssn", "rsync", "ipp",
)  # fmt: skip
"""Services of reserved ports that people mean by name."""

_OTHER_NAMES = {"dns": "domain", "web": "http", "www": "http", "ssl": "https", "tls": "https", "mail": "smtp"}
_LOCAL = {"localhost": ("127.0.0.1", "[::1]"), "localhost6": ("[::1]",), "ip6-localhost": ("[::1]",)}
_EVERYWHERE = ("", "*", "any", "all", "0", "[*]")
_EVERY_PORT = ("*", "all", "0-65535", "reserved")
_SEPARATORS = (";", "|", "+", "&", " ")
_DASHES = ("..", "\u2013", "\u2014", "\u2212", "--")
_QUOTES = "'\"\u2018\u2019\u201c\u201d"
_NOT_FOR_RULES = ("sctp", "dccp", "icmp", "quic")


def of_rule(reason: str, text: str, services: Services | None) -> str:
    """Why the rule cannot be read, and in brackets what to write instead, where there is a guess."""
    written = text.strip(_QUOTES + " ").lower()
    said = _advice(written) or _first("write {}", _forms(written), services)
    said = said or _first("did you mean {}?", _close(written), services)
    return f"{reason.removesuffix(' (tcp or udp)')} ({said})" if said else reason


def of_ports(reason: str, item: str, services: Services | None) -> str:
    """The same for an item of a list of ports, which has no protocol and no address."""
    written = item.strip(_QUOTES + " ").lower()
    forms = (form.rpartition(":")[2] for form in _forms(written))
    said = _first(
        "write {}",
        (form for form in forms if form != item and (form in written or form == "any" or "-" in form)),
        services,
    )
    said = said or _first("did you mean {}?", (form for form in _close(written) if form != "any"), services)
    return f"{reason} ({said})" if said else reason


def _first(words: str, guesses: Iterable[str], services: Services | None) -> str:
    """The words for the first guess that can be read; empty when none can."""
    for guess in guesses:
        try:
            for item in guess.split(","):
                read_rule(item, services)
        except PolicyError:
            continue
        return words.format(guess)
    return ""


def _advice(text: str) -> str:  # noqa: PLR0911  # a piece of advice each
    """What to do where no single rule is what was meant."""
    if not text:
        return "rules are written with single commas between them: tcp:80,tcp:443"
    before, _, after = text.rpartition(":")
    first = before.rpartition(":")[2]
    if first.isdigit() and after.isdigit() and first not in _EVERYWHERE and "::" not in text:
        return f"no port is mapped to another: write {first},{after} for these two"
    if after == "0":
        return "port 0 means any free port, which needs no grant"
    if text.rstrip(":") in PROTOCOLS:
        return f"which port? {text.rstrip(':')}:80, for example"
    protocol, _, _ = text.partition(":")
    if protocol in _NOT_FOR_RULES:
        return "tcp or udp" + (": QUIC is udp" if protocol == "quic" else "")
    host = before.removeprefix("tcp:").removeprefix("udp:")
    if after.isdigit() and "." in host and any("g" <= char <= "z" for char in host) and "/" not in host:
        return "an address is written in numbers, for example tcp:127.0.0.1:80"
    return ""


def _forms(text: str) -> Iterator[str]:
    """Other ways in which people write rules, as rules; not all can be read."""
    yield text
    for separator in _SEPARATORS:
        if separator in text:
            yield ",".join(text.replace(separator, " ").split())
    if text in _EVERY_PORT:
        yield "any"
    yield from _of_url(text)
    yield from _protocol_elsewhere(text)
    head, colon, ports = text.rpartition(":")
    if ports in _OTHER_NAMES:
        yield f"{head}{colon}{_OTHER_NAMES[ports]}"
    yield from _ranges(text)
    yield from _addresses(text)


def _of_url(text: str) -> Iterator[str]:
    scheme, found, rest = text.partition("://")
    if found:
        port = rest.partition("/")[0].rpartition(":")[2]
        yield f"{scheme if scheme in PROTOCOLS else PROTOCOLS[0]}:{port}"
        yield f"tcp:{scheme}"


def _protocol_elsewhere(text: str) -> Iterator[str]:
    """As services(5) and Docker have it: 80/tcp; and in other places."""
    for separator in ("/", "=", ".", " ", ":", ""):
        for protocol in PROTOCOLS:
            if text.endswith(separator + protocol):
                yield f"{protocol}:{text.removesuffix(separator + protocol)}"
            if text.startswith(protocol + separator):
                yield f"{protocol}:{text.removeprefix(protocol + separator)}"


def _ranges(text: str) -> Iterator[str]:
    head, colon, ports = text.rpartition(":")
    for dash in _DASHES:
        if dash in ports:
            yield f"{head}{colon}{ports.replace(dash, '-')}"
    low, dash, high = ports.partition("-")
    if dash and not high:
        yield f"{head}{colon}{low}-1023"
    if dash and not low and high != "1":
        yield f"{head}{colon}1-{high}"
    if dash and low.isdigit() and high.isdigit() and low != high:
        yield f"{head}{colon}{high}-{low}"


def _addresses(text: str) -> Iterator[str]:
    """Forms that differ in protocol and address: in what stands in front of the last colon."""
    head, colon, ports = text.rpartition(":")
    if not colon:
        head, ports = "", text
    protocol, rest = "", head
    if head.partition(":")[0] in PROTOCOLS:
        protocol, rest = head.partition(":")[0] + ":", head.partition(":")[2]
    if _packed(ports):  # the port is missing, or in front
        yield f"{protocol}{_shown(ports)}:{rest or 80}"
    elif _packed(rest) and not ports:
        yield f"{protocol}{_shown(rest)}:80"
    if rest in _EVERYWHERE:
        yield f"{protocol}{ports}"
    if rest in _LOCAL:
        yield ",".join(f"{protocol}{address}:{ports}" for address in _LOCAL[rest])
    if shown := _shown(rest):
        yield f"{protocol}{shown}:{ports}"
    if head.rstrip("46") in PROTOCOLS:
        yield f"{head.rstrip('46')}:{ports}"
    if head in _SERVICES or head in _OTHER_NAMES:
        yield f"tcp:{ports}"


def _shown(network: str) -> str:
    """An address or a network as a rule has it, without bits below its prefix; empty for what is none."""
    address, slash, prefix = network.replace("[", "").replace("]", "").partition("/")
    packed = _packed(address)
    bits = 8 * len(packed)
    if packed and slash and prefix.isdigit() and int(prefix) <= bits:
        below = bits - int(prefix)
        packed = (int.from_bytes(packed, "big") >> below << below).to_bytes(len(packed), "big")
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed) + slash + prefix
    return f"[{inet_ntop(AF_INET6, packed)}{slash}{prefix}]" if packed else ""


def _packed(address: str) -> bytes:
    """An address as bytes; empty for what is none."""
    for family in (AF_INET6, AF_INET):
        try:
            return inet_pton(family, address.strip("[]"))
        except (OSError, ValueError):
            continue
    return b""


def _close(text: str) -> Iterator[str]:
    """Rules with a protocol or a service whose name is close to what was written."""
    from difflib import get_close_matches

    head, colon, ports = text.rpartition(":")
    for name in get_close_matches(ports, _SERVICES, 3):
        yield f"{head}{colon}{name}"
    first, _, rest = text.partition(":")
    for name in get_close_matches(first, PROTOCOLS, 1):
        yield f"{name}:{rest}"
