# SPDX-License-Identifier: MIT
"""The backup: sleeps beside seccomp's helper and takes over from it when it dies.

Without anybody at the listener the kernel answers every bind(2) of the command with ENOSYS, those of unreserved ports
included. So a second process, with a uid of its own and no capability, holds it too. When the helper ends before the
command does, it answers the request that the helper was working on, and from then on tells the kernel to continue.

Where the kernel cannot open a thread by its id, it also looks in /proc for the process that a thread is in: the one
thing for which a file must be opened, so the helper itself opens none.
"""

from __future__ import annotations

import posix
from _struct import Struct
from errno import ESRCH, ETIMEDOUT
from select import POLLIN, poll

from ..errors import PrivbindError
from ..linux import landlock, sockets
from ..linux.notify import IOCTLS, Listener
from .supervisor import await_listener, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from mmap import mmap

__all__ = ("IOCTLS", "SYSTEM_CALLS_TO_LOOK", "ask_leader", "confine_to_proc", "serve")

SYSTEM_CALLS_TO_LOOK = ("openat", "read")
"""What looking in /proc needs besides what every helper does."""

_QUESTION = Struct("=i")  # a thread
_ANSWER = Struct("=ii")  # the thread, and the process that it is in, 0 for none
_PROC = "/proc"
_LEADER = b"\nTgid:"
_STATUS_SIZE = 1024  # the line is among the first
_PATIENCE_MS = 1000  # a backup that is stopped or dead must not hold up the helper


def serve(delivery: socket, page: mmap, lifeline: socket, questions: socket | None) -> None:
    """Wait for the helper's end, then have the kernel decide every bind until no process of the command is left.

    The helper holds the other end of ``lifeline``, and nobody else does; ``page`` is where it has its request;
    ``questions`` is where it asks for leaders.
    """
    fd = await_listener(delivery)
    if fd is None:
        return
    if questions is None:
        settle()
    events = poll()
    events.register(fd, 0)  # that no process is left is always told
    events.register(lifeline, POLLIN)
    if questions is not None:
        events.register(questions, POLLIN)
    while True:
        ready = [number for number, _ in events.poll()]
        if fd in ready:
            return
        if lifeline.fileno() in ready:
            break
        if questions is not None and not _answer(questions):
            events.unregister(questions)
    listener = Listener(fd, page)
    listener.take_over()
    while listener.receive() is not None:
        listener.go_on()


def _answer(questions: socket) -> bool:
    """Answer a question for a thread's leader; False when there will be no more."""
    try:
        question = questions.recvmsg(_QUESTION.size)[0]
        if len(question) != _QUESTION.size:
            return False
        (tid,) = _QUESTION.unpack(question)
        try:
            leader = _leader_of(tid)
        except (OSError, ValueError, IndexError):
            leader = 0
        sockets.send_now(questions.fileno(), _ANSWER.pack(tid, leader))
    except OSError:  # the helper died over its question, of which the lifeline tells
        return False
    return True


def _leader_of(tid: int) -> int:
    """The id of the process that a thread is in, from proc_pid_status(5). Raises OSError, ValueError."""
    file = posix.open(f"{_PROC}/{tid}/status", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        text = posix.read(file, _STATUS_SIZE)
    finally:
        posix.close(file)
    return int(text.partition(_LEADER)[2].split(None, 1)[0])


def confine_to_proc(known: int) -> None:
    """Leave this process no file but those below /proc, where the kernel has Landlock.

    Raises PrivbindError where it cannot look up threads afterwards, as it cannot look up this process.
    """
    landlock.only_read_below(_PROC)
    try:
        _leader_of(known)
    except (OSError, ValueError, IndexError) as error:
        raise PrivbindError(
            "before Linux 6.9 threads are looked up in /proc, and it cannot see other users' processes there "
            "(mount /proc, without hidepid)"
        ) from error


def ask_leader(backup: socket) -> Callable[[int], int]:
    """The helper's end of the questions: a thread's id to its process's."""
    patience = poll()
    patience.register(backup, POLLIN)

    def leader_of(tid: int) -> int:
        sockets.send_now(backup.fileno(), _QUESTION.pack(tid))
        while patience.poll(_PATIENCE_MS):
            asked, leader = _ANSWER.unpack(backup.recvmsg(_ANSWER.size)[0])
            if asked == tid and leader:
                return int(leader)
            if asked == tid:
                raise ProcessLookupError(ESRCH, f"thread {tid} is in no process")
        raise TimeoutError(ETIMEDOUT, "the backup does not answer")

    return leader_of
