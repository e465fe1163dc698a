# SPDX-License-Identifier: MIT
"""seccomp user notification: system calls that wait for an answer of ours. Constants from linux/seccomp.h.

What is read here was written by the kernel, but for the arguments of the system call, which are the command's.
"""

from __future__ import annotations

from _struct import Struct
from errno import EINTR, ENOENT, ENOMEM
from mmap import PAGESIZE, mmap
from select import POLLIN, poll

from .call import address_of, prepare, syscall

RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV, 5.0
SEND = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND, 5.0
ID_VALID = 0x40082102  # SECCOMP_IOCTL_NOTIF_ID_VALID, 5.8 (before with another direction)
_SET_FLAGS = 0x40082104  # SECCOMP_IOCTL_NOTIF_SET_FLAGS, 6.6
_SYNC_WAKE_UP = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 6.6
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, 5.5

IOCTLS = (RECEIVE, SEND, ID_VALID)
"""What the owner of a listener asks of it."""

_NOTIFICATION = Struct("=QI4xIIQ6Q")  # struct seccomp_notif: id, pid, flags; nr, arch, instruction_pointer, args
_ID = Struct("=Q")  # the first field of both
_RESULT = Struct("=qiI")  # struct seccomp_notif_resp after its id: val, error, flags

_RESPONSE_AT = _NOTIFICATION.size
_RESULT_AT = _RESPONSE_AT + _ID.size
_ALL = slice(0, _RESULT_AT + _RESULT.size)
_NOTHING = bytes(_ALL.stop)


def new_page() -> mmap:
    """Memory for one request and its answer, shared with the processes that this one forks."""
    return mmap(-1, PAGESIZE)


def wake_on_same_cpu(fd: int) -> None:
    """Have the answering process woken on the asking one's CPU, where the kernel can: it halves the time of a bind.

    Sound since the two never run at once: one waits for the other.
    """
    try:
        syscall("ioctl", fd, _SET_FLAGS, _SYNC_WAKE_UP)
    except OSError:  # EINVAL before 6.6
        pass


class Request:
    """A system call that waits: the thread that made it, its architecture, number and argument registers."""

    __slots__ = ("arch", "args", "number", "tid")

    def __init__(self, tid: int, arch: int, number: int, args: tuple[int, ...]) -> None:
        """``tid`` is 0 for a thread that this process's pid namespace does not know."""
        self.tid = tid
        self.arch = arch
        self.number = number
        self.args = args


class Listener:
    """The end of a filter at which its notifications arrive, one at a time.

    The kernel writes the request straight into a page that other processes may share. So when this process dies
    suddenly, its successor finds the request there (`take_over`): one that was received is never delivered again.
    """

    def __init__(self, fd: int, page: mmap) -> None:
        """Take over the descriptor."""
        self.fd = fd
        self._page = page
        self._id = 0
        base = address_of(page)
        self._receive = prepare("ioctl", fd, RECEIVE, base)
        self._send = prepare("ioctl", fd, SEND, base + _RESPONSE_AT)
        self._id_valid = prepare("ioctl", fd, ID_VALID, base)
        self._events = poll()
        self._events.register(fd, POLLIN)

    def receive(self, timeout_s: float | None = None) -> Request | None:
        """Wait for the next request; None when no process with the filter is left, or when the time is up.

        Raises OSError.
        """
        while True:
            ready = self._events.poll(None if timeout_s is None else timeout_s * 1000)
            if not ready:
                return None
            for _, events in ready:
                if not events & POLLIN:
                    return None
                self._page[_ALL] = _NOTHING  # the kernel wants it so
                try:
                    self._receive()
                except OSError as error:
                    # The asking thread was killed or interrupted meanwhile, or memory is short; anything else would
                    # come again at once, for ever.
                    if error.errno not in (ENOENT, EINTR, ENOMEM):
                        raise
                    continue
                found = _NOTIFICATION.unpack_from(self._page)
                self._id, tid, number, arch = found[:4]
                return Request(tid, arch, number, found[5:])

    def valid(self) -> bool:
        """Whether the thread still waits in the system call that was received last, so that its tid is its own."""
        try:
            self._id_valid()
        except OSError:
            return False
        return True

    def answer(self, error: int) -> bool:
        """End the system call with an errno, 0 for success. False when nobody waits for it any more."""
        # The id is written last: with it the answer is complete, and a successor may send it.
        _RESULT.pack_into(self._page, _RESULT_AT, 0, -error, 0)
        _ID.pack_into(self._page, _RESPONSE_AT, self._id)
        return self._sent()

    def go_on(self) -> bool:
        """Have the kernel do the system call as if nobody had been asked. False when nobody waits any more."""
        _RESULT.pack_into(self._page, _RESULT_AT, 0, 0, _CONTINUE)
        _ID.pack_into(self._page, _RESPONSE_AT, self._id)
        return self._sent()

    def _sent(self) -> bool:
        while True:
            try:
                self._send()
            except OSError as error:
                if error.errno != EINTR:
                    return False
            else:
                return True

    def take_over(self) -> None:
        """Answer the request that the previous owner held when it died: as it had decided, or else by `go_on`.

        Where it had answered already, no thread waits any more and nothing happens: the kernel gives no id twice.
        """
        (self._id,) = _ID.unpack_from(self._page)
        (decided,) = _ID.unpack_from(self._page, _RESPONSE_AT)
        if self._id == 0:
            return
        if decided == self._id:
            self._sent()
        else:
            self.go_on()
