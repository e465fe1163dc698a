# SPDX-License-Identifier: MIT
"""preload's front door: requests that come over the channel, each with its socket and its own reply socket.

What comes in is written by the command, which may be hostile: whatever it sends is answered or dropped, every
descriptor that came with it is closed again, and the next request is served.
"""

from __future__ import annotations

from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_TRUNC, SCM_RIGHTS, SOL_SOCKET
from _struct import unpack
from errno import EACCES, ECONNRESET, ENOBUFS, ENOMEM
from select import POLLRDHUP, poll

from ..linux import sockets
from .judge import Facts
from .wire import DESCRIPTORS, MAX_REQUEST, WireError, parse_request, reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from .judge import Judge

_PASSING = (ECONNRESET, ENOBUFS, ENOMEM)
"""Errors of recvmsg(2) that do not come again at once: the last sender ended with a message unread; memory is short."""

_CONTROL = CMSG_LEN(4 * DESCRIPTORS)
_REFUSED = reply(EACCES)


def serve(channel: socket, judge: Judge) -> None:
    """Answer requests until nobody holds the other end any more, or until the limit of binds is used up.

    Called again after the latter it refuses, until nobody holds the other end.
    """
    refusing = judge.exhausted
    hang_up = poll()
    # Also what shutdown(2) of the other end does, for good: then nobody can ask any more.
    hang_up.register(channel, POLLRDHUP)
    while refusing or not judge.exhausted:
        try:
            # One byte more than the longest request, so that a longer one shows.
            data, ancillary, flags, _ = channel.recvmsg(MAX_REQUEST + 1, _CONTROL, MSG_CMSG_CLOEXEC)
        except OSError as error:
            if error.errno in _PASSING:
                continue
            return
        if not data and not ancillary:
            # An empty datagram looks like the end, but only at the end has the other side hung up.
            if hang_up.poll(0):
                return
            continue
        descriptors = _descriptors(ancillary)
        try:
            whole = not flags & (MSG_TRUNC | MSG_CTRUNC)
            if len(descriptors) == DESCRIPTORS and sockets.is_domain(descriptors[1], AF_UNIX):
                answer = _answer(data, descriptors[0], judge) if whole else _REFUSED
                # Before the answer: when the command closes its socket then, the port is free at once.
                sockets.close_now(descriptors.pop(0))
                sockets.send_now(descriptors[0], answer)
        except Exception:  # noqa: BLE001, S110  # whatever a request leads to, the next one is served
            pass
        finally:
            for fd in descriptors:
                sockets.close_now(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """All descriptors that came with a message; they are ours to close."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            count = len(data) // 4
            found += unpack(f"={count}i", data[: 4 * count])
    return found


def _answer(data: bytes, fd: int, judge: Judge) -> bytes:
    """Bind the socket when the grant covers it; the reply in any case."""
    try:
        address = parse_request(data)
        facts = Facts(*sockets.describe(fd))
    except (WireError, OSError):
        return _REFUSED
    port = judge.permits(facts, address)
    if not port:
        return _REFUSED
    judge.granted()
    try:
        if judge.grant.reuses(port):
            sockets.set_reuse_port(fd)
        sockets.bind(fd, bytearray(address))
    except OSError as error:
        return reply(error.errno or EACCES)
    judge.succeeded()
    return reply(0)
