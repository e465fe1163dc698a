# SPDX-License-Identifier: MIT
"""preload's front door: requests that come over the channel, each with its socket and its own reply socket.

What comes in is written by the command, which may be hostile: whatever it sends is answered or dropped, every
descriptor that came with it is closed again, and the next request is served.
"""

from __future__ import annotations

from _socket import CMSG_LEN, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_TRUNC, SCM_RIGHTS, SOL_SOCKET
from _struct import unpack
from errno import EACCES, ECONNRESET, ENOBUFS, ENOMEM
from select import POLLRDHUP, poll

from ..grant.decision import Allow
from ..linux import sockets
from ..linux.target import Socket
from .wire import DESCRIPTORS, MAX_REQUEST, WireError, parse_request
from .wire import reply as wire_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from .executor import Executor

_PASSING = (ECONNRESET, ENOBUFS, ENOMEM)
"""Errors of recvmsg(2) that do not come again at once: the last sender ended with a message unread; memory is short."""

_CONTROL = CMSG_LEN(4 * DESCRIPTORS)
_REFUSED = wire_reply(EACCES)


def serve(channel: socket, executor: Executor) -> None:
    """Answer requests until nobody holds the other end any more, or until the limit of binds is used up."""
    while not executor.exhausted and _serve_one(channel, lambda target, data: _answer(target, data, executor)):
        pass


def refuse(channel: socket) -> None:
    """Refuse every request until nobody holds the other end any more."""
    while _serve_one(channel, lambda *_: _REFUSED):
        pass


def _serve_one(channel: socket, answer: Callable[[Socket, bytes], bytes]) -> bool:
    """Take one request and reply to it; False when there will be no other."""
    try:
        # One byte more than the longest request, so that a longer one shows.
        data, ancillary, flags, _ = channel.recvmsg(MAX_REQUEST + 1, _CONTROL, MSG_CMSG_CLOEXEC)
    except OSError as error:
        return error.errno in _PASSING
    if not data and not ancillary:
        # An empty datagram looks like the end, but only at the end has the other side hung up.
        return not _hung_up(channel)
    descriptors = _descriptors(ancillary)
    try:
        # A datagram or stream socket could lead to any service, which would get the reply as a message of the helper's.
        if len(descriptors) == DESCRIPTORS and sockets.is_seqpacket(descriptors[1]):
            whole = not flags & (MSG_TRUNC | MSG_CTRUNC)
            target = Socket(descriptors.pop(0))
            try:
                reply = answer(target, data) if whole else _REFUSED
            finally:
                # Before the reply: when the command closes its socket then, the port is free at once.
                target.close_now()
            sockets.send_now(descriptors[0], reply)
    except Exception:  # noqa: BLE001, S110  # whatever a request leads to, the next one is served
        pass
    finally:
        for fd in descriptors:
            sockets.close_now(fd)
    return True


def _hung_up(channel: socket) -> bool:
    """Whether the other end is closed, or was shut down for good: then nobody can ask any more."""
    events = poll()
    events.register(channel, POLLRDHUP)
    return bool(events.poll(0))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """All descriptors that came with a message; they are ours to close."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            count = len(data) // 4
            found += unpack(f"={count}i", data[: 4 * count])
    return found


def _answer(target: Socket, data: bytes, executor: Executor) -> bytes:
    """Bind the socket when the grant covers it; the reply in any case."""
    try:
        address = parse_request(data)
        decision = executor.decide(target, address)
    except (WireError, OSError):
        return _REFUSED
    return wire_reply(executor.bind(target, address, decision.port)) if isinstance(decision, Allow) else _REFUSED
