# SPDX-License-Identifier: MIT
"""Processes: a fork without SIGCHLD, an exec with exactly these bytes, file access as another user, uids in use."""

from __future__ import annotations

import posix
from _struct import Struct, iter_unpack, pack
from errno import EACCES, EAGAIN, ENOKEY, ENOSYS, EPERM, ESRCH
from select import POLLIN, poll

from .call import address_of, number, syscall, syscall_raw

WAIT_ALL = 0x40000000  # __WALL, linux/wait.h: children that end without SIGCHLD too

RLIMIT_CORE = 4  # asm-generic/resource.h
RLIMIT_NPROC = 6
RLIMIT_NOFILE = 7
_LIMIT = Struct("=QQ")  # struct rlimit64: soft, hard

_CLONE_PIDFD = 0x1000  # linux/sched.h, 5.2
_CLONE_NEWNET = 0x40000000
_NOWHERE = 1  # an address that no process has anything at (vm.mmap_min_addr)

_KEYCTL_JOIN_SESSION_KEYRING = 1  # linux/keyctl.h
_KEYCTL_DESCRIBE = 6
_KEYCTL_READ = 11
_SESSION_KEYRING = -3  # KEY_SPEC_SESSION_KEYRING
_INVALID_ID = 0xFFFFFFFF  # (uid_t) -1


def fork_without_sigchld() -> int:
    """Like fork(2), but the child's end raises no SIGCHLD here: clone(2) with exit signal 0.

    The child is waited for with `WAIT_ALL`, and nothing else of this process's children is. Python's own bookkeeping
    after a fork is not run: for a process with a single thread there is none that matters. Nor is the C library's: in
    the child it still counts threads that only this process has, so ids are changed with `set_thread_ids` there.
    """
    return syscall("clone", 0, 0, 0, 0, 0)


def user_has_processes(uid: int) -> bool:
    """Whether any process of this pid namespace and those inside has this real uid, hidden in /proc or not.

    getpriority(2) answers that. The kernel looks up the user first, so for a uid without processes it is quick.
    """
    try:
        posix.getpriority(posix.PRIO_USER, uid)
    except OSError as error:
        return error.errno != ESRCH
    return True


def can_tell_alone() -> bool:
    """Make ready for `is_alone`, with the privileges of this process; False where its limits cannot be raised."""
    _, hard = limit(RLIMIT_NPROC)
    try:
        set_limit(RLIMIT_NPROC, 2, max(hard, 2))
    except OSError:
        return False
    return True


def is_alone() -> bool:
    """Whether this process, which has one thread, is the only one of its real uid in its user namespace.

    With a limit of two processes the kernel forks for a user who has one, and refuses with EAGAIN for one who has more
    (RLIMIT_NPROC, getrlimit(2)). The fork itself always fails a step later, since its pidfd can be put nowhere, so
    there is no child. Needs `can_tell_alone`, and neither CAP_SYS_RESOURCE nor CAP_SYS_ADMIN.
    """
    try:
        child = syscall("clone", _CLONE_PIDFD, 0, _NOWHERE, 0, 0)
    except OSError as error:
        return error.errno != EAGAIN
    if child == 0:  # never seen: a kernel that puts a pidfd there
        posix._exit(0)
    return False


def is_alive(pidfd: int) -> bool:
    """Whether the process of a pidfd has not ended."""
    ended = poll()
    ended.register(pidfd, POLLIN)
    return not ended.poll(0)


def enter_network_namespace(namespace: int) -> None:
    """Enter a network namespace, given by an open file of /proc/PID/ns (setns(2)). Raises OSError."""
    syscall("setns", namespace, _CLONE_NEWNET)


def leave_session_keyring() -> None:
    """Take a new session keyring, so that keys of the one before are out of reach (keyctl(2)).

    Nothing happens where that call is not there or forbidden: then no key can be used either. Raises OSError.
    """
    try:
        syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0)
    except OSError as error:
        if error.errno not in (ENOSYS, EPERM, EACCES):
            raise


def has_session_keys() -> bool:
    """Whether any key, and not just keyrings, is to be found from the calling thread's session keyring (keyctl(2))."""
    looked_at: set[int] = set()
    keyrings = [_SESSION_KEYRING]
    while keyrings:
        keyring = keyrings.pop()
        buffer = bytearray(4096)
        try:
            size = syscall("keyctl", _KEYCTL_READ, keyring, buffer, len(buffer))
        except OSError as error:
            return keyring != _SESSION_KEYRING or error.errno not in (ENOSYS, EPERM, EACCES, ENOKEY)
        if size > len(buffer):
            return True
        for (key,) in iter_unpack("=i", buffer[:size]):
            described = bytearray(64)
            try:
                syscall("keyctl", _KEYCTL_DESCRIBE, key, described, len(described))
            except OSError:
                return True
            if not described.startswith(b"keyring;"):
                return True
            if key not in looked_at:
                looked_at.add(key)
                keyrings.append(key)
    return False


def execve(path: bytes, argv: list[bytes], environment: list[bytes]) -> None:
    """execve(2) with the environment's entries as they are: duplicates and entries without ``=`` included.

    Returns only by raising OSError.
    """
    memory: list[bytearray] = []
    syscall("execve", path, _vector(argv, memory), _vector(environment, memory))


def _vector(strings: list[bytes], memory: list[bytearray]) -> bytearray:
    """A char *[] with its strings, kept alive by ``memory``."""
    block = bytearray(b"".join(string + b"\0" for string in strings) or b"\0")
    memory.append(block)
    address = address_of(block)
    addresses = []
    for string in strings:
        addresses.append(address)
        address += len(string) + 1
    return bytearray(pack(f"{len(addresses) + 1}N", *addresses, 0))


def set_thread_ids(uid: int, gid: int) -> None:
    """Real, effective and saved ids of this thread alone (setresgid(2), then setresuid(2)). Raises OSError.

    The C library's functions change those of all its threads, and wait for each: after `fork_without_sigchld` for ever,
    if one was just starting.
    """
    syscall("setresgid", gid, gid, gid)
    syscall("setresuid", uid, uid, uid)


def clear_thread_groups() -> None:
    """Leave this thread without supplementary groups (setgroups(2)), as `set_thread_ids` does it. Raises OSError."""
    syscall("setgroups", 0, 0)


def set_file_ids(uid: int, gid: int) -> None:
    """The ids that count for access to files (setfsuid(2), setfsgid(2)).

    Those calls report no errors but return the id that was set before, so each is asked a second time with an id
    that is never valid; raises PermissionError when the first did not take.
    """
    for name, wanted in (("setfsgid", gid), ("setfsuid", uid)):
        nr = number(name)
        syscall_raw(nr, wanted)
        if syscall_raw(nr, _INVALID_ID) & _INVALID_ID != wanted:
            raise PermissionError(EPERM, f"{name}({wanted}) had no effect")


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every descriptor of this process but these (close_range(2), Linux 5.9)."""
    lowest = 0
    for fd in sorted(keep):
        if fd > lowest:
            syscall("close_range", lowest, fd - 1, 0)
        lowest = fd + 1
    syscall("close_range", lowest, 0xFFFFFFFF, 0)


def limit(resource: int) -> tuple[int, int]:
    """A resource limit of this process, soft and hard (prlimit(2))."""
    old = bytearray(_LIMIT.size)
    syscall("prlimit64", 0, resource, 0, old)
    soft, hard = _LIMIT.unpack(old)
    return soft, hard


def set_limit(resource: int, soft: int, hard: int) -> None:
    """Set a resource limit of this process."""
    syscall("prlimit64", 0, resource, bytearray(_LIMIT.pack(soft, hard)), 0)
