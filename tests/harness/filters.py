"""Seccomp filters as a container manager sets them, before a program is started."""

from __future__ import annotations

from .host import python
from .install import SOURCE

REFUSE = 0x00050001  # SECCOMP_RET_ERRNO with EPERM
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF
NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER

FILTERED = """
import os, sys
sys.path.append(sys.argv[1])
from privbind.linux import call, seccomp
instruction = seccomp._INSTRUCTION.pack
number, action, flags = call.number(sys.argv[2]), int(sys.argv[3], 16), int(sys.argv[4])
code = [instruction(0x20, 0, 0, 0), instruction(0x15, 0, 1, number), instruction(6, 0, 0, action)]
listener = seccomp.install([*code, instruction(6, 0, 0, 0x7FFF0000)], flags)
if flags:
    os.set_inheritable(listener, True)
os.execv(sys.argv[5], sys.argv[5:])
"""


def filtered(call: str, action: int, flags: int = 0) -> list[str]:
    """A container manager's seccomp profile: what happens at a system call."""
    return python(FILTERED, str(SOURCE), call, f"{action:x}", str(flags))
