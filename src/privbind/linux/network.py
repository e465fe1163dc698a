# SPDX-License-Identifier: MIT
"""Network namespaces of other processes: what tells them apart, what is reserved in them, and what is bound there."""

from __future__ import annotations

import posix
from _socket import AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, inet_ntop
from fcntl import ioctl

from . import child, process, sockets

_NS_GET_USERNS = 0xB701  # linux/nsfs.h, 4.9: _IO(0xb7, 1)
_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTEN = "0A"  # TCP_LISTEN, net/tcp_states.h, as proc_pid_net(5) writes it

TYPE_CHECKING = False
if TYPE_CHECKING:
    Bound = tuple[str, bytes, int, int, int]
    """A socket with a port: protocol, packed address, port, uid of its maker, inode."""


def open_of(pid: int) -> int:
    """A process's network namespace as a descriptor. Needs the right to trace it. Raises OSError."""
    return posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)


def of_process(pid: int) -> tuple[int, int]:
    """The cookie of a process's network namespace, and the first port there that is not reserved.

    A child enters it to look, which needs CAP_SYS_ADMIN. Raises OSError.
    """
    namespace = open_of(pid)

    def look() -> str:
        process.enter_network_namespace(namespace)
        return f"{sockets.netns_cookie()} {sockets.port_start()}"

    try:
        cookie, port_start = map(int, child.ask(look).split())
    finally:
        posix.close(namespace)
    return cookie, port_start


def owner(pid: int) -> int:
    """The inode of the user namespace that owns a process's network namespace, which identifies it. Raises OSError."""
    namespace = open_of(pid)
    try:
        found = ioctl(namespace, _NS_GET_USERNS)
    finally:
        posix.close(namespace)
    try:
        return posix.fstat(found).st_ino
    finally:
        posix.close(found)


def bound(pid: int | str, protocol: str) -> list[Bound]:
    """The sockets of a process's network namespace that listen, or that have a port under UDP (proc_pid_net(5)).

    A TCP socket that is bound and does not listen is shown nowhere. Raises OSError.
    """
    found: list[Bound] = []
    for table in _TABLES[protocol]:
        try:
            with open(f"/proc/{pid}/net/{table}", "rb", buffering=0) as file:
                lines = file.readall().decode("ascii", "replace").split("\n")[1:-1]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if protocol == "udp" or fields[3] == _LISTEN:
                found.append((protocol, _packed(address), int(port, 16), int(fields[7]), int(fields[9])))
    return found


def _packed(text: str) -> bytes:
    """An address as those tables have it, in words of 32 bits as the machine (a little-endian one) reads them."""
    words = [text[start : start + 8] for start in range(0, len(text), 8)]
    return b"".join(bytes.fromhex(word)[::-1] for word in words)


PROTOCOL_NAMES = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_UDPLITE: "udplite"}
"""The protocols of binds, as they are shown; the numbers are those of linux/in.h."""


def address_text(address: bytes) -> str:
    """A packed address, IPv6 in brackets."""
    return inet_ntop(AF_INET, address) if len(address) == 4 else f"[{inet_ntop(AF_INET6, address)}]"
