# SPDX-License-Identifier: MIT
"""Another process's memory, descriptors and sockets. Access to them needs that process's ids or CAP_SYS_PTRACE.

A thread id may mean another thread by the time it is used: callers check afterwards that the thread is still the one
meant.
"""

from __future__ import annotations

import posix
from _socket import AF_INET, AF_INET6, SOL_SOCKET, socket
from _struct import Struct
from errno import EFAULT, EMFILE

from .call import address_of, prepare, syscall
from .sockets import SO_LINGER, SO_NETNS_COOKIE, SO_REUSEPORT, close_now, option_u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PIDFD_THREAD = posix.O_EXCL  # linux/pidfd.h, 6.9
_MAX_KNOWN = 64
_VECTORS = Struct("=QQQQ")  # struct iovec, ours and theirs: base, length


class Memory:
    """Reads other processes' memory into a buffer of its own (process_vm_readv(2), 3.2)."""

    def __init__(self, max_size: int) -> None:
        """``max_size``: bytes that are read at once, at most."""
        self._buffer = bytearray(max_size)
        self._vectors = bytearray(_VECTORS.size)
        ours = address_of(self._vectors)
        self._read = prepare("process_vm_readv", None, ours, 1, ours + _VECTORS.size // 2, 1, 0)
        self._base = address_of(self._buffer)

    def read(self, tid: int, address: int, size: int) -> bytes:
        """The bytes at an address. Raises OSError, also where not all of them could be read."""
        _VECTORS.pack_into(self._vectors, 0, self._base, size, address, size)
        if self._read(tid) != size:
            raise OSError(EFAULT, "the memory ends")
        return bytes(self._buffer[:size])


class Descriptors:
    """Duplicates other processes' descriptors (pidfd_getfd(2), 5.6).

    Opening a process costs more than the rest, so some stay open. A process that ended is never taken for its
    successor with the same id: its pidfd tells.
    """

    def __init__(self, leader_of: Callable[[int], int] | None) -> None:
        """``leader_of`` gives the id of the process that a thread is in, where the kernel opens no threads.

        It is None where `opens_threads`; it raises OSError for a thread that is gone. ``asks`` says whether there is
        one.
        """
        self.asks = leader_of is not None
        self._leader_of = leader_of
        self._flags = 0 if leader_of else _PIDFD_THREAD
        self._known: dict[int, int] = {}
        self._open = prepare("pidfd_open", None, self._flags)
        self._get = prepare("pidfd_getfd", None, None, 0)

    def fetch(self, tid: int, fd: int) -> int:
        """A duplicate of a thread's descriptor, close-on-exec. Raises OSError."""
        pid = self._leader_of(tid) if self._leader_of else tid
        try:
            return self._fetch(pid, fd)
        except ProcessLookupError:
            if pid not in self._known:
                raise
            # That process is gone, and the id may be another's now.
            posix.close(self._known.pop(pid))
        except OSError as error:
            if error.errno != EMFILE:
                raise
            self.forget()
        return self._fetch(pid, fd)

    def _fetch(self, pid: int, fd: int) -> int:
        if pid not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                posix.close(self._known.pop(next(iter(self._known))))
            self._known[pid] = self._open(pid)
        return self._get(self._known[pid], fd)

    def forget(self) -> None:
        """Close what is open."""
        while self._known:
            posix.close(self._known.popitem()[1])


class Binder:
    """bind(2), prepared for binding many sockets."""

    def __init__(self, max_size: int) -> None:
        """``max_size``: bytes of an address, at most."""
        self._address = bytearray(max_size)
        self._bind = prepare("bind", None, self._address, None)

    def bind(self, fd: int, address: bytes) -> None:
        """Bind to an address, to the byte. Raises OSError."""
        self._address[: len(address)] = address
        self._bind(fd, len(address))


class Socket:
    """A duplicate of another process's socket: what it is, binding it, and letting go of it."""

    __slots__ = ("_sock",)

    def __init__(self, fd: int) -> None:
        """Take over the descriptor. Raises OSError for what is no socket; then it is closed."""
        try:
            # Given a descriptor alone, the object asks the kernel for family, type and protocol itself.
            self._sock = socket(-1, -1, -1, fd)
        except OSError:
            posix.close(fd)
            raise

    def describe(self) -> tuple[int, int, int, int]:
        """Its domain, type, protocol and network namespace cookie. Raises OSError.

        The domain is what its address is of, which is the same for every socket with ports.
        """
        sock = self._sock
        return sock.family, sock.type, sock.proto, option_u64(sock, SO_NETNS_COOKIE)

    def is_bound_to(self, port: int) -> bool:
        """Whether it has this port. Raises OSError."""
        return self._sock.family in (AF_INET, AF_INET6) and bool(self._sock.getsockname()[1] == port)

    def reuse_port(self) -> None:
        """Set SO_REUSEPORT. Raises OSError."""
        self._sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the descriptor; more than once does no harm."""
        self._sock.close()

    def close_now(self) -> None:
        """Close the descriptor without waiting, whatever its maker set as SO_LINGER (see `sockets.close_now`)."""
        sock = self._sock
        try:
            if sock.fileno() >= 0 and sock.getsockopt(SOL_SOCKET, SO_LINGER):  # of its two ints the first: on or off
                close_now(sock.detach())
        except OSError:
            pass
        sock.close()


def opens_threads() -> bool:
    """Whether pidfd_open(2) takes a thread that is not the first of its process (Linux 6.9)."""
    try:
        posix.close(syscall("pidfd_open", posix.getpid(), _PIDFD_THREAD))
    except OSError:  # EINVAL
        return False
    return True
