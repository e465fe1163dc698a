# SPDX-License-Identifier: MIT
"""Which system calls are bind(2): on each machine its own, and those of the 32-bit programs that it can run.

Numbers from arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl, include/uapi/asm-generic/unistd.h,
arch/arm/tools/syscall.tbl and linux/net.h; architectures from linux/audit.h.
"""

from __future__ import annotations

from _struct import Struct

from .call import UnknownMachineError, machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    ReadMemory = Callable[[int, int, int], bytes]
    """A thread, an address and a size to the bytes that it has there; raises OSError."""

X86_64 = 0xC000003E
I386 = 0x40000003
AARCH64 = 0xC00000B7
ARM = 0x40000028

_X32 = 0x40000000  # __X32_SYSCALL_BIT, asm/unistd.h: the x32 calls of an x86-64 kernel
_SYS_BIND = 2  # linux/net.h: what the first argument of socketcall(2) says

_WORD = 0xFFFFFFFF
_SIGN = 0x80000000
_SOCKETCALL_ARGUMENTS = Struct("=3I")


class BindCall:
    """One way to call bind(2): architecture, number, and whether it goes through socketcall(2)."""

    def __init__(self, arch: int, number: int, *, socketcall: bool = False) -> None:
        """``arch`` is an AUDIT_ARCH, ``number`` the system call's there."""
        self.arch = arch
        self.number = number
        self.socketcall = socketcall

    @property
    def selector(self) -> int:
        """What socketcall's first argument is when it means bind."""
        return _SYS_BIND

    def arguments(self, args: tuple[int, ...], read: ReadMemory, tid: int) -> tuple[int, int, int]:
        """The three arguments of bind(2): the descriptor, the pointer to the socket address, and its length.

        ``args`` are the registers of a thread; socketcall has its arguments in memory. Raises OSError when that cannot
        be read.
        """
        if self.socketcall:
            args = _SOCKETCALL_ARGUMENTS.unpack(read(tid, args[1] & _WORD, _SOCKETCALL_ARGUMENTS.size))
        return _int(args[0]), args[1], _int(args[2])


def _int(register: int) -> int:
    """A register's value as the C int that the kernel makes of it."""
    return (register & _WORD ^ _SIGN) - _SIGN


_CALLS = {
    "x86_64": (
        BindCall(X86_64, 49),
        BindCall(X86_64, 49 | _X32),
        BindCall(I386, 361),  # 4.3
        BindCall(I386, 102, socketcall=True),
    ),
    "aarch64": (BindCall(AARCH64, 200), BindCall(ARM, 282)),
}


def calls() -> tuple[BindCall, ...]:
    """All ways to call bind(2) on this machine. Raises UnknownMachineError."""
    try:
        return _CALLS[machine()]
    except KeyError:
        raise UnknownMachineError("recognize bind(2)") from None
