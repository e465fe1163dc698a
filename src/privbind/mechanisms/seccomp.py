# SPDX-License-Identifier: MIT
"""seccomp: a filter hands every bind(2) of the command to the helper, which binds a duplicate of the socket.

Serves any program, with no preloading and no cgroup. A second process, the keeper, sees to it that the helper's
death breaks no bind of an unreserved port.
"""

from __future__ import annotations

import posix
from errno import EACCES, EBUSY, EINVAL, ENOSYS, EPERM

from ..errors import PrivbindError, UnsupportedError, strerror
from ..helper import keeper, notification
from ..helper.judge import Judge
from ..helper.ledger import open_ledger
from ..helper.process import Job, start
from ..linux import foreign, notify, prctl, process, seccomp, sockets
from ..linux.call import address_of
from ..linux.capabilities import CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE
from . import Prepared, needs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from mmap import mmap

    from ..helper.ledger import Ledger
    from ..request import Request

NAME = "seccomp"

_NEEDED = (CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE)
_REASONS = {
    EBUSY: (
        "another listener is on this process already (a launch inside a launch, or a container manager's)",
        "the kernel takes one only",
    ),
    EACCES: ("CAP_SYS_ADMIN is missing", "add that capability, or give --no-new-privs"),
    EPERM: ("seccomp(2) is not permitted here", "the container's own seccomp profile may forbid it"),
    EINVAL: ("the kernel has no seccomp user notification", "Linux 5.9 has it, with CONFIG_SECCOMP_FILTER"),
    ENOSYS: ("the kernel has no seccomp filters", "CONFIG_SECCOMP_FILTER builds them in"),
}


def probe(request: Request) -> None:
    """Raise UnsupportedError where no listener can be installed, or where a helper could not act on what it hears."""
    needs.capabilities(NAME, _NEEDED)
    needs.netns_cookie(NAME)
    needs.bind_privilege(NAME, request)
    try:
        code = seccomp.notify_binds()
    except PrivbindError as error:
        raise UnsupportedError(NAME, str(error)) from error
    _try_out(code, request)


def _try_out(code: list[bytes], request: Request) -> None:
    """Install the filter in a child, where it goes again, and look into that child as the helper would."""
    ours, theirs = sockets.pair()
    child = process.fork_unheard()
    if child == 0:
        try:
            ours.close()
            _sample(code, theirs, request)
        finally:
            posix._exit(0)
    known = theirs.fileno()
    theirs.close()
    try:
        story = ours.recv(8)
        error = int(story) if story else EPERM
        if error:
            reason, remedy = _REASONS.get(error, (f"cannot install a filter: {posix.strerror(error)}", ""))
            raise UnsupportedError(NAME, reason, remedy)
        _look_into(child, known)
    finally:
        ours.close()
        posix.waitpid(child, process.WAIT_ALL)


def _sample(code: list[bytes], story: socket, request: Request) -> None:
    """The child: tell the errno of installing, then stay until nobody listens."""
    try:
        if request.no_new_privileges:
            prctl.set_no_new_privileges()
        seccomp.install_listener(code)
    except OSError as error:
        story.send(b"%d" % (error.errno or EPERM))
        return
    story.send(b"0")
    story.recv(1)


def _look_into(pid: int, fd: int) -> None:
    memory = bytearray(1)  # where this process has it, its child has it too
    try:
        descriptors = foreign.Descriptors(lambda leader: leader)
        posix.close(descriptors.fetch(pid, fd))
        descriptors.forget()
    except OSError as error:
        raise _blind("descriptors", error) from error
    try:
        foreign.Memory(1).read(pid, address_of(memory), 1)
    except OSError as error:
        raise _blind("memory", error) from error


def _blind(what: str, error: OSError) -> UnsupportedError:
    return UnsupportedError(
        NAME, f"cannot read another process's {what}: {strerror(error)}", "kernel.yama.ptrace_scope 3 forbids it"
    )


def describe(request: Request) -> list[str]:
    """What would be installed on the command, and who would answer."""
    del request
    size = len(seccomp.notify_binds())
    return [f"a filter of {size} instructions on bind(2) alone; a helper that answers, and a keeper beside it"]


def prepare(request: Request) -> Prepared:
    """Start the helper and its keeper. Raises PrivbindError and leaves nothing behind."""
    return _Seccomp(request)


class _Seccomp(Prepared):
    def __init__(self, request: Request, opens_threads: bool | None = None) -> None:
        """``opens_threads`` is what the kernel can, for those who want to have it otherwise."""
        self._no_new_privileges = request.no_new_privileges
        self._code = seccomp.notify_binds()
        if opens_threads is None:
            opens_threads = foreign.opens_threads()
        ledger = open_ledger(request, NAME)
        self._delivery, theirs = sockets.pair()
        page = notify.new_page()
        questions = None if opens_threads else sockets.pair()
        helper_fd = -1
        try:
            helper = start(_helper(request, ledger, theirs, page, questions and questions[0]))
            helper_fd = posix.pidfd_open(helper)
            watcher = start(_keeper(request, theirs, page, helper_fd, questions and questions[1]))
        except BaseException:
            self.cancel()
            raise
        finally:
            ledger.close()
            theirs.close()
            for end in questions or ():
                end.close()
            if helper_fd >= 0:
                posix.close(helper_fd)
        self.notes = (f"helper is process {helper}, its keeper process {watcher}", *ledger.notes)

    def enter(self) -> None:
        """Install the filter and give its listener to both processes. From here on, this one binds nothing any more."""
        try:
            if self._no_new_privileges:
                # It comes a step later anyway; with it, no CAP_SYS_ADMIN is needed here.
                prctl.set_no_new_privileges()
            listener, patient = seccomp.install_listener(self._code)
            notify.wake_on_same_cpu(listener)
            for _ in ("helper", "keeper"):
                sockets.send_descriptor(
                    self._delivery, listener, notification.PATIENT if patient else notification.HASTY
                )
        except OSError as error:
            raise PrivbindError(f"cannot install the seccomp filter: {strerror(error)}") from error
        posix.close(listener)
        self._delivery.close()

    def cancel(self) -> None:
        """Let both end: without a listener they have nothing to do."""
        self._delivery.close()


def _helper(request: Request, ledger: Ledger, delivery: socket, page: mmap, questions: socket | None) -> Job:
    judge = Judge(request.grant, request.port_start, sockets.netns_cookie(), ledger.counts)
    door = notification.Door(judge, delivery, page, keeper.ask_leader(questions) if questions else None)
    ends = (delivery.fileno(), *ledger.descriptors, *((questions.fileno(),) if questions else ()))
    job = Job(door.serve, ends, request.account, request.port_start, _NEEDED)
    job.outlasts_limit = True
    job.system_calls = notification.SYSTEM_CALLS + (() if questions else notification.SETTLING_CALLS)
    job.ioctls = notification.IOCTLS
    return job


def _keeper(request: Request, delivery: socket, page: mmap, helper: int, questions: socket | None) -> Job:
    ends = (delivery.fileno(), helper, *((questions.fileno(),) if questions else ()))
    job = Job(lambda: keeper.serve(delivery, page, helper, questions), ends, request.account, request.port_start, ())
    job.name = "privbind-keeper"
    job.ioctls = keeper.IOCTLS
    job.system_calls = notification.SETTLING_CALLS
    if questions:
        job.system_calls = keeper.SYSTEM_CALLS_TO_LOOK
        job.confine = keeper.confine_to_proc
    return job
