# SPDX-License-Identifier: MIT
"""The helper's life: forked where nobody notices, stripped to what it needs, serving, and its end.

Taken over completely by what it reads, it can do what its capabilities allow and nothing else: it has no descriptor
but its front door and /dev/null, no identity that owns anything, and a filter that lets it open nothing.
"""

from __future__ import annotations

import posix
from _signal import SIG_IGN, SIG_SETMASK, SIGHUP, SIGINT, SIGTERM, pthread_sigmask, signal  # type: ignore[import-not-found]  # signal would import enum

from ..errors import PrivbindError, strerror
from ..linux import capabilities, prctl, process, seccomp, sockets
from . import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..account import Account

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


def adopts_orphans() -> bool:
    """Whether a process that this one leaves behind becomes its child again: as pid 1, or as a subreaper."""
    return posix.getpid() == 1 or prctl.is_child_subreaper()


class Job:
    """What a helper is started for.

    ``serve`` answers requests until nobody can ask any more or the limit of binds is used up while it does; called
    again after that, it refuses until nobody can ask. ``descriptors`` are those it needs; ``capabilities``
    those it holds; ``port_start`` is the first port that is not reserved.

    ``name`` is what ps(1) shows of it. ``outlasts_limit`` says that it is needed when the limit is used up, too.
    ``system_calls`` and ``ioctls`` are what it needs besides what every helper does; ``confine`` is called before
    these are all that it has left.
    """

    name = "privbind-helper"
    outlasts_limit = False
    system_calls: tuple[str, ...] = ()
    ioctls: tuple[int, ...] = ()
    confine: Callable[[], object] | None = None

    def __init__(
        self,
        serve: Callable[[], None],
        descriptors: tuple[int, ...],
        account: Account,
        port_start: int,
        capabilities: tuple[int, ...],
    ) -> None:
        """Keep what it is started for."""
        self.serve = serve
        self.descriptors = descriptors
        self.account = account
        self.port_start = port_start
        self.capabilities = capabilities


def start(job: Job) -> int:
    """Start a helper and wait until it serves. Returns its pid; raises PrivbindError with its reason.

    It is forked twice and has a session of its own, so that this process has no child afterwards. Where an orphan
    would come back as a child (`adopts_orphans`), it is forked once, so that a plain wait does not see it, and ends
    only after this process, since its end would raise SIGCHLD; with nothing left to do it gives up its capabilities.
    """
    stays = adopts_orphans()
    ours, theirs = sockets.pair()
    try:
        child = process.fork_unheard()
        if child == 0:
            _end(lambda: _child(job, theirs.fileno(), stays))
        theirs.close()
        if not stays:
            posix.waitpid(child, process.WAIT_ALL)
        story = ours.recv(_MAX_STORY)
    except OSError as error:
        raise PrivbindError(f"cannot start the helper: {strerror(error)}") from error
    finally:
        theirs.close()
        ours.close()
    word, _, rest = story.partition(b" ")
    if word != _READY:
        if stays:
            posix.waitpid(child, process.WAIT_ALL)
        raise PrivbindError(f"cannot start the helper: {story.decode('utf-8', 'replace') or 'it died'}")
    return int(rest)


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
    if not stays and posix.fork() != 0:
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
        job.serve()
    if stays:
        _wait_for_end(parent)


def _wait_for_end(process: int) -> None:
    """Wait until a process, given by a pidfd, has ended."""
    from select import POLLIN, poll

    ended = poll()
    ended.register(process, POLLIN)
    ended.poll()


def _strip(job: Job, keep: tuple[int, ...]) -> None:
    """Become nobody in particular, with no more than the job's capabilities."""
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
    if capabilities.CAP_NET_BIND_SERVICE in job.capabilities and not _may_bind(job.port_start - 1):
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
