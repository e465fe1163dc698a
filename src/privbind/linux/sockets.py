# SPDX-License-Identifier: MIT
"""Sockets, where Python's socket module has no word for it. Constants from asm-generic/socket.h and linux/in.h."""

from __future__ import annotations

from _socket import AF_INET, SOCK_DGRAM, SOL_SOCKET, socket
from struct import pack, unpack

from .call import syscall

SO_TYPE = 3
SO_LINGER = 13
SO_REUSEPORT = 15  # 3.9
SO_PROTOCOL = 38  # 2.6.32
SO_DOMAIN = 39  # 2.6.32
SO_COOKIE = 57  # 4.12 for getsockopt
SO_NETNS_COOKIE = 71  # 5.14

IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_UDPLITE = 136
IPPROTO_MPTCP = 262  # 5.6

DEFAULT_PORT_START = 1024  # PROT_SOCK, net/sock.h
_PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"  # 4.11


def option_u64(sock: socket, option: int) -> int:
    """A socket option of 64 bits at SOL_SOCKET. Raises OSError (ENOPROTOOPT) where the kernel has none."""
    return int(unpack("=Q", sock.getsockopt(SOL_SOCKET, option, 8))[0])


def netns_cookie() -> int:
    """What tells this network namespace from all others. Raises OSError before Linux 5.14."""
    sock = socket(AF_INET, SOCK_DGRAM)
    try:
        return option_u64(sock, SO_NETNS_COOKIE)
    finally:
        sock.close()


def port_start() -> int:
    """The first port that is not reserved in this process's network namespace.

    1024 where it cannot be read: that is what the kernel starts with.
    """
    try:
        with open(_PORT_START, "rb", buffering=0) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return DEFAULT_PORT_START


def bind(fd: int, address: bytearray) -> None:
    """bind(2) with the address to the byte, as the command gave it. Raises OSError."""
    syscall("bind", fd, address, len(address))


def bound_probe() -> socket:
    """A socket with which `may_bind_reserved` can ask, now or later with fewer privileges."""
    sock = socket(AF_INET, SOCK_DGRAM)
    try:
        sock.bind(("", 0))
    except BaseException:
        sock.close()
        raise
    return sock


def may_bind_reserved(probe: socket, port: int) -> bool:
    """Whether this process may bind a reserved port in the network namespace of ``probe``; binds nothing.

    A socket that is bound already cannot be bound again (EINVAL), but the kernel asks for the privilege first
    (EACCES): inet_bind, net/ipv4/af_inet.c.
    """
    address = pack("=H", AF_INET) + port.to_bytes(2, "big") + bytes(12)  # struct sockaddr_in, 0.0.0.0
    try:
        bind(probe.fileno(), bytearray(address))
    except PermissionError:
        return False
    except OSError:
        return True
    return True
