# SPDX-License-Identifier: MIT
"""What the files grant, and what a load would change, as lines for people. Pure."""

from __future__ import annotations

from .resolve import GID, KINDS, UID, UIDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..grant.policy import Policy
    from .resolve import Key, Permission, Resolved

NOTHING = "nothing is granted to anybody"

_HEADINGS = {
    UID: ("user", "users"),
    GID: ("group, for whoever has it as primary group", "groups, for whoever has one of them as primary group"),
    UIDS: ("range of subordinate uids", "ranges of subordinate uids"),
}
_CONTAINERS = ("kind of container", "kinds of containers")


def describe(resolved: Resolved) -> list[str]:
    """Who may bind what and where that is written: a line for each holder, under headings that count them."""
    lines: list[str] = []
    for kind in KINDS:
        keys = [key for key in resolved.holders if key.kind == kind]
        if keys:
            lines.append(_counted(len(keys), _HEADINGS[kind]))
            lines += [f"  {label(key, resolved.names)}: {_permissions(resolved.holders[key])}" for key in keys]
    if resolved.containers:
        lines.append(_counted(len(resolved.containers), _CONTAINERS))
        for entry in resolved.containers:
            wanted = ", ".join(f'{name} = "{text}"' for name, text in entry.container)
            lines.append(f"  {wanted}: {_rules(entry.policy)}  ({_short(entry.source)})")
    return lines or [NOTHING]


def difference(
    old: Mapping[Key, Collection[str]], new: Mapping[Key, Collection[str]], names: Mapping[Key, str]
) -> list[str]:
    """What going from old to new adds (+) and takes away (-), a line for each holder and direction.

    Both map holders to rules in text; ``names`` has the names of those holders that have one.
    """
    lines = []
    for key in sorted({*old, *new}, key=lambda key: (KINDS.index(key.kind), key.first, key.count)):
        before, after = old.get(key, ()), new.get(key, ())
        for sign, here, there in (("-", before, after), ("+", after, before)):
            changed = sorted(set(here) - set(there))
            if changed:
                lines.append(f"{sign} {label(key, names)}: {', '.join(changed)}")
    return lines


def label(key: Key, names: Mapping[Key, str]) -> str:
    """A holder by name and number, as far as there is a name."""
    name = names.get(key, "")
    if key.kind == UIDS:
        numbers = f"uids {key.first}-{key.first + key.count - 1}"
        return f"{numbers} of {name}" if name else numbers
    return f"{name} ({key.kind} {key.first})" if name else f"{key.kind} {key.first}"


def _permissions(permissions: tuple[Permission, ...]) -> str:
    return "; ".join(
        f"{_rules(permission.policy)}  ({_short(permission.source)}"
        + (f", group {permission.group})" if permission.group else ")")
        for permission in permissions
    )


def _rules(policy: Policy) -> str:
    return str(policy).replace(",", ", ")


def _short(source: str) -> str:
    """A place without the folder."""
    return source.rpartition("/")[2]


def _counted(count: int, nouns: tuple[str, str]) -> str:
    return f"{count} {nouns[count != 1]}:"
