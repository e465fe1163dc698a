# SPDX-License-Identifier: MIT
"""Landlock: a process gives up access to files, for good. Constants from linux/landlock.h (5.13).

A process that did so may no longer look into one that did not (ptrace(2) and what is like it), whatever its
capabilities are.
"""

from __future__ import annotations

import posix
from _struct import Struct

from .call import syscall

_READ_FILE = 1 << 2  # LANDLOCK_ACCESS_FS_READ_FILE
_ALL_OF_FIRST_VERSION = (1 << 13) - 1  # LANDLOCK_ACCESS_FS_EXECUTE to _MAKE_SYM
_RULE_PATH_BENEATH = 1
_RULESET = Struct("=Q")  # struct landlock_ruleset_attr: handled_access_fs
_PATH_BENEATH = Struct("=Qi")  # struct landlock_path_beneath_attr: allowed_access, parent_fd


def only_read_below(folder: str) -> bool:
    """Leave this process nothing of the file system but reading files below a folder. Needs no_new_privs.

    False, and nothing is changed, where the kernel has no Landlock. Raises OSError.
    """
    try:
        rules = syscall("landlock_create_ruleset", bytearray(_RULESET.pack(_ALL_OF_FIRST_VERSION)), _RULESET.size, 0)
    except OSError:  # ENOSYS: not built; EOPNOTSUPP: not switched on at boot
        return False
    parent = posix.open(folder, posix.O_PATH | posix.O_CLOEXEC)
    syscall("landlock_add_rule", rules, _RULE_PATH_BENEATH, bytearray(_PATH_BENEATH.pack(_READ_FILE, parent)), 0)
    syscall("landlock_restrict_self", rules, 0)
    posix.close(parent)
    posix.close(rules)
    return True
