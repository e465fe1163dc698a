# SPDX-License-Identifier: MIT
"""From entries to holders: who, in the numbers that the kernel knows, may bind what. Pure but for the look-ups.

The kernel's hook sees a task's real uid and real gid and nothing else. So a group becomes its gid, for those who have
it as their primary group, and the uids that are its members now. A user may have subordinate uids: those are ranges.
"""

from __future__ import annotations

from ..values import value
from .entries import MAX_ID, GrantFileError, root_refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..grant.policy import Policy, Rule
    from .entries import Entry
    from .names import Names

UID = "uid"
GID = "gid"
UIDS = "uids"
KINDS = (UID, GID, UIDS)
"""Kinds of holders: a real uid, a real gid, a range of subordinate uids."""


@value
class Key:
    """A holder as the kernel knows it: ``count`` numbers from ``first`` on; one, unless the kind is UIDS."""

    kind: str
    first: int
    count: int = 1


@value
class Permission:
    """What one entry lets one holder bind.

    ``source`` is the entry's place, as FILE:LINE; ``group`` the group that the holder has it through, as a name or a
    number in text, "" where the entry names the user.
    """

    policy: Policy
    source: str
    group: str = ""


@value
class Resolved:
    """Who may bind what, sorted, so that the same files and accounts give the same.

    ``names`` has the name of each holder: a user's, a group's, of subordinate uids their user's; "" where nobody has
    the number. ``containers`` are the entries about containers, which are no holders here. ``warnings`` are lines.
    """

    holders: dict[Key, tuple[Permission, ...]]
    names: dict[Key, str]
    containers: tuple[Entry, ...]
    warnings: tuple[str, ...]

    def rules(self) -> dict[Key, tuple[Rule, ...]]:
        """What each holder may bind, each rule once, wherever it comes from."""
        return {
            key: tuple(dict.fromkeys(rule for permission in permissions for rule in permission.policy.rules or ()))
            for key, permissions in self.holders.items()
        }


def resolve(entries: Iterable[Entry], names: Names) -> Resolved:
    """Look up everybody whom the entries name. What is not known is left out, and warned of.

    Raises GrantFileError where a name turns out to be root's.
    """
    ordered = sorted(entries, key=lambda entry: (entry.file, entry.line))
    resolution = _Resolution(names)
    for entry in ordered:
        resolution.add(entry)
    keys = sorted(resolution.holders, key=lambda key: (KINDS.index(key.kind), key.first, key.count))
    return Resolved(
        holders={key: tuple(resolution.holders[key].values()) for key in keys},
        names={key: resolution.key_names[key] for key in keys},
        containers=tuple(entry for entry in ordered if entry.container),
        warnings=tuple(dict.fromkeys(resolution.warnings)),
    )


class _Resolution:
    """What has been found so far: for each holder one permission per entry, however often the entry means it."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.holders: dict[Key, dict[int, Permission]] = {}
        self.key_names: dict[Key, str] = {}
        self.warnings: list[str] = []

    def add(self, entry: Entry) -> None:
        """Everybody whom one entry means: first those whom it names itself."""
        direct = Permission(entry.policy, entry.source)
        for user in entry.users:
            self._add_user(entry, user, direct)
        for group in entry.groups:
            self._add_group(entry, group)

    def _add_user(self, entry: Entry, user: str | int, permission: Permission) -> None:
        if isinstance(user, int):
            uid, name = user, self._names.user_name(user)
            if name is None:
                self._warn(entry, f"no user has the number {uid}: whoever gets it next has this grant")
        else:
            found, name = self._names.user(user), user
            if found is None:
                self._warn(entry, f"unknown user '{user}': left out until a load that finds the name")
                return
            uid = self._checked(entry, "user", user, found)
        self._hold(Key(UID, uid), name, entry, permission)
        if entry.subids and not self._add_subids(entry, name, uid, permission):
            self._warn(entry, f"user {name or uid} has no subordinate uids (usermod --add-subuids gives it some)")

    def _add_group(self, entry: Entry, group: str | int) -> None:
        if isinstance(group, int):
            gid, name = group, self._names.group_name(group)
            if name is None:
                self._warn(entry, f"no group has the number {gid}: whichever gets it next has this grant")
        else:
            found, name = self._names.group(group), group
            if found is None:
                self._warn(entry, f"unknown group '{group}': left out until a load that finds the name")
                return
            gid = self._checked(entry, "group", group, found)
        permission = Permission(entry.policy, entry.source, name or str(gid))
        self._hold(Key(GID, gid), name, entry, permission)
        for member, uid in self._names.members(gid):
            if uid is None:
                self._warn(
                    entry,
                    f"group {name or gid} has an unknown member '{member}': left out until a load that finds the name",
                )
            elif 1 <= uid <= MAX_ID:  # root is left out
                self._hold(Key(UID, uid), member, entry, permission)
                if entry.subids:
                    self._add_subids(entry, member, uid, permission)

    def _add_subids(self, entry: Entry, name: str | None, uid: int, permission: Permission) -> bool:
        """Add a user's subordinate uids; whether there are any."""
        ranges = self._names.subids(name, uid)
        for first, count in ranges:
            last = first + count - 1
            if first < 1 or last > MAX_ID:
                why = "root is among them" if first < 1 else f"a uid is at most {MAX_ID}"
                self._warn(entry, f"subordinate uids {first} to {last} of user {name or uid}: left out, since {why}")
            else:
                self._hold(Key(UIDS, first, count), name, entry, permission)
        return bool(ranges)

    def _hold(self, key: Key, name: str | None, entry: Entry, permission: Permission) -> None:
        self.holders.setdefault(key, {}).setdefault(id(entry), permission)
        self.key_names.setdefault(key, name or "")

    def _checked(self, entry: Entry, key: str, name: str, number: int) -> int:
        """The number of a name, which may be root's under another name, or one that means nothing to the kernel."""
        if number == 0:
            raise GrantFileError(entry.file, root_refused(key, name), entry.line)
        if not 1 <= number <= MAX_ID:
            raise GrantFileError(
                entry.file, f"{key} {name} has the number {number}, not one from 1 to {MAX_ID}", entry.line
            )
        return number

    def _warn(self, entry: Entry, what: str) -> None:
        self.warnings.append(f"{entry.source}: {what}")
