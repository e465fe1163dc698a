# SPDX-License-Identifier: MIT
"""Whether this process may bind: the kernel is asked by binds that cannot succeed, so no port is touched.

A socket that is bound already is bound again: the kernel asks for the privilege first (EACCES; EPERM where a program on
the cgroup forbids it), and only then finds that the socket has an address (EINVAL). So no port is taken, and nothing
that is sent to it is lost (inet_bind and inet6_bind, net/ipv4/af_inet.c and net/ipv6/af_inet6.c).
"""

from __future__ import annotations

import posix
from _socket import AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, SOCK_DGRAM, SOCK_STREAM, inet_ntop, socket
from errno import EACCES, EAFNOSUPPORT, EINVAL, EPERM

from ..grant.policy import PROTOCOLS, TCP, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..account import Account
    from ..grant.policy import Rule

_IP_FREEBIND = 15  # linux/in.h, 2.4: addresses that no interface has can be bound
_IPV6_FREEBIND = 78  # linux/in6.h, 4.15

_EVERYWHERE = ("0.0.0.0", "127.0.0.1", "::", "::1")
"""What stands for all addresses: the wildcards, and one other of each family."""


def refused(policy: Policy, port_start: int) -> list[str]:
    """What this process may not bind of a policy, each as a rule in text; none: it may bind all of it.

    Ports from ``port_start`` on need no permission. For a rule with a network, its first and its last address are
    tried. Raises OSError where asking is not possible.
    """
    rules = Policy.parse(["any"]).rules if policy.rules is None else policy.rules
    asked = _Asked()
    try:
        return [text for rule in rules or () for text in _refused_of(rule, port_start, asked)]
    finally:
        asked.close()


def refused_as(account: Account, policy: Policy, namespace: int = -1) -> list[str]:
    """The same for an account, asked in a child that becomes it; users other than root can only ask for themselves.

    ``namespace`` is an open file of /proc/PID/ns of another network namespace than this one. Raises PrivbindError.
    """
    from ..account import become
    from ..errors import PrivbindError
    from ..linux import child, process
    from ..linux.sockets import port_start

    def asked() -> str:
        if namespace >= 0:
            process.enter_network_namespace(namespace)
        if posix.geteuid() == 0:
            become(account)
        return "\n".join(refused(policy, port_start()))

    try:
        return child.ask(asked).split()
    except OSError as error:
        raise PrivbindError(f"cannot ask as {account}: {error.strerror or error}") from error


def _refused_of(rule: Rule, port_start: int, asked: _Asked) -> Iterator[str]:
    for protocol in PROTOCOLS if rule.protocol is None else (rule.protocol,):
        first = last = 0
        for port in range(rule.ports.low, min(rule.ports.high, port_start - 1) + 1):
            if all(asked.may(protocol, address, port) for address in _addresses(rule)):
                continue
            if first and port != last + 1:
                yield _text(rule, protocol, first, last)
                first = 0
            first, last = first or port, port
        if first:
            yield _text(rule, protocol, first, last)


def _text(rule: Rule, protocol: str, first: int, last: int) -> str:
    """The part of a rule for these ports."""
    address = str(rule).removeprefix(f"{rule.protocol}:").removesuffix(str(rule.ports))
    return f"{protocol}:{address}{first}" + (f"-{last}" if last > first else "")


def _addresses(rule: Rule) -> tuple[str, ...]:
    if rule.network is None:
        return _EVERYWHERE
    size = 8 * len(rule.network)
    low = int.from_bytes(rule.network, "big")
    high = low | (1 << size - rule.prefix) - 1
    # A network does not permit the wildcard that it contains, but for /0.
    ends = (low + 1 if low == 0 and 0 < rule.prefix < size else low, high)
    family = AF_INET if size == 32 else AF_INET6
    return tuple(inet_ntop(family, end.to_bytes(size // 8, "big")) for end in ends)


class _Asked:
    """Bound sockets, one for each protocol and family, by which the kernel is asked."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], socket | None] = {}

    def may(self, protocol: str, address: str, port: int) -> bool:
        """Whether a bind is permitted; for a family that this host does not have, all binds are."""
        family = AF_INET6 if ":" in address else AF_INET
        key = protocol, family
        if key not in self._sockets:
            self._sockets[key] = _bound(*key)
        sock = self._sockets[key]
        if sock is None:
            return True
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno in (EACCES, EPERM):
                return False
            if error.errno != EINVAL:
                raise
        return True

    def close(self) -> None:
        """Let the sockets go."""
        for sock in self._sockets.values():
            if sock is not None:
                sock.close()


def _bound(protocol: str, family: int) -> socket | None:
    loopback = "::1" if family == AF_INET6 else "127.0.0.1"
    try:
        sock = socket(family, SOCK_STREAM if protocol == TCP else SOCK_DGRAM)
    except OSError as error:
        if error.errno == EAFNOSUPPORT:
            return None
        raise
    try:
        if family == AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((loopback, 0))
    except BaseException:
        sock.close()
        raise
    return sock
