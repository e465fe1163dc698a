# SPDX-License-Identifier: MIT
"""Who has which number on this host: users, groups and their members, subordinate uids."""

from __future__ import annotations

import grp
import pwd

from ..errors import PrivbindError, strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    _Key = TypeVar("_Key")
    _Value = TypeVar("_Value")

    Members = tuple[tuple[str, int | None], ...]
    """Login names with their uids; None where nobody knows the name."""

    class Names(Protocol):
        """What is looked up; the host's own is `System`."""

        def user(self, name: str) -> int | None:
            """A user's uid; None where nobody knows the name."""

        def user_name(self, uid: int) -> str | None:
            """The user who has a uid; None where nobody has it."""

        def group(self, name: str) -> int | None:
            """A group's gid; None where nobody knows the name."""

        def group_name(self, gid: int) -> str | None:
            """The group that has a gid; None where none has it."""

        def members(self, gid: int) -> Members:
            """A group's members: those whose primary group it is, and those that it lists."""

        def subids(self, name: str | None, uid: int) -> list[tuple[int, int]]:
            """A user's ranges of subordinate uids, as (first, count)."""


SUBUID = "/etc/subuid"
_MAX_DIGITS = 20


class System:
    """Looks everything up on this host, and remembers it: each thing is asked for once in the life of this object."""

    def __init__(self, subuid: str = SUBUID) -> None:
        """``subuid`` is the file of subordinate uids."""
        self._subuid_file = subuid
        self._uids: dict[str, int | None] = {}
        self._user_names: dict[int, str | None] = {}
        self._gids: dict[str, int | None] = {}
        self._group_names: dict[int, str | None] = {}
        self._by_primary_group: dict[int, list[tuple[str, int]]] | None = None
        self._members: dict[int, Members] = {}
        self._subids: dict[str, list[tuple[int, int]]] | None = None

    def user(self, name: str) -> int | None:
        """As in `Names`."""
        return _remembered(self._uids, name, lambda: pwd.getpwnam(name).pw_uid)

    def user_name(self, uid: int) -> str | None:
        """As in `Names`."""
        return _remembered(self._user_names, uid, lambda: pwd.getpwuid(uid).pw_name)

    def group(self, name: str) -> int | None:
        """As in `Names`."""
        return _remembered(self._gids, name, lambda: grp.getgrnam(name).gr_gid)

    def group_name(self, gid: int) -> str | None:
        """As in `Names`."""
        return _remembered(self._group_names, gid, lambda: grp.getgrgid(gid).gr_name)

    def members(self, gid: int) -> Members:
        """As in `Names`. Primary groups are known only of those users whom the host lists (getpwent(3))."""
        if gid not in self._members:
            found: dict[str, int | None] = dict(self._primary_members().get(gid, ()))
            try:
                listed = grp.getgrgid(gid).gr_mem
            except KeyError:
                listed = []
            for name in listed:
                found.setdefault(name, self.user(name))
            self._members[gid] = tuple(sorted(found.items()))
        return self._members[gid]

    def _primary_members(self) -> dict[int, list[tuple[str, int]]]:
        if self._by_primary_group is None:
            self._by_primary_group = {}
            for user in pwd.getpwall():
                # As getpwnam(3) has it, the first of several entries of one name counts.
                if self._uids.setdefault(user.pw_name, user.pw_uid) == user.pw_uid:
                    self._by_primary_group.setdefault(user.pw_gid, []).append((user.pw_name, user.pw_uid))
        return self._by_primary_group

    def subids(self, name: str | None, uid: int) -> list[tuple[int, int]]:
        """As in `Names`: lines LOGIN:FIRST:COUNT of subuid(5), LOGIN being a name or a uid. Raises PrivbindError."""
        if self._subids is None:
            self._subids = _read_subuid(self._subuid_file)
        return [found for login in dict.fromkeys((name, str(uid))) if login for found in self._subids.get(login, ())]


def _remembered(known: dict[_Key, _Value | None], key: _Key, ask: Callable[[], _Value]) -> _Value | None:
    """What is known, or what is found now; None where nobody knows it."""
    if key not in known:
        try:
            known[key] = ask()
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            known[key] = None
    return known[key]


def _is_number(text: str) -> bool:
    """Whether a text is a number that an id could be; Python refuses to read one of thousands of digits."""
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _read_subuid(path: str) -> dict[str, list[tuple[int, int]]]:
    """All ranges, by what stands before the first colon. Lines that newuidmap(1) ignores are left out."""
    found: dict[str, list[tuple[int, int]]] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                login, *numbers = line.strip().split(":")
                if len(numbers) == 2 and all(map(_is_number, numbers)):
                    first, count = map(int, numbers)
                    if count:
                        found.setdefault(login, []).append((first, count))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PrivbindError(f"cannot read {path}: {strerror(error)}") from error
    return found
