"""The one table of bind cases, which every mechanism is held to.

A row is a grant, a bind, and whether the grant covers it. What a granted bind gives is whatever root gets natively in
the same namespace; what is not granted gives what nobody gets natively. So no expected errno is written down here
but where it is the point of the row.
"""

from __future__ import annotations

from typing import NamedTuple


class Bind(NamedTuple):
    """One bind: protocol, family (4, 6, or 6only for IPV6_V6ONLY), address and port."""

    protocol: str
    family: str
    address: str
    port: int

    def words(self) -> list[str]:
        """The arguments for the trybind program."""
        return [self.protocol, self.family, self.address, str(self.port)]

    def __str__(self) -> str:
        return "-".join(self.words())


class Case(NamedTuple):
    """A grant's rules ("": none, any reserved port), a bind, and whether it is covered."""

    rules: str
    bind: Bind
    granted: bool

    def __str__(self) -> str:
        return f"{self.rules or 'any-reserved'}:{self.bind}:{'granted' if self.granted else 'refused'}"


MECHANISMS = ("bpf", "seccomp", "preload")
"""The mechanisms that the table runs against. A new one joins by its name."""

OCCUPIED = 99
"""A port that is bound on every address of both families and protocols before the table runs."""

OCCUPY = """
import socket, sys
held = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(family, kind)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, int(sys.argv[1])))
        held.append(sock)
print("held", flush=True)
sys.stdin.read()
"""
"""The program that binds it, says so, and holds it until its input ends."""


def _cases() -> list[Case]:
    rows: list[tuple[str, str, str, str, int, bool]] = []

    def add(rules: str, binds: str, granted: bool) -> None:
        for bind in binds.split():
            protocol, family, address, port = bind.split(",")
            rows.append((rules, protocol, family, address, int(port), granted))

    # No rules: any reserved port of any protocol.
    add("", "tcp,4,127.0.0.1,1 udp,4,127.0.0.1,1023 tcp,6,::1,80 udp,6,::1,80 tcp,4,0.0.0.0,80 tcp,6,::,81", True)
    add("", "mptcp,4,127.0.0.1,80 mptcp,6,::1,80 udplite,4,127.0.0.1,80 udplite,6,::1,80", True)
    add("", "tcp,6,::ffff:127.0.0.1,80 udp,6,::ffff:127.0.0.1,80 tcp,6only,::,80 tcp,6only,::1,80", True)
    add("", "tcp,4,127.0.0.1,0 tcp,4,127.0.0.1,1024 tcp,4,127.0.0.1,8080 udp,6,::1,65535", True)
    # Errors are root's: address in use, no such address, mapped address on an IPv6-only socket.
    add("", f"tcp,4,127.0.0.1,{OCCUPIED} udp,4,127.0.0.1,{OCCUPIED} tcp,6,::1,{OCCUPIED} udp,6,::1,{OCCUPIED}", True)
    add("", "tcp,4,192.0.2.1,80 udp,4,192.0.2.1,80 tcp,6,2001:db8::1,80 tcp,6only,::ffff:127.0.0.1,80", True)
    add("", "tcp,4,224.0.0.1,80 udp,4,224.0.0.1,80 tcp,4,255.255.255.255,80", True)
    # A protocol.
    add("tcp:80", "tcp,4,127.0.0.1,80 tcp,4,0.0.0.0,80 tcp,6,::1,80 tcp,6,::,80 mptcp,4,127.0.0.1,80", True)
    add("tcp:80", "tcp,6,::ffff:127.0.0.1,80 tcp,6only,::1,80", True)
    add("tcp:80", "udp,4,127.0.0.1,80 udp,6,::1,80 udplite,4,127.0.0.1,80 tcp,4,127.0.0.1,81", False)
    add("tcp:80", "tcp,4,127.0.0.1,79 tcp,6,::1,443 mptcp,4,127.0.0.1,81 tcp,4,127.0.0.1,8080", False)
    add("udp:53", "udp,4,127.0.0.1,53 udp,6,::1,53 udp,4,0.0.0.0,53 udp,6,::ffff:127.0.0.1,53", True)
    add("udp:53", "tcp,4,127.0.0.1,53 tcp,6,::1,53 mptcp,4,127.0.0.1,53 udplite,4,127.0.0.1,53", False)
    add("domain", "tcp,4,127.0.0.1,53 udp,4,127.0.0.1,53", True)
    add("domain", "udplite,4,127.0.0.1,53", False)
    # Ranges and lists, at their edges.
    add("tcp:20-22,udp:100-200", "tcp,4,127.0.0.1,20 tcp,4,127.0.0.1,22 udp,6,::1,100 udp,6,::1,200", True)
    add("tcp:20-22,udp:100-200", "tcp,4,127.0.0.1,19 tcp,4,127.0.0.1,23 udp,6,::1,201 tcp,4,127.0.0.1,100", False)
    add("tcp:any", "tcp,4,127.0.0.1,1 tcp,6,::1,1023 tcp,4,127.0.0.1,1024 tcp,4,127.0.0.1,65535", True)
    add("tcp:any", "udp,4,127.0.0.1,1", False)
    # IPv4 addresses; a mapped address is judged as the IPv4 address.
    add("tcp:127.0.0.1:80", "tcp,4,127.0.0.1,80 tcp,6,::ffff:127.0.0.1,80 mptcp,6,::ffff:127.0.0.1,80", True)
    add("tcp:127.0.0.1:80", "tcp,4,127.0.0.2,80 tcp,4,0.0.0.0,80 tcp,6,::,80 tcp,6,::1,80 udp,4,127.0.0.1,80", False)
    add("tcp:127.0.0.1:80", "tcp,6,::ffff:127.0.0.2,80 tcp,6,::ffff:0.0.0.0,80", False)
    add("127.0.0.0/8:80-81", "tcp,4,127.1.2.3,80 udp,4,127.255.255.254,81 tcp,6,::ffff:127.9.9.9,80", True)
    add("127.0.0.0/8:80-81", "tcp,4,0.0.0.0,80 tcp,4,10.0.0.1,80 tcp,6,::1,80 tcp,4,127.0.0.1,82", False)
    add("127.0.0.128/25:80", "tcp,4,127.0.0.128,80 tcp,4,127.0.0.255,80", True)
    add("127.0.0.128/25:80", "tcp,4,127.0.0.127,80", False)
    # Wildcards: a rule without address, that wildcard, or /0.
    add("tcp:0.0.0.0:80", "tcp,4,0.0.0.0,80 tcp,6,::ffff:0.0.0.0,80", True)
    add("tcp:0.0.0.0:80", "tcp,4,127.0.0.1,80 tcp,6,::,80", False)
    add("tcp:0.0.0.0/0:80", "tcp,4,0.0.0.0,80 tcp,4,127.0.0.1,80 tcp,6,::ffff:127.0.0.1,80", True)
    add("tcp:0.0.0.0/0:80", "tcp,6,::,80 tcp,6,::1,80", False)
    add("tcp:0.0.0.0/8:80", "tcp,4,0.0.0.0,80", False)
    # IPv6 addresses: never for mapped ones.
    add("tcp:[::1]:80", "tcp,6,::1,80 tcp,6only,::1,80", True)
    add("tcp:[::1]:80", "tcp,6,::,80 tcp,4,127.0.0.1,80 tcp,6,::ffff:127.0.0.1,80 udp,6,::1,80 tcp,6,::1,81", False)
    add("[::]:80", "tcp,6,::,80 udp,6only,::,80", True)
    add("[::]:80", "tcp,6,::1,80 tcp,4,0.0.0.0,80", False)
    add("[::/0]:80", "tcp,6,::,80 udp,6,::1,80", True)
    add("[::/0]:80", "tcp,4,0.0.0.0,80 tcp,6,::ffff:127.0.0.1,80", False)
    add("[::/64]:80", "tcp,6,::1,80", True)
    add("[::/64]:80", "tcp,6,::,80 tcp,6,::ffff:127.0.0.1,80", False)
    add("[fd00::/8]:80", "tcp,6,fd00::1,80", True)  # EADDRNOTAVAIL, as root gets it
    add("[fd00::/8]:80", "tcp,6,::1,80", False)
    add("[::ffff:127.0.0.0/104]:80", "tcp,4,127.0.0.1,80 tcp,6,::ffff:127.0.0.1,80", True)
    add("[::ffff:127.0.0.0/104]:80", "tcp,6,::1,80", False)
    return [Case(rules, Bind(*bind), granted) for rules, *bind, granted in rows]  # type: ignore[arg-type]


CASES = _cases()
