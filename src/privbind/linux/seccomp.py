# SPDX-License-Identifier: MIT
"""seccomp(2) filters. Constants from linux/seccomp.h, linux/filter.h and linux/audit.h."""

from __future__ import annotations

from _struct import Struct
from errno import EFAULT, EINVAL, ENOSYS, EPERM

from .binds import AARCH64, X86_64, calls
from .call import UnknownMachineError, address_of, machine, number, syscall
from .sockets import MAX_ADDRESS, MIN_ADDRESS

_SET_MODE_FILTER = 1  # 3.17
_PR_SET_SECCOMP = 22  # linux/prctl.h, with filters since 3.5
_MODE_FILTER = 2
_FORBIDDEN = (EPERM, ENOSYS)  # what a container's own filter gives for a system call that it does not know
_NO_MITIGATION = 1 << 2  # SECCOMP_FILTER_FLAG_SPEC_ALLOW, 4.17
_NEW_LISTENER = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER, 5.0
_WAIT_KILLABLE = 1 << 5  # SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 5.19

_RET_KILL_PROCESS = 0x80000000  # 4.14
_RET_USER_NOTIF = 0x7FC00000  # 5.0
_RET_ALLOW = 0x7FFF0000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter
_PROGRAM = Struct("=H6xQ")  # struct sock_fprog

_NUMBER = 0  # struct seccomp_data: nr, arch, instruction_pointer, args
_ARCH = 4
_ARGS = 16

_AUDIT_ARCH = {"x86_64": X86_64, "aarch64": AARCH64}
_PROT_EXEC = 4  # asm-generic/mman-common.h


def arg_offset(index: int) -> int:
    """Where the low word of an argument lies in struct seccomp_data (both machines are little-endian)."""
    return _ARGS + 8 * index


def audit_arch() -> int:
    """This machine's AUDIT_ARCH. Raises UnknownMachineError."""
    try:
        return _AUDIT_ARCH[machine()]
    except KeyError:
        raise UnknownMachineError("make a seccomp filter") from None


def allow_only(names: tuple[str, ...], ioctls: tuple[int, ...] = (), writable_memory: str = "mmap") -> list[bytes]:
    """A filter that allows these system calls, and mmap(2) of memory that is not executable; any other one kills.

    Names that this machine does not have are passed over. ``ioctls`` are the requests allowed of ioctl(2).
    """
    code = [
        _INSTRUCTION.pack(_LOAD, 0, 0, _ARCH),
        _INSTRUCTION.pack(_JUMP_EQUAL, 1, 0, audit_arch()),
        _INSTRUCTION.pack(_RETURN, 0, 0, _RET_KILL_PROCESS),
        _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER),
    ]
    for name in names:
        try:
            nr = number(name)
        except UnknownMachineError:
            continue
        code += [_INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, nr), _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW)]
    if ioctls:
        code += [
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, 2 + 2 * len(ioctls), number("ioctl")),
            _INSTRUCTION.pack(_LOAD, 0, 0, arg_offset(1)),
        ]
        for request in ioctls:
            code += [_INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, request), _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW)]
        code.append(_INSTRUCTION.pack(_RETURN, 0, 0, _RET_KILL_PROCESS))
    code += [
        _INSTRUCTION.pack(_JUMP_EQUAL, 0, 3, number(writable_memory)),
        _INSTRUCTION.pack(_LOAD, 0, 0, arg_offset(2)),
        _INSTRUCTION.pack(_JUMP_ANY_BIT, 1, 0, _PROT_EXEC),
        _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW),
        _INSTRUCTION.pack(_RETURN, 0, 0, _RET_KILL_PROCESS),
    ]
    return code


def deny(names: tuple[str, ...]) -> list[bytes]:
    """A filter that kills for these system calls of this machine's own. Another filter must deal with all others."""
    code = [_INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER)]
    for name in names:
        code += [
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, number(name)),
            _INSTRUCTION.pack(_RETURN, 0, 0, _RET_KILL_PROCESS),
        ]
    return [*code, _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW)]


def notify_binds() -> list[bytes]:
    """A filter that hands every bind(2) to its listener and allows everything else.

    A bind with an address too short to have a port, or longer than the kernel takes, is allowed without asking: those
    of netlink sockets are of that kind. Raises UnknownMachineError.
    """
    code: list[bytes] = []
    for call in calls():
        if call.socketcall:
            checks = [
                _INSTRUCTION.pack(_LOAD, 0, 0, arg_offset(0)),
                _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, call.selector),
            ]
        else:
            checks = [
                _INSTRUCTION.pack(_LOAD, 0, 0, arg_offset(2)),
                _INSTRUCTION.pack(_JUMP_AT_LEAST, 0, 2, MIN_ADDRESS),
                _INSTRUCTION.pack(_JUMP_AT_LEAST, 1, 0, MAX_ADDRESS + 1),
            ]
        code += [
            _INSTRUCTION.pack(_LOAD, 0, 0, _ARCH),
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, len(checks) + 3, call.arch),
            _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER),
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, len(checks) + 1, call.number),
            *checks,
            _INSTRUCTION.pack(_RETURN, 0, 0, _RET_USER_NOTIF),
        ]
    return [*code, _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW)]


def install_listener(code: list[bytes]) -> int:
    """Put a filter on this thread and return the listener that its notifications go to, close-on-exec.

    A thread whose request was received waits for the answer whatever signals come; where the kernel cannot do that
    (before 5.19), it may make the system call again after a signal. Raises OSError: EBUSY where a filter with a
    listener is there already, EACCES without CAP_SYS_ADMIN and no_new_privs.
    """
    # The filter keeps nobody from anything, so no mitigation of speculation is needed on its behalf.
    flags = _NEW_LISTENER | _NO_MITIGATION
    try:
        return install(code, flags | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != EINVAL:
            raise
    return install(code, flags)


def install(code: list[bytes], flags: int = 0) -> int:
    """Put a filter on this thread, for good. Needs no_new_privs or CAP_SYS_ADMIN. Raises OSError."""
    block = bytearray(b"".join(code))
    return syscall("seccomp", _SET_MODE_FILTER, flags, bytearray(_PROGRAM.pack(len(code), address_of(block))))


def confine(code: list[bytes]) -> None:
    """Put a filter without flags on this thread, by the older call where seccomp(2) is forbidden. Raises OSError."""
    try:
        install(code)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        block = bytearray(b"".join(code))
        syscall("prctl", _PR_SET_SECCOMP, _MODE_FILTER, bytearray(_PROGRAM.pack(len(code), address_of(block))), 0, 0)


def check_confine() -> None:
    """Raise OSError where `confine` is not possible; changes nothing.

    The kernel reads the filter before it asks who may install one, so with none given EFAULT means that one could.
    """
    try:
        syscall("seccomp", _SET_MODE_FILTER, 0, 0)
    except OSError as error:
        if error.errno == EFAULT:
            return
    try:
        syscall("prctl", _PR_SET_SECCOMP, _MODE_FILTER, 0, 0, 0)
    except OSError as error:
        if error.errno != EFAULT:
            raise
