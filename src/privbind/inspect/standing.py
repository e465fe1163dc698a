# SPDX-License-Identifier: MIT
"""The standing grants on this host: what is in force, and whether the files still say the same."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PrivbindError
from ..standing import files, load, names, resolve, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..standing.resolve import Key
    from ..standing.text import Granted


@dataclass(frozen=True, slots=True)
class Standing:
    """Those at the root of cgroup v2; None stands for what could not be told.

    ``in_force``: whether there are any. ``users`` and ``groups`` are how many have one, ``since`` is in seconds since
    1970. ``changed``: whether the files grant something else. ``reason`` says why a thing is None.
    """

    in_force: bool | None
    users: int | None = None
    groups: int | None = None
    since: int | None = None
    changed: bool | None = None
    reason: str = ""


def look() -> Standing:
    """What is in force on the whole host."""
    try:
        with load.Target.open(None) as target:
            found = load.in_force(target)
        granted = text.decode(found.text) if found else {}
    except PrivbindError as error:
        return Standing(None, reason=str(error))
    reason = ""
    changed: bool | None = None
    try:
        changed = by_files() != granted
    except PrivbindError as error:
        reason = f"the files of grants cannot be loaded: {error}"
    if found is None:
        return Standing(False, changed=changed, reason=reason)
    if not found.complete:
        reason = reason or "they are there for one address family only (privbindctl load)"
    users = sum(key.kind == resolve.UID for key in granted)
    groups = sum(key.kind == resolve.GID for key in granted)
    return Standing(True, users, groups, found.since, changed, reason)


def by_files() -> dict[Key, Granted]:
    """What the files grant by now. Raises PrivbindError."""
    return text.describe(resolve.resolve(files.read(), names.System()))
