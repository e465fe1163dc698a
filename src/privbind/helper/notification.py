# SPDX-License-Identifier: MIT
"""seccomp's front door: every bind(2) of the command waits in the kernel until it is answered here.

What the command asked for is copied once and judged, and the copy is what is done: its memory may say something else
a moment later, its descriptor may be another file. Whatever is not a granted bind of a reserved port, and whatever goes
wrong here, is answered "go on": then the kernel decides with the command's own rights.
"""

from __future__ import annotations

from _socket import CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET
from _struct import calcsize, unpack
from errno import EACCES

from ..linux import seccomp
from ..linux.binds import MAX_ADDRESS, MIN_ADDRESS, calls
from ..linux.foreign import Binder, Descriptors, Memory, Socket
from ..linux.notify import IOCTLS, Listener
from .judge import Facts, port_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from mmap import mmap

    from ..linux.notify import Request
    from .judge import Judge

    _What = tuple[int, int, bytes]
    """What was asked for: thread, descriptor and address."""
    _Done = tuple[int, _What]
    """A bind that was done: the errno that it gave, 0 for success."""

SYSTEM_CALLS = ("process_vm_readv", "pidfd_open", "pidfd_getfd")
"""What this door needs besides what every helper does, and ``IOCTLS``."""

SETTLING_CALLS = ("seccomp",)
"""What `settle` needs."""

_ONLY_AT_FIRST = ("recvmsg", "sendto", "seccomp")

PATIENT, HASTY = b"p", b"h"
"""What is sent with the listener: whether threads wait for an answer whatever signals come (`install_listener`)."""

_DESCRIPTOR = "=i"
_MAX_LOST = 64

__all__ = ("HASTY", "IOCTLS", "PATIENT", "SETTLING_CALLS", "SYSTEM_CALLS", "Door", "await_listener", "settle")


def settle() -> None:
    """Give up the system calls that only the start needed.

    With them, a process that was taken over could speak for others, through duplicates of their connections.
    """
    seccomp.install(seccomp.deny(_ONLY_AT_FIRST))


def await_listener(delivery: socket) -> tuple[int, bytes] | None:
    """Wait for the listener and the word that comes with it; None when the launch ends without one."""
    try:
        word, ancillary, _, _ = delivery.recvmsg(1, CMSG_LEN(calcsize(_DESCRIPTOR)), MSG_CMSG_CLOEXEC)
    finally:
        delivery.close()
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            return int(unpack(_DESCRIPTOR, data)[0]), word
    return None


class Door:
    """Answers the binds of one command for a helper that has CAP_NET_BIND_SERVICE and CAP_SYS_PTRACE."""

    def __init__(
        self, judge: Judge, delivery: socket, page: mmap, leader_of: Callable[[int], int] | None = None
    ) -> None:
        """The listener comes by ``delivery`` once the filter is there; ``page`` is shared with the keeper.

        ``leader_of`` is what `Descriptors` needs on kernels that open no threads.
        """
        self._judge = judge
        self._delivery = delivery
        self._page = page
        self._listener: Listener | None = None
        self._calls = {(call.arch, call.number): call for call in calls()}
        self._memory = Memory(MAX_ADDRESS)
        self._binder = Binder(MAX_ADDRESS)
        self._descriptors = Descriptors(leader_of)
        # The latest binds that were done and counted, but whose maker was interrupted and never heard of it (True), or
        # may not have heard of it (False): a hasty thread may be interrupted when it has been answered, too.
        self._lost: dict[_What, bool] = {}
        self._hasty = False

    @property
    def _has_work(self) -> bool:
        """Whether any answer but "go on" is still possible."""
        return not self._judge.exhausted or any(self._lost.values())

    def serve(self) -> None:
        """Answer until no process of the command is left, or until the limit of binds is used up.

        Called again after the latter it answers "go on", until no process of the command is left.
        """
        if self._listener is None:
            delivered = await_listener(self._delivery)
            if delivered is None:
                return
            fd, word = delivered
            self._listener = Listener(fd, self._page)
            self._hasty = word == HASTY
            if not self._descriptors.asks:
                settle()
        listener = self._listener
        working = self._has_work
        while not working or self._has_work:
            request = listener.receive()
            if request is None:
                return
            if working:
                self._serve_one(listener, request)
            else:
                listener.go_on()
        self._descriptors.forget()

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
        if error == 0 and (not heard or self._hasty):
            self._lost.pop(what, None)
            if len(self._lost) >= _MAX_LOST:
                self._lost.pop(next(iter(self._lost)))
            self._lost[what] = not heard

    def _try(self, listener: Listener, request: Request) -> _Done | None:
        """Do what was asked for, where it was granted. Raises whatever a request that makes no sense leads to."""
        tid = request.tid
        call = self._calls[request.arch, request.number]
        fd, pointer, size = call.arguments(request.args, self._memory.read, tid)
        if not MIN_ADDRESS <= size <= MAX_ADDRESS:
            return None
        address = self._memory.read(tid, pointer, size)
        if not self._judge.may_permit(address):
            return None
        copy = Socket(self._descriptors.fetch(tid, fd))
        # It is closed before the answer: a program that closes its socket then may bind the same port again at once.
        try:
            what = tid, fd, address
            again = what in self._lost and copy.is_bound_to(port_of(address))
            port = 0 if again else self._judge.permits(Facts(*copy.describe()), address)
            # Until here the thread id may have come to mean another thread, or the thread may have given up.
            if not (port or again) or not listener.valid():
                return None
            if again:
                del self._lost[what]
                return 0, what
            error = self._bind(copy, address, port)
            if not error:
                # What was not bound before has no peer to wait for.
                copy.close()
            return error, what
        finally:
            copy.close_now()

    def _bind(self, copy: Socket, address: bytes, port: int) -> int:
        self._judge.granted()
        try:
            if self._judge.grant.reuses(port):
                copy.reuse_port()
            self._binder.bind(copy.fileno(), address)
        except OSError as error:
            return error.errno or EACCES
        self._judge.succeeded()
        return 0
