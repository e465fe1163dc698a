"""Work that is done in a child process, so that whatever it does to itself ends with it: namespaces, users, cgroups."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from privbind import account
from privbind.account import Account

T = TypeVar("T")

NOBODY = 65534

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x02000000, 0x10000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """What a child said when it failed."""


def forked(work: Callable[[], T]) -> T:
    """What ``work`` gives in a child process. Raises Failure, or EOFError when the child was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer: Any = (True, work())
        except BaseException as error:  # noqa: BLE001
            answer = (False, f"{type(error).__name__}: {error}")
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    if not data:
        raise EOFError
    done, value = pickle.loads(data)
    if not done:
        raise Failure(value)
    found: T = value
    return found


def in_host(work: Callable[[], T]) -> T:
    """What ``work`` gives, as root, in a new network namespace with loopback up."""

    def inside() -> T:
        unshare(CLONE_NEWNET)
        loopback_up()
        return work()

    return forked(inside)


def become_nobody() -> None:
    """Give up everything, as a launch does."""
    account.become(Account(NOBODY, NOBODY, ()))


def unshare(flags: int) -> None:
    """unshare(2), which Python has only from 3.12 on."""
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def setns(file: str) -> None:
    """setns(2): enter the namespace that a file of /proc stands for."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, 0):
            raise OSError(ctypes.get_errno(), f"setns {file}")
    finally:
        os.close(fd)


def loopback_up() -> None:
    """Bring the loopback interface of a new network namespace up."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))  # struct ifreq


def mount(source: str, target: str, kind: str | None = None, flags: int = 0) -> None:
    """mount(2)."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {source} {target}")


def unmount(target: str) -> None:
    """umount2(2): take a mount out of sight."""
    if _libc.umount2(target.encode(), _MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"umount {target}")


def private_mounts() -> None:
    """Mounts from here on are seen by this process only."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def unified_mount() -> str:
    """Where the host's cgroup2 is mounted, and nothing else below it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return line.split()[4]
    raise AssertionError("no cgroup2 here")


def try_bind(
    port: int,
    address: str = "0.0.0.0",
    kind: int = socket.SOCK_STREAM,
    protocol: int = 0,
    held: list[socket.socket] | None = None,
) -> str:
    """What a bind gives: "ok" or the errno's name. The socket goes to ``held``, or is closed.

    A closed one still has its port while any process of the machine looks at it by /proc/PID/fd (`ss -p` does, and
    monitoring): with SO_REUSEADDR the next of these binds gets it nevertheless. One that is held does not share.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)
    if held is None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found = bind_to(sock, port, address)
    if held is None or found != "ok":
        sock.close()
    else:
        held.append(sock)
    return found


def bind_to(sock: socket.socket, port: int, address: str = "127.0.0.1") -> str:
    """Bind a socket; "ok" or the errno's name."""
    try:
        sock.bind((address, port))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"
