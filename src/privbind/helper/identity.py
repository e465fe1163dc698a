# SPDX-License-Identifier: MIT
"""Who the helper runs as: ids that are neither root's nor the command's, and that nothing else uses.

A process of the same uid could kill or trace the helper, so each helper looks for a uid of its own.
"""

from __future__ import annotations

import posix

from ..errors import PrivbindError
from ..linux import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..account import Account

_HIGHEST = 65534  # "nobody" to most systems, the overflow id to the kernel
_LOWEST = 60578  # down to here no system assigns ids to people (systemd's UIDS-GIDS.md: 60578 on are for the system)


def take(account: Account, keep: tuple[int, ...]) -> None:
    """Become a uid and a gid that are free, with no groups. Needs CAP_SETUID, CAP_SETGID, and "keep capabilities" set.

    ``keep`` are the capabilities that are permitted and effective afterwards, no others. Raises PrivbindError when
    no id is free.
    """
    posix.setgroups(())
    # Afterwards this process may look for another uid if somebody took the same one meanwhile.
    trying = capabilities.mask(capabilities.CAP_SETUID, *keep)
    gid = next((gid for gid in _candidates({account.gid, *account.groups}) if _set_gid(gid)), None)
    if gid is None:
        raise PrivbindError("no gid is free for the helper (the user namespace maps none from 65534 down)")
    for uid in _candidates({account.uid, *_uids_in_use()}):
        if not _set_uid(uid):
            continue
        capabilities.put(trying, trying, 0)
        # Two helpers that start at once may have chosen the same: whoever sees the other goes on to the next.
        if uid not in _uids_in_use(but=_self()):
            kept = capabilities.mask(*keep)
            capabilities.put(kept, kept, 0)
            return
    raise PrivbindError("no uid is free for the helper (the user namespace maps none from 65534 down that is unused)")


def _candidates(taken: set[int]) -> list[int]:
    return [number for number in range(_HIGHEST, _LOWEST - 1, -1) if number not in taken]


def _set_gid(gid: int) -> bool:
    """Take a gid; False when the user namespace does not map it (EINVAL)."""
    try:
        posix.setresgid(gid, gid, gid)
    except OSError:
        return False
    return True


def _set_uid(uid: int) -> bool:
    """Take a uid; False when the user namespace does not map it (EINVAL)."""
    try:
        posix.setresuid(uid, uid, uid)
    except OSError:
        return False
    return True


def _self() -> str:
    """This process's name in /proc, which may be another pid namespace's."""
    try:
        return posix.readlink("/proc/self")
    except OSError:
        return ""


def _uids_in_use(but: str = "") -> set[int]:
    """The effective uids of all processes that can be seen: the owners of their folders in /proc (proc(5))."""
    found: set[int] = set()
    try:
        names = posix.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if name.isdigit() and name != but:
            try:
                found.add(posix.stat("/proc/" + name).st_uid)
            except OSError:
                continue
    return found
