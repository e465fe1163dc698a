# SPDX-License-Identifier: MIT
"""System calls by number, for what Python's own modules do not offer.

``_ctypes`` is used directly: importing ``ctypes`` would cost a launch half as much again as the interpreter's own
start. One function of the C library is called, syscall(2); it exists in glibc and in musl alike.
"""

from __future__ import annotations

from _ctypes import Array as _Array
from _ctypes import CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno
from errno import ENOSYS
from posix import strerror, uname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence
    from mmap import mmap
    from typing import Any

_RTLD_NOW = 2  # dlfcn.h
_FUNCFLAG_CDECL = 1  # Modules/_ctypes/ctypes.h
_FUNCFLAG_USE_ERRNO = 8

# Number by machine (uname -m): arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h. A machine
# that is missing is an error where a call is made, never a guess.
_NUMBERS = {
    "x86_64": {
        "read": 0,
        "close": 3,
        "poll": 7,
        "mmap": 9,
        "munmap": 11,
        "brk": 12,
        "rt_sigreturn": 15,
        "ioctl": 16,
        "mremap": 25,
        "madvise": 28,
        "getpid": 39,
        "sendto": 44,
        "sendmsg": 46,
        "recvmsg": 47,
        "bind": 49,
        "getsockname": 51,
        "getpeername": 52,
        "setsockopt": 54,
        "getsockopt": 55,
        "clone": 56,
        "execve": 59,
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "setfsuid": 122,
        "setfsgid": 123,
        "capget": 125,
        "capset": 126,
        "prctl": 157,
        "getxattr": 191,
        "fgetxattr": 193,
        "futex": 202,
        "keyctl": 250,
        "restart_syscall": 219,
        "clock_gettime": 228,
        "exit_group": 231,
        "openat": 257,
        "ppoll": 271,
        "prlimit64": 302,
        "setns": 308,
        "process_vm_readv": 310,
        "seccomp": 317,
        "bpf": 321,
        "pidfd_open": 434,
        "close_range": 436,
        "pidfd_getfd": 438,
        "landlock_create_ruleset": 444,
        "landlock_add_rule": 445,
        "landlock_restrict_self": 446,
    },
    "aarch64": {
        "getxattr": 8,
        "fgetxattr": 10,
        "ioctl": 29,
        "openat": 56,
        "close": 57,
        "read": 63,
        "ppoll": 73,
        "capget": 90,
        "capset": 91,
        "exit_group": 94,
        "futex": 98,
        "clock_gettime": 113,
        "restart_syscall": 128,
        "rt_sigreturn": 139,
        "setresuid": 147,
        "setresgid": 149,
        "setfsuid": 151,
        "setfsgid": 152,
        "setgroups": 159,
        "prctl": 167,
        "getpid": 172,
        "bind": 200,
        "getsockname": 204,
        "getpeername": 205,
        "sendto": 206,
        "setsockopt": 208,
        "getsockopt": 209,
        "sendmsg": 211,
        "recvmsg": 212,
        "brk": 214,
        "keyctl": 219,
        "munmap": 215,
        "mremap": 216,
        "clone": 220,
        "execve": 221,
        "mmap": 222,
        "madvise": 233,
        "prlimit64": 261,
        "setns": 268,
        "process_vm_readv": 270,
        "seccomp": 277,
        "bpf": 280,
        "pidfd_open": 434,
        "close_range": 436,
        "pidfd_getfd": 438,
        "landlock_create_ruleset": 444,
        "landlock_add_rule": 445,
        "landlock_restrict_self": 446,
    },
}


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _U64(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "Q"


class _Function(CFuncPtr):
    _flags_ = _FUNCFLAG_CDECL | _FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_ALL_LOADED: Any = None  # dlopen(3): NULL stands for what is loaded already
_syscall: Any = _Function(dlsym(dlopen(_ALL_LOADED, _RTLD_NOW), "syscall"))
_arrays: dict[int, Any] = {}
# Asked once: the helper's own filter allows no uname(2).
_MACHINE = uname().machine


class UnknownMachineError(OSError):
    """This machine's system calls are not known here, so something cannot be done."""

    def __init__(self, what: str) -> None:
        """``what`` cannot be done, as a verb with its object."""
        super().__init__(ENOSYS, f"cannot {what} on {machine()}: only x86_64 and aarch64 are known")


def machine() -> str:
    """The machine's name as `uname -m` gives it."""
    return _MACHINE


def address_of(buffer: bytearray | mmap) -> int:
    """The address of a buffer's bytes; valid while the buffer lives and keeps its size."""
    size = len(buffer)
    if size not in _arrays:
        _arrays[size] = type("Bytes", (_Array,), {"_type_": _Char, "_length_": size})
    return int(addressof(_arrays[size].from_buffer(buffer)))


def numbers_at(address: int, count: int) -> MutableSequence[int]:
    """So many 64-bit numbers in memory that stays mapped; to read or write one is to read or write that memory."""
    array: Any = type("Numbers", (_Array,), {"_type_": _U64, "_length_": count})
    found: MutableSequence[int] = array.from_address(address)
    return found


def number(name: str) -> int:
    """A system call's number on this machine. Raises UnknownMachineError."""
    try:
        return _NUMBERS[machine()][name]
    except KeyError:
        raise UnknownMachineError(f"call {name}(2)") from None


def syscall(name: str | int, *args: int | bytes | bytearray) -> int:
    """Make a system call, by name or by number.

    An int is passed as a long, bytes as a pointer to a copy that the kernel only reads, a bytearray as a pointer to
    its own memory. Returns the call's result; raises OSError when that is -1.
    """
    result = syscall_raw(number(name) if isinstance(name, str) else name, *args)
    if result == -1:
        error = get_errno()
        raise OSError(error, strerror(error))
    return result


def syscall_raw(nr: int, *args: int | bytes | bytearray) -> int:
    """Like `syscall`, by number only; returns -1 on error, and does not say which."""
    converted = [
        _Long(arg) if isinstance(arg, int) else _Long(address_of(arg)) if isinstance(arg, bytearray) else arg
        for arg in args
    ]
    return int(_syscall(_Long(nr), *converted))


def prepare(name: str, *args: int | bytearray | None) -> Callable[..., int]:
    """Prepare a system call that is made many times: the arguments that stay the same are converted once.

    Each argument is an int, a buffer whose memory is passed (it must keep its size), or None for an int that is given
    to the returned function; at most two are None. The returned function returns the call's result, and raises OSError
    when that is -1. Raises UnknownMachineError.
    """
    slots = [_Long(address_of(arg) if isinstance(arg, bytearray) else arg or 0) for arg in args]
    first, second = ([slot for slot, arg in zip(slots, args, strict=True) if arg is None] + [_Long(), _Long()])[:2]
    arguments = (_Long(number(name)), *slots)
    buffers = [arg for arg in args if isinstance(arg, bytearray)]

    def call(one: int = 0, two: int = 0, _in_use: object = buffers) -> int:
        first.value = one
        second.value = two
        result: int = _syscall(*arguments)
        if result == -1:
            error = get_errno()
            raise OSError(error, strerror(error))
        return result

    return call


def has_attribute(file: int | str, name: str) -> bool:
    """Whether an open file, or the file at a path, has this extended attribute; False where that cannot be told.

    Python has getxattr(2) where its C library is glibc, and not with musl.
    """
    call, which = (
        ("fgetxattr", file) if isinstance(file, int) else ("getxattr", file.encode("utf-8", "surrogateescape"))
    )
    try:
        syscall(call, which, name.encode(), 0, 0)
    except OSError:
        return False
    return True
