# SPDX-License-Identifier: MIT
"""seccomp's supervisor: every bind(2) of the command waits in the kernel until it is answered here.

What the command asked for is copied once, and the copy is judged and carried out: a moment later the command's memory
may say something else, and its descriptor may be another file. Whatever is not a granted bind of a reserved port, and
whatever goes wrong here, is answered "continue": then the kernel decides with the command's own rights.
"""

from __future__ import annotations

from _socket import CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET
from _struct import calcsize, unpack
from time import monotonic

from ..grant.decision import Allow, Share, may_concern, port_of
from ..linux import seccomp
from ..linux.binds import calls
from ..linux.notify import IOCTLS, Listener
from ..linux.sockets import MAX_ADDRESS, MIN_ADDRESS
from ..linux.target import Descriptors, Memory, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from mmap import mmap

    from ..linux.notify import Request
    from .executor import Executor

    _What = tuple[int, int, bytes]
    """What was asked for: thread, descriptor and address."""
    _Done = tuple[int, _What]
    """A bind that was done: the errno that it gave, 0 for success."""

SYSTEM_CALLS = ("process_vm_readv", "pidfd_open", "pidfd_getfd")
"""What a supervisor needs besides what every helper does, and ``IOCTLS``."""

SETTLING_CALLS = ("seccomp",)
"""What `settle` needs."""

_ONLY_AT_FIRST = ("recvmsg", "sendto", "seccomp")

_DESCRIPTOR = "=i"
_MAX_UNSURE = 1024
_GRACE_S = 1
"""How long the helper can still tell a repeated call from a new one when the last bind of the limit is done."""

__all__ = ("IOCTLS", "SETTLING_CALLS", "SYSTEM_CALLS", "Supervisor", "await_listener", "settle")


def settle() -> None:
    """Give up the system calls that only the start needed.

    With them, a helper that was taken over could send and receive for other processes, on duplicates of their sockets.
    """
    seccomp.install(seccomp.deny(_ONLY_AT_FIRST))


def await_listener(delivery: socket) -> int | None:
    """Wait for the listener; None when the launch ends without one."""
    try:
        _, ancillary, _, _ = delivery.recvmsg(1, CMSG_LEN(calcsize(_DESCRIPTOR)), MSG_CMSG_CLOEXEC)
    finally:
        delivery.close()
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            return int(unpack(_DESCRIPTOR, data)[0])
    return None


class Supervisor:
    """Answers the binds of one command for a helper that has CAP_NET_BIND_SERVICE and CAP_SYS_PTRACE.

    A thread that is interrupted by a signal may make its call again although it was answered: before Linux 5.19 always,
    and after it where the answer was faster than the signal (until "seccomp: Fix a race with WAIT_KILLABLE_RECV if the
    tracer replies too fast", 6.18 and stable kernels of late 2025; nothing tells whether a kernel has that). So what
    was bound is remembered, and when the same thread asks again for the same bind of a socket that has the port
    already, it is told again that the bind succeeded.
    """

    def __init__(
        self, executor: Executor, delivery: socket, page: mmap, leader_of: Callable[[int], int] | None = None
    ) -> None:
        """The listener comes by ``delivery`` once the filter is there; ``page`` is shared with the backup.

        ``leader_of`` is what `Descriptors` needs on kernels that open no threads.
        """
        self._executor = executor
        self._delivery = delivery
        self._page = page
        self._listener: Listener | None = None
        self._calls = {(call.arch, call.number): call for call in calls()}
        self._memory = Memory(MAX_ADDRESS)
        self._descriptors = Descriptors(leader_of)
        # The latest binds that were done and counted, and whether the answer is known not to have reached the thread.
        self._unsure: dict[_What, bool] = {}

    def serve(self) -> None:
        """Answer until no process of the command is left, or until the limit of binds is used up."""
        fd = await_listener(self._delivery)
        if fd is None:
            return
        self._listener = listener = Listener(fd, self._page)
        if not self._descriptors.asks:
            settle()
        while not self._executor.exhausted or self._executor.shares or any(self._unsure.values()):
            request = listener.receive()
            if request is None:
                return
            self._serve_one(listener, request)
        end = monotonic() + _GRACE_S
        while (left := end - monotonic()) > 0 and (request := listener.receive(left)):
            self._serve_one(listener, request)
        self._descriptors.forget()

    def refuse(self) -> None:
        """Have the kernel decide every bind, until no process of the command is left."""
        if self._listener is not None:
            while self._listener.receive() is not None:
                self._listener.go_on()

    def _serve_one(self, listener: Listener, request: Request) -> None:
        done: _Done | None = None
        try:
            done = self._try(listener, request)
        except Exception:  # noqa: BLE001, S110  # whatever it is, the bind must not suffer from it
            pass
        if done is None:
            listener.go_on()
            return
        error, what = done
        heard = listener.answer(error)
        if error == 0:
            self._unsure.pop(what, None)
            if len(self._unsure) >= _MAX_UNSURE:
                self._unsure.pop(next(iter(self._unsure)))
            self._unsure[what] = not heard

    def _try(self, listener: Listener, request: Request) -> _Done | None:
        """Do what was asked for, where it was granted. Raises whatever a request that makes no sense leads to."""
        tid = request.tid
        call = self._calls[request.arch, request.number]
        fd, pointer, size = call.arguments(request.args, self._memory.read, tid)
        if not MIN_ADDRESS <= size <= MAX_ADDRESS:
            return None
        address = self._memory.read(tid, pointer, size)
        if not may_concern(self._executor.grant, self._executor.site, address):
            return None
        target = Socket(self._descriptors.fetch(tid, fd))
        # It is closed before the answer: a program that closes its socket then may bind the same port again at once.
        try:
            what = tid, fd, address
            if what in self._unsure and target.is_bound_to(port_of(address)):
                if not listener.valid():
                    return None
                del self._unsure[what]
                return 0, what
            decision = self._executor.decide(target, address)
            # Until here the thread id may have come to mean another thread, or the thread may have given up.
            if isinstance(decision, Share) and listener.valid():
                target.reuse_port()
            if not isinstance(decision, Allow) or not listener.valid():
                return None
            error = self._executor.bind(target, address, decision.port)
            if not error:
                # It was not bound before, so it has no peer for which closing it could wait.
                target.close()
            return error, what
        finally:
            target.close_now()
