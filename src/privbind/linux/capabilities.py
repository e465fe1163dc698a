# SPDX-License-Identifier: MIT
"""capabilities(7): the three sets of a process, as bit masks (bit N: capability N of linux/capability.h)."""

from __future__ import annotations

from _struct import Struct

from .call import syscall

CAP_DAC_READ_SEARCH = 2
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_BPF = 39  # 5.8
LAST_POSSIBLE = 63  # the sets have 64 bits, however many the kernel uses

FOR_FILES = (0, 1, CAP_DAC_READ_SEARCH, 3, 4, 9, 27, 32)
"""Those that setfsuid(2) takes out of effect: CAP_CHOWN, CAP_DAC_OVERRIDE … (CAP_FS_SET, linux/capability.h)."""

NAMES = {
    CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
    CAP_SETGID: "CAP_SETGID",
    CAP_SETUID: "CAP_SETUID",
    CAP_SETPCAP: "CAP_SETPCAP",
    CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE",
    CAP_NET_ADMIN: "CAP_NET_ADMIN",
    CAP_SYS_PTRACE: "CAP_SYS_PTRACE",
    CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
    CAP_BPF: "CAP_BPF",
}

_VERSION_3 = 0x20080522  # linux/capability.h, 2.6.26
_HEADER = Struct("=Ii")  # version, pid (0: the caller)
_DATA = Struct("=6I")  # effective, permitted, inheritable; low words, then high words


def mask(*capabilities: int) -> int:
    """The set that holds just these."""
    return sum(1 << capability for capability in set(capabilities))


def get() -> tuple[int, int, int]:
    """The permitted, effective and inheritable sets of the calling thread."""
    data = bytearray(_DATA.size)
    syscall("capget", bytearray(_HEADER.pack(_VERSION_3, 0)), data)
    low_e, low_p, low_i, high_e, high_p, high_i = _DATA.unpack(data)
    return low_p | high_p << 32, low_e | high_e << 32, low_i | high_i << 32


def put(permitted: int, effective: int, inheritable: int) -> None:
    """Set all three sets of the calling thread. Raises OSError (EPERM) for what it may not add."""
    low = 0xFFFFFFFF
    data = _DATA.pack(
        effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    syscall("capset", bytearray(_HEADER.pack(_VERSION_3, 0)), bytearray(data))


def effective(capability: int) -> bool:
    """Whether the calling thread can use a capability now."""
    return bool(get()[1] >> capability & 1)
