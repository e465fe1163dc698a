# SPDX-License-Identifier: MIT
"""What the kernel's table keeps for people: each holder's name, and which entry of which file grants what. Pure."""

from __future__ import annotations

import json
import zlib

from ..errors import PrivbindError
from ..grant.policy import MAX_U32
from ..values import value
from .resolve import KINDS, Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .resolve import Resolved

_MAX_SIZE = 1 << 26  # bytes, unpacked: far more than a table that fits takes


class TextError(PrivbindError, ValueError):
    """What the kernel's table keeps is no text of ours."""


@value
class Granted:
    """What one holder was granted: its name ("" for none), and for each entry the rules in text and its place."""

    name: str
    entries: tuple[tuple[tuple[str, ...], str], ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """All rules, each once."""
        return tuple(dict.fromkeys(rule for rules, _ in self.entries for rule in rules))

    @property
    def sources(self) -> tuple[str, ...]:
        """The places of all entries."""
        return tuple(dict.fromkeys(source for _, source in self.entries))


def describe(resolved: Resolved) -> dict[Key, Granted]:
    """What the files grant, as far as users and groups go."""
    return {
        key: Granted(
            resolved.names[key],
            tuple((tuple(map(str, permission.policy.rules or ())), permission.source) for permission in permissions),
        )
        for key, permissions in resolved.holders.items()
    }


def encode(granted: dict[Key, Granted]) -> bytes:
    """The text for the table; equal grants from equal places have equal texts."""
    rows = [[key.kind, key.first, key.count, found.name, found.entries] for key, found in granted.items()]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode())


def decode(text: bytes) -> dict[Key, Granted]:
    """The inverse of `encode`. Raises TextError for what is no such text: whoever may load programs can write one."""
    try:
        rows = json.loads(zlib.decompressobj().decompress(text, _MAX_SIZE))
        return dict(map(_row, _list(rows)))
    except (zlib.error, RecursionError, ValueError) as error:
        raise TextError(f"not a text of standing grants: {error}") from None


def _row(row: object) -> tuple[Key, Granted]:
    kind, first, count, name, entries = _list(row)
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    for number in (first, count):
        if type(number) is not int or not 0 <= number <= MAX_U32:
            raise ValueError(f"{number!r} is no number of 32 bits")
    held = tuple((tuple(map(_text, _list(rules))), _text(source)) for rules, source in map(_list, _list(entries)))
    return Key(kind, first, count), Granted(_text(name), held)


def _list(found: object) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError(f"{found!r} is no list")  # noqa: TRY004  # all that is wrong with a text is a ValueError
    return found


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise ValueError(f"{found!r} is no text")  # noqa: TRY004
    return found
