# SPDX-License-Identifier: MIT
"""seccomp: a filter hands every bind(2) of the command to the helper, which binds a duplicate of the socket.

Serves any program, with no preloading and no cgroup. A second process, the backup, sees to it that the helper's
death breaks no bind of an unreserved port.
"""

from __future__ import annotations

import posix
from errno import EACCES, EBUSY, EINVAL, ENOSYS, EPERM

from ..errors import NotUndoneError, PrivbindError, UnsupportedError, strerror
from ..grant import record
from ..helper import backup, supervisor
from ..helper.executor import Executor
from ..helper.ledger import Ledger
from ..helper.process import Job, Starting
from ..linux import notify, prctl, process, seccomp, sockets, target
from ..linux.call import UnknownMachineError, address_of
from ..linux.capabilities import CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE
from ..values import replaced
from . import Prepared, needs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from ..grant.grant import Grant
    from ..grant.holder import Holder
    from ..grant.site import Site
    from ..request import Command

NAME = "seccomp"
CAPABILITIES = (CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE)

_REASONS = {
    EBUSY: (
        "another listener is on this process already (a launch inside a launch, or a container manager's)",
        "the kernel takes one only",
    ),
    EACCES: ("CAP_SYS_ADMIN is missing", "add that capability, or give --no-new-privs"),
    EPERM: ("seccomp(2) is not permitted here", "the container's own seccomp profile may forbid it"),
    EINVAL: (
        "the kernel has no seccomp user notification",
        "Linux 5.14 has all that is needed, with CONFIG_SECCOMP_FILTER",
    ),
    ENOSYS: ("the kernel has no seccomp filters", "CONFIG_SECCOMP_FILTER builds them in"),
}


def probe(grant: Grant, site: Site, command: Command) -> None:
    """Raise UnsupportedError where no listener can be installed, or where a helper could not act on what it hears."""
    del grant
    needs.capabilities(NAME, CAPABILITIES)
    needs.netns_cookie(NAME, site)
    needs.bind_privilege(NAME, site)
    try:
        code = seccomp.notify_binds()
    except UnknownMachineError as error:
        raise UnsupportedError(NAME, strerror(error)) from error
    _try_out(code, command)
    if not target.opens_threads():
        try:
            Starting(_backup(site, command, asked=True)).wait()
        except PrivbindError as error:
            raise UnsupportedError(NAME, str(error)) from error


def _try_out(code: list[bytes], command: Command) -> None:
    """Install the filter in a child, where it goes again, and look into that child as the helper would."""
    ours, theirs = sockets.pair()
    child = process.fork_without_sigchld()
    if child == 0:
        try:
            ours.close()
            _sample(code, theirs, command)
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


def _sample(code: list[bytes], story: socket, command: Command) -> None:
    """The child: tell the errno of installing, then stay until nobody listens."""
    try:
        if command.no_new_privileges:
            prctl.set_no_new_privileges()
        seccomp.install_listener(code)
    except OSError as error:
        story.send(b"%d" % (error.errno or EPERM))
        return
    story.send(b"0")
    story.recv(1)


def _look_into(pid: int, fd: int) -> None:
    memory = bytearray(1)  # the child, a copy of this process, has it at the same address
    try:
        descriptors = target.Descriptors(lambda leader: leader)
        posix.close(descriptors.fetch(pid, fd))
        descriptors.forget()
    except OSError as error:
        raise _blind("descriptors", error) from error
    try:
        target.Memory(1).read(pid, address_of(memory), 1)
    except OSError as error:
        raise _blind("memory", error) from error


def _blind(what: str, error: OSError) -> UnsupportedError:
    return UnsupportedError(
        NAME, f"cannot read another process's {what}: {strerror(error)}", "kernel.yama.ptrace_scope 3 forbids it"
    )


def describe(grant: Grant, site: Site, command: Command) -> list[str]:
    """What would be installed on the command, and who would answer."""
    del grant, site, command
    size = len(seccomp.notify_binds())
    return [f"a filter of {size} instructions on bind(2) alone; a helper that answers, and a backup beside it"]


def prepare(grant: Grant, holder: Holder, site: Site, command: Command) -> Prepared:
    """Start the helper and its backup. Raises PrivbindError and leaves nothing behind."""
    probe(grant, site, command)
    return _Seccomp(grant, holder, site, command)


class _Seccomp(Prepared):
    def __init__(self, grant: Grant, holder: Holder, site: Site, command: Command) -> None:
        self._no_new_privileges = command.no_new_privileges
        self._code = seccomp.notify_binds()
        ledger = Ledger(record.encode(record.describe(grant, holder, site, NAME)))
        self._delivery, delivery = sockets.pair()
        alive, lifeline = sockets.pair()
        # Where the kernel opens no threads, the helper asks its backup for the process that one is in.
        questions = () if target.opens_threads() else sockets.pair()
        ends = (delivery, alive, lifeline, *questions)
        page = notify.new_page()
        ask = backup.ask_leader(questions[0]) if questions else None
        watch = supervisor.Supervisor(Executor(grant, site, ledger.counters), delivery, page, ask)
        helper = Job(
            watch.serve,
            watch.refuse,
            (*(end.fileno() for end in (delivery, alive, *questions[:1])), *ledger.descriptors),
            command.account,
            site,
            CAPABILITIES,
            outlasts_limit=True,
            system_calls=supervisor.SYSTEM_CALLS + (() if questions else supervisor.SETTLING_CALLS),
            ioctls=supervisor.IOCTLS,
        )
        second = replaced(
            _backup(site, command, asked=bool(questions)),
            serve=lambda: backup.serve(delivery, page, lifeline, questions[1] if questions else None),
            descriptors=tuple(end.fileno() for end in (delivery, lifeline, *questions[1:])),
        )
        try:
            first = Starting(helper)
            # The helper alone has this end now, so that its closing tells the backup of the helper's end.
            alive.close()
            other = Starting(second)
            pids = first.wait(), other.wait()
        except BaseException:
            self.cancel()
            raise
        finally:
            ledger.close()
            for end in ends:
                end.close()
        self.notes = (f"helper is process {pids[0]}, its backup process {pids[1]}", *ledger.notes)

    def enter(self) -> None:
        """Install the filter and give its listener to both processes. This process binds nothing from here on."""
        try:
            if self._no_new_privileges:
                # It would be set a step later anyway; once it is set, no CAP_SYS_ADMIN is needed here.
                prctl.set_no_new_privileges()
            listener = seccomp.install_listener(self._code)
        except OSError as error:
            raise PrivbindError(f"cannot install the seccomp filter: {strerror(error)}") from error
        try:
            notify.wake_on_same_cpu(listener)
            for _ in ("helper", "backup"):
                sockets.send_descriptor(self._delivery, listener)
        except OSError as error:
            # Without a listener, every bind of this process fails from now on.
            raise NotUndoneError(f"cannot hand the seccomp filter to its helper: {strerror(error)}") from error
        finally:
            posix.close(listener)
        self._delivery.close()

    def cancel(self) -> None:
        """Let both end: without a listener they have nothing to do."""
        self._delivery.close()


def _backup(site: Site, command: Command, *, asked: bool) -> Job:
    """A backup that does nothing yet; ``asked``: it has to look up threads in /proc."""
    known = posix.getpid()
    return Job(
        lambda: None,
        None,
        (),
        command.account,
        site,
        (),
        name="privbind-backup",
        system_calls=backup.SYSTEM_CALLS_TO_LOOK if asked else supervisor.SETTLING_CALLS,
        ioctls=backup.IOCTLS,
        confine=(lambda: backup.confine_to_proc(known)) if asked else None,
    )
