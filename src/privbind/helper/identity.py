# SPDX-License-Identifier: MIT
"""Who the helper runs as: ids that are neither root's nor the command's, and that nothing else uses.

A process of the same uid could stop, kill or limit the helper. So a number is checked before it is taken, while the
helper is still root, and again afterwards, since two helpers may have checked it at the same moment. Both checks ask
the kernel about one number, so they cost the same on a crowded host, and no process can hide from them (by hidepid or
in a pid namespace).
"""

from __future__ import annotations

import posix

from ..errors import PrivbindError
from ..linux import capabilities, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..account import Account

_RANGES = (range(65533, 65519, -1), range(61183, 60577, -1))
"""The numbers that no system gives to people or services (systemd's UIDS-GIDS.md). Not 65534, which is nobody's."""


def is_helpers(uid: int) -> bool:
    """Whether a uid is one of these numbers, which only root can take."""
    return any(uid in numbers for numbers in _RANGES)


def take(account: Account, keep: tuple[int, ...]) -> None:
    """Become a uid and the gid of the same number, with no groups.

    Needs CAP_SETUID, CAP_SETGID, and "keep capabilities" set. ``keep`` are the capabilities that are permitted and
    effective afterwards, no others. Raises PrivbindError when no number is free.
    """
    process.clear_thread_groups()
    trying = capabilities.mask(capabilities.CAP_SETUID, capabilities.CAP_SETGID, *keep)
    forbidden = {account.uid, account.gid, *account.groups}
    checks = process.can_tell_alone()
    for number in _candidates():
        if number in forbidden or process.user_has_processes(number) or not _become(number):
            continue
        capabilities.put(trying, trying, 0)
        if not checks or process.is_alone():
            kept = capabilities.mask(*keep)
            capabilities.put(kept, kept, 0)
            return
    raise PrivbindError(
        "no number from 65533 to 65520 or from 61183 to 60578 is free as its uid and gid"
        " (the user namespace must map one that nothing uses)"
    )


def _candidates() -> list[int]:
    """All numbers, beginning at a place that differs from helper to helper.

    So helpers seldom check the same number at the same moment, and even beside hundreds of helpers few numbers are
    tried: for a number that is in use, the kernel has to look at all processes.
    """
    numbers = [number for numbers in _RANGES for number in numbers]
    first = posix.getpid() % len(numbers)
    return numbers[first:] + numbers[:first]


def _become(number: int) -> bool:
    """Take a gid and a uid; False when the user namespace does not map them (EINVAL)."""
    try:
        process.set_thread_ids(number, number)
    except OSError:
        return False
    return True
