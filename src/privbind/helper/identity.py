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

_CANDIDATES = range(65534, 60577, -1)
"""From "nobody" down, as far as no system gives ids to people (systemd's UIDS-GIDS.md)."""


def take(account: Account, keep: tuple[int, ...]) -> None:
    """Become a uid and a gid that are free, with no groups. Needs CAP_SETUID, CAP_SETGID, and "keep capabilities" set.

    ``keep`` are the capabilities that are permitted and effective afterwards, no others. Raises PrivbindError when
    no id is free.
    """
    posix.setgroups(())
    groups = {account.gid, *account.groups}
    if not any(gid not in groups and _set_gid(gid) for gid in _CANDIDATES):
        raise PrivbindError("no gid is free for the helper (the user namespace maps none from 65534 down)")
    # Until the uid is settled, another one may have to be taken.
    trying = capabilities.mask(capabilities.CAP_SETUID, *keep)
    taken = {account.uid}
    for uid in _CANDIDATES:
        if uid in taken or not _set_uid(uid):
            continue
        capabilities.put(trying, trying, 0)
        # Looked at from the candidate's side, so that of two helpers that try the same one at least one sees the other.
        taken |= _uids_in_use(but=_self())
        if uid not in taken:
            kept = capabilities.mask(*keep)
            capabilities.put(kept, kept, 0)
            return
    raise PrivbindError("no uid is free for the helper (the user namespace maps none from 65534 down that is unused)")


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


def _uids_in_use(but: str) -> set[int]:
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
