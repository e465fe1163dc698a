# SPDX-License-Identifier: MIT
"""seccomp(2) filters. Constants from linux/seccomp.h, linux/filter.h and linux/audit.h."""

from __future__ import annotations

from struct import Struct

from ..errors import PrivbindError
from .call import address_of, machine, number, syscall

_SET_MODE_FILTER = 1  # 3.17

_RET_KILL_PROCESS = 0x80000000  # 4.14
_RET_ALLOW = 0x7FFF0000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter
_PROGRAM = Struct("=H6xQ")  # struct sock_fprog

_NUMBER = 0  # struct seccomp_data: nr, arch, instruction_pointer, args
_ARCH = 4
_ARGS = 16

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_PROT_EXEC = 4  # asm-generic/mman-common.h


def arg_offset(index: int) -> int:
    """Where the low word of an argument lies in struct seccomp_data (both machines are little-endian)."""
    return _ARGS + 8 * index


def audit_arch() -> int:
    """This machine's AUDIT_ARCH. Raises PrivbindError on a machine that is not known."""
    try:
        return _AUDIT_ARCH[machine()]
    except KeyError:
        raise PrivbindError(f"no seccomp filter is known for {machine()} (x86_64 and aarch64 are)") from None


def allow_only(names: tuple[str, ...], writable_memory: str = "mmap") -> list[bytes]:
    """A filter that allows these system calls, and mmap(2) of memory that is not executable; any other one kills.

    Names that this machine does not have are passed over.
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
        except PrivbindError:
            continue
        code += [_INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, nr), _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW)]
    code += [
        _INSTRUCTION.pack(_JUMP_EQUAL, 0, 3, number(writable_memory)),
        _INSTRUCTION.pack(_LOAD, 0, 0, arg_offset(2)),
        _INSTRUCTION.pack(_JUMP_ANY_BIT, 1, 0, _PROT_EXEC),
        _INSTRUCTION.pack(_RETURN, 0, 0, _RET_ALLOW),
        _INSTRUCTION.pack(_RETURN, 0, 0, _RET_KILL_PROCESS),
    ]
    return code


def install(code: list[bytes], flags: int = 0) -> int:
    """Put a filter on this thread, for good. Needs no_new_privs or CAP_SYS_ADMIN. Raises OSError."""
    block = bytearray(b"".join(code))
    return syscall("seccomp", _SET_MODE_FILTER, flags, bytearray(_PROGRAM.pack(len(code), address_of(block))))
