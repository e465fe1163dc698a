# SPDX-License-Identifier: MIT
"""The helper's life: it is forked unnoticed by the launching program, gives up what it does not need, serves, and ends.

Even if a request took it over completely, it could do only what its capabilities allow: it has no descriptors but those
on which requests come and /dev/null, no identity that owns anything, and a filter that lets it open nothing.
"""

from __future__ import annotations

import posix
from _signal import SIG_IGN, SIG_SETMASK, SIGHUP, SIGINT, SIGKILL, SIGTERM, pthread_sigmask, signal  # type: ignore[import-not-found]  # signal would import enum
from select import POLLIN, poll

from ..errors import PrivbindError, strerror
from ..linux import capabilities, prctl, process, seccomp, sockets
from ..values import value
from . import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..account import Account
    from ..grant.site import Site

_SYSTEM_CALLS = (
    "recvmsg",
    "sendto",
    "bind",
    "getsockopt",
    "setsockopt",
    "getsockname",
    "getpeername",
    "close",
    "poll",
    "ppoll",
    "exit_group",
    # What the interpreter and the C library do between those: memory, locks, the way back from a signal.
    "brk",
    "munmap",
    "mremap",
    "madvise",
    "futex",
    "rt_sigreturn",
    "restart_syscall",
    "clock_gettime",
    # Only to give up what it has (a helper that stays although its work is done).
    "capset",
)
_READY = b"ready"
_MAX_STORY = 1024
_PATIENCE_S = 30
"""How long a launch waits for a helper: far more than a slow machine needs, and not for ever for a stopped helper."""
_SILENT = b"it did not get ready within %d seconds (was it stopped?)" % _PATIENCE_S


def adopts_orphans() -> bool:
    """Whether a process that this one leaves behind becomes its child again: as pid 1, or as a subreaper."""
    return posix.getpid() == 1 or prctl.is_child_subreaper()


@value
class Job:
    """What a helper is started for.

    ``serve`` answers requests until nobody can ask any more, or until the limit of binds is used up. A helper that has
    to stay nevertheless then gives up its capabilities, and ``refuse`` answers until nobody can ask any more (None
    where nobody would ask). ``outlasts_limit`` says that it has to stay, wherever it was started.

    ``descriptors`` are those that it needs, ``capabilities`` those that it holds; ``account`` is the command's, whose
    ids it must not have. ``name`` is what ps(1) shows of it. ``system_calls`` and ``ioctls`` are what it needs besides
    what every helper does; ``confine`` is called before these are all that it has left.
    """

    serve: Callable[[], None]
    refuse: Callable[[], None] | None
    descriptors: tuple[int, ...]
    account: Account
    site: Site
    capabilities: tuple[int, ...]
    name: str = "privbind-helper"
    outlasts_limit: bool = False
    system_calls: tuple[str, ...] = ()
    ioctls: tuple[int, ...] = ()
    confine: Callable[[], object] | None = None


class Starting:
    """A helper that has been forked and makes itself ready.

    It is forked twice and has a session of its own, so that this process has no child afterwards. Where an orphan
    would come back as a child (`adopts_orphans`), it is forked once, so that a plain wait does not see it, and ends
    only after this process, since its end would raise SIGCHLD; with nothing left to do it gives up its capabilities.
    """

    def __init__(self, job: Job) -> None:
        """Fork. Raises PrivbindError."""
        self._stays = adopts_orphans()
        self._name = job.name
        self._story, theirs = sockets.pair()
        try:
            self._child = process.fork_without_sigchld()
            if self._child == 0:
                _end(lambda: _child(job, theirs.fileno(), self._stays))
        except OSError as error:
            self._story.close()
            raise self._failure(strerror(error)) from error
        finally:
            theirs.close()
        if not self._stays:
            posix.waitpid(self._child, process.WAIT_ALL)

    def wait(self) -> int:
        """Wait until it serves; its pid. Raises PrivbindError with its reason, and then it has ended or is ended."""
        told = poll()
        told.register(self._story, POLLIN)
        try:
            story = self._story.recv(_MAX_STORY) if told.poll(_PATIENCE_S * 1000) else _SILENT
        except OSError as error:
            story = strerror(error).encode()
        finally:
            self._story.close()
        word, _, rest = story.partition(b" ")
        if word == _READY:
            return int(rest)
        self._kill()
        raise self._failure(story.decode("utf-8", "replace") or "it died")

    def _kill(self) -> None:
        try:
            # The group is its own from its first step on (setsid), and nobody else is in it.
            posix.killpg(self._child, SIGKILL)
        except OSError:
            pass  # it has ended
        if self._stays:
            posix.waitpid(self._child, process.WAIT_ALL)

    def _failure(self, reason: str) -> PrivbindError:
        return PrivbindError(f"cannot start {self._name}: {reason}")


def _end(body: Callable[[], None]) -> None:
    """Run the body of a forked process, which must not return into the launch."""
    try:
        body()
    finally:
        posix._exit(0)


def _child(job: Job, story: int, stays: bool) -> None:
    keep = (*job.descriptors, story)
    if stays:
        parent = posix.pidfd_open(posix.getppid())
        keep = (*keep, parent)
    posix.setsid()
    # Not posix.fork: inside a running program (privbind.become), its handlers for forks must not run in the helper.
    if not stays and process.fork_without_sigchld() != 0:
        return
    pid = posix.getpid()
    try:
        _strip(job, keep)
        if job.confine is not None:
            job.confine()
        seccomp.confine(seccomp.allow_only(_SYSTEM_CALLS + job.system_calls, job.ioctls))
    except Exception as error:  # noqa: BLE001  # whatever it is, the launch must hear of it
        reason = strerror(error) if isinstance(error, OSError) else str(error)
        sockets.send_now(story, reason.encode("utf-8", "surrogateescape")[:_MAX_STORY])
        return
    sockets.send_now(story, _READY + b" %d" % pid)
    posix.close(story)
    job.serve()
    if stays or job.outlasts_limit:
        capabilities.put(0, 0, 0)
        if job.refuse is not None:
            job.refuse()
    if stays:
        _wait_for_end(parent)


def _wait_for_end(process: int) -> None:
    """Wait until a process, given by a pidfd, has ended."""
    ended = poll()
    ended.register(process, POLLIN)
    ended.poll()


def _strip(job: Job, keep: tuple[int, ...]) -> None:
    """Take ids that nothing else uses, and keep no capabilities but the job's."""
    process.close_all_but(keep)
    # Whatever the interpreter might ever print must not land in a socket of the command.
    try:
        null = posix.open("/dev/null", posix.O_RDWR)
    except OSError as error:
        raise PrivbindError(f"cannot open /dev/null: {strerror(error)}") from error
    for standard in range(3):
        if standard != null and standard not in keep:
            posix.dup2(null, standard)
    for number in (SIGINT, SIGTERM, SIGHUP):
        signal(number, SIG_IGN)
    pthread_sigmask(SIG_SETMASK, ())
    posix.chdir("/")
    posix.umask(0o077)
    prctl.set_name(job.name)
    prctl.set_no_new_privileges()
    if capabilities.effective(capabilities.CAP_SETPCAP):
        prctl.empty_bounding_set()
        prctl.set_securebits(
            prctl.securebits()  # some may be locked
            | prctl.SECBIT_NOROOT
            | prctl.SECBIT_NOROOT_LOCKED
            | prctl.SECBIT_KEEP_CAPS
            | prctl.SECBIT_NO_CAP_AMBIENT_RAISE
            | prctl.SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED
        )
    else:
        prctl.set_keep_capabilities(True)
    prctl.clear_ambient()
    identity.take(job.account, job.capabilities)
    if capabilities.CAP_NET_BIND_SERVICE in job.capabilities and not _may_bind(job.site.port_start - 1):
        raise PrivbindError(
            "it may not bind reserved ports in this network namespace, which another user namespace owns"
        )
    prctl.set_not_dumpable()
    process.set_limit(process.RLIMIT_NPROC, 0, 0)
    process.set_limit(process.RLIMIT_CORE, 0, 0)


def _may_bind(port: int) -> bool:
    probe = sockets.bound_probe()
    try:
        return sockets.may_bind_reserved(probe, port)
    finally:
        probe.close()
