# SPDX-License-Identifier: MIT
"""What Python's socket module lacks for sockets. Constants from asm-generic/socket.h and linux/in.h."""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
    socketpair,
)
from _struct import pack, unpack
from fcntl import F_DUPFD_CLOEXEC, fcntl
from posix import close

from .call import syscall

SO_LINGER = 13
SO_REUSEPORT = 15  # 3.9
SO_DOMAIN = 39  # 2.6.32
SO_COOKIE = 57  # 4.12 for getsockopt
SO_NETNS_COOKIE = 71  # 5.14

MIN_ADDRESS = 16
"""sizeof(struct sockaddr_in): a shorter address is never one with a port."""
MAX_ADDRESS = 128
"""sizeof(struct sockaddr_storage): the kernel takes no longer one."""

FIRST_FREE = 3
"""The lowest descriptor that is not a standard one."""

DEFAULT_PORT_START = 1024  # PROT_SOCK, net/sock.h
PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"  # 4.11


def pair() -> tuple[socket, socket]:
    """Two connected SOCK_SEQPACKET unix sockets, neither at a standard descriptor's number even if one is closed."""
    ends = socketpair(AF_UNIX, SOCK_SEQPACKET)
    return _above_standard(ends[0]), _above_standard(ends[1])


def _above_standard(sock: socket) -> socket:
    if sock.fileno() >= FIRST_FREE:
        return sock
    try:
        return socket(AF_UNIX, SOCK_SEQPACKET, 0, fcntl(sock.fileno(), F_DUPFD_CLOEXEC, FIRST_FREE))
    finally:
        sock.close()


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
        return read_port_start()
    except (OSError, ValueError):
        return DEFAULT_PORT_START


def read_port_start() -> int:
    """Like `port_start`, but raises OSError or ValueError where it cannot be read."""
    with open(PORT_START, "rb", buffering=0) as file:
        return int(file.read(32))


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

    Port 0 and below stand for none: where no port is reserved, every process may bind all of them.

    A socket that is bound already cannot be bound again (EINVAL), but the kernel asks for the privilege first
    (EACCES): inet_bind, net/ipv4/af_inet.c.
    """
    if port < 1:
        return True
    address = pack("=H", AF_INET) + port.to_bytes(2, "big") + bytes(12)  # struct sockaddr_in, 0.0.0.0
    try:
        bind(probe.fileno(), bytearray(address))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _option(fd: int, option: int, size: int) -> bytearray:
    value = bytearray(size)
    syscall("getsockopt", fd, SOL_SOCKET, option, value, bytearray(pack("=I", size)))
    return value


def is_seqpacket(fd: int) -> bool:
    """Whether a descriptor is a unix socket of type SOCK_SEQPACKET."""
    try:
        sock = socket(-1, -1, -1, fd)
    except OSError:
        return False
    try:
        return (sock.getsockopt(SOL_SOCKET, SO_DOMAIN), sock.type) == (AF_UNIX, SOCK_SEQPACKET)
    finally:
        sock.detach()


def send_now(fd: int, data: bytes) -> None:
    """Send without ever waiting and without SIGPIPE. Raises OSError when that cannot be done."""
    syscall("sendto", fd, data, len(data), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0)


def send_descriptor(sock: socket, fd: int) -> None:
    """Send a descriptor, with one byte that means nothing. Raises OSError."""
    sock.sendmsg((b"\0",), ((SOL_SOCKET, SCM_RIGHTS, pack("=i", fd)),), MSG_NOSIGNAL)


def close_now(fd: int) -> None:
    """Close a descriptor that somebody else made, without waiting.

    The last close(2) of a connection waits as long as SO_LINGER says, which its maker chose, so a connection loses that
    option first; a socket without a peer has nothing to wait for and keeps it.
    """
    try:
        if any(_option(fd, SO_LINGER, 8)[:4]):
            syscall("getpeername", fd, bytearray(MAX_ADDRESS), bytearray(pack("=I", MAX_ADDRESS)))
            syscall("setsockopt", fd, SOL_SOCKET, SO_LINGER, bytearray(8), 8)
    except OSError:
        pass
    try:
        close(fd)
    except OSError:
        pass  # it is closed all the same: the error may be a file system's, about earlier writes
