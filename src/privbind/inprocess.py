# SPDX-License-Identifier: MIT
"""A launch inside a program that runs already: this process becomes the account itself, without an exec.

So what an exec would have ended is checked beforehand: other threads, whose ids the C library changes but whose
capabilities only they themselves can change, and io_uring rings, whose threads in the kernel keep the ids and
capabilities of the process that made them.
"""

from __future__ import annotations

import gc
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals  # type: ignore[import-not-found]  # signal would import enum
from threading import get_native_id

from . import account, launch
from .errors import NotUndoneError, PrivbindError, UnsupportedError, UsageError, counted, strerror
from .linux import prctl, process, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .launch import Choice
    from .mechanisms import Mechanism, Prepared
    from .request import Request

_TAKES_THREADS = ("bpf",)
"""The mechanisms that hold for all threads: whole processes are in a cgroup, a filter or a capability is a thread's."""

_KEEPING = prctl.SECBIT_NO_SETUID_FIXUP | prctl.SECBIT_KEEP_CAPS
_BEFORE_THREADS = "call become before threads start"


def become(request: Request) -> Choice:
    """Become the account, by the first mechanism that fits. Raises PrivbindError with everything as it was.

    Raises NotUndoneError where that was not possible any more.
    """
    others = _other_threads()
    _check(request, others)
    collects = gc.isenabled()
    # A helper is a copy of this process, in which nothing of the program may run: no finalizer, no signal handler. And
    # no handler may raise between two steps.
    gc.disable()
    blocked = pthread_sigmask(SIG_BLOCK, valid_signals())
    try:
        choice = launch.choose(request, lambda mechanism: _prepare(mechanism, request, others))
        _take(request, choice)
        return choice
    except OSError as error:
        raise PrivbindError(f"cannot become {request.command.account}: {strerror(error)}") from error
    finally:
        pthread_sigmask(SIG_SETMASK, blocked)
        if collects:
            gc.enable()


def _other_threads() -> dict[int, dict[str, str]]:
    try:
        found = procfs.threads()
    except OSError as error:
        raise UsageError(
            f"cannot see the threads of this process in /proc: {strerror(error)}", "mount /proc"
        ) from error
    found.pop(get_native_id(), None)
    return found


def _check(request: Request, others: dict[int, dict[str, str]]) -> None:
    """Raise UsageError for anything in this process that could not become the account together with this thread."""
    if rings := procfs.rings():
        raise UsageError(
            f"this process has an io_uring ring ({rings[0]}), whose thread in the kernel would keep every privilege",
            "call become before the ring is made",
        )
    if not others:
        return
    running = f"{counted(len(others), 'other thread')} of this process cannot be taken along"
    if request.command.no_new_privileges and any(status["NoNewPrivs"] != "1" for status in others.values()):
        raise UsageError(f"{running}: no_new_privs is for the calling thread alone", _BEFORE_THREADS)
    # A thread whose ids leave root loses its capabilities by that, but not inheritable ones.
    if prctl.securebits() & _KEEPING or any(not _loses_all(status) for status in others.values()):
        raise UsageError(f"{running}: they would keep capabilities", _BEFORE_THREADS)
    if process.has_session_keys():
        raise UsageError(f"{running}: they would keep the keys of this session's keyring", _BEFORE_THREADS)


def _loses_all(status: dict[str, str]) -> bool:
    real, effective, saved, _ = status["Uid"].split()
    return "0" in (real, effective, saved) and not int(status["CapInh"], 16)


def _prepare(mechanism: Mechanism, request: Request, others: dict[int, dict[str, str]]) -> Prepared:
    if mechanism.NAME == "preload":
        raise UnsupportedError(
            mechanism.NAME,
            "its shim is loaded when a program starts, and this one runs already",
            "privbind.command starts one with it",
        )
    if others and mechanism.NAME not in _TAKES_THREADS:
        raise UnsupportedError(
            mechanism.NAME,
            f"it holds for one thread, and {counted(len(others), 'other')} run here",
            _BEFORE_THREADS,
        )
    return mechanism.prepare(request.grant, launch.holder_of(request), request.site, request.command)


def _take(request: Request, choice: Choice) -> None:
    command, prepared = request.command, choice.prepared
    try:
        prepared.enter()
        if command.no_new_privileges:
            prctl.set_no_new_privileges()
        account.become(command.account, prepared.keep)
    except NotUndoneError as error:
        prepared.cancel()
        raise _no_way_back(error) from error
    except BaseException:
        prepared.cancel()
        raise
    try:
        prepared.seal()
        _verify_threads(request)
    except BaseException as error:
        raise _no_way_back(error) from error
    prepared.release()


def _verify_threads(request: Request) -> None:
    """Check that every other thread has become the account as well. Raises NotUndoneError."""
    wanted = request.command.account
    ids = {"Uid": [str(wanted.uid)] * 4, "Gid": [str(wanted.gid)] * 4}
    sets = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), 0)
    groups = sorted({*wanted.groups})
    for tid, status in _other_threads().items():
        wrong = [name for name, expected in ids.items() if status[name].split() != expected]
        wrong += [name for name, expected in sets.items() if int(status[name], 16) != expected]
        if sorted(set(map(int, status["Groups"].split()))) != groups:
            wrong.append("Groups")
        if wrong:
            raise NotUndoneError(f"became {wanted}, but thread {tid} did not: {', '.join(wrong)}")


def _no_way_back(error: BaseException) -> NotUndoneError:
    return NotUndoneError(str(error), "there is no way back: end this process")
