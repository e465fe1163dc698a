# SPDX-License-Identifier: MIT
"""prctl(2): what a process says about itself. Constants from linux/prctl.h and linux/securebits.h."""

from __future__ import annotations

from errno import EINVAL

from .call import prepare, syscall
from .capabilities import LAST_POSSIBLE

_SET_DUMPABLE = 4
_GET_KEEPCAPS = 7
_SET_KEEPCAPS = 8  # 2.2.18
_SET_NAME = 15
_CAPBSET_READ = 23
_CAPBSET_DROP = 24  # 2.6.25
_GET_SECUREBITS = 27
_SET_SECUREBITS = 28
_SET_NO_NEW_PRIVS = 38  # 3.5
_GET_CHILD_SUBREAPER = 37  # 3.4
_CAP_AMBIENT = 47  # 4.3
_CAP_AMBIENT_RAISE = 2
_CAP_AMBIENT_CLEAR_ALL = 4

SECBIT_NOROOT = 1 << 0
SECBIT_NOROOT_LOCKED = 1 << 1
SECBIT_NO_SETUID_FIXUP = 1 << 2
SECBIT_KEEP_CAPS = 1 << 4
SECBIT_NO_CAP_AMBIENT_RAISE = 1 << 6  # 4.3
SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7


def _prctl(option: int, *args: int | bytes | bytearray) -> int:
    # The kernel refuses some options unless the arguments that they do not use are 0.
    return syscall("prctl", option, *args, *(0,) * (4 - len(args)))


def set_keep_capabilities(keep: bool) -> None:
    """Keep the permitted capabilities when the last of the user ids stops being 0."""
    _prctl(_SET_KEEPCAPS, int(keep))


def set_no_new_privileges() -> None:
    """Give up, for ever and for all descendants, gaining privileges by execve(2)."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def set_not_dumpable() -> None:
    """No core dump, and no ptrace(2) by processes of the same user."""
    _prctl(_SET_DUMPABLE, 0)


def set_name(name: str) -> None:
    """The process's name in ps(1), at most 15 bytes."""
    _prctl(_SET_NAME, name.encode()[:15])


def in_bounding_set(capability: int) -> bool:
    """Whether a capability is in the bounding set. Raises OSError (EINVAL) when the kernel does not know it."""
    return bool(_prctl(_CAPBSET_READ, capability))


def empty_bounding_set() -> None:
    """Drop every capability that the kernel knows. Needs CAP_SETPCAP. Raises OSError."""
    drop = prepare("prctl", _CAPBSET_DROP, None, 0, 0, 0)
    for capability in range(LAST_POSSIBLE + 1):
        try:
            drop(capability)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            return  # the kernel knows no more


def securebits() -> int:
    """The SECBIT_* flags that are set."""
    return _prctl(_GET_SECUREBITS)


def set_securebits(bits: int) -> None:
    """Needs CAP_SETPCAP."""
    _prctl(_SET_SECUREBITS, bits)


def is_child_subreaper() -> bool:
    """Whether orphaned descendants become this process's children (PR_SET_CHILD_SUBREAPER)."""
    result = bytearray(4)
    _prctl(_GET_CHILD_SUBREAPER, result)
    return any(result)


def raise_ambient(capability: int) -> None:
    """Put a capability that is permitted and inheritable into the ambient set."""
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_RAISE, capability)


def clear_ambient() -> None:
    """Empty the ambient set."""
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
