# SPDX-License-Identifier: MIT
"""An entry as TOML, as privbindctl writes it. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def entry_lines(users: Sequence[str | int], groups: Sequence[str | int], rules: Iterable[str]) -> list[str]:
    """One ``[[grant]]``, line by line."""
    lines = ["[[grant]]"]
    for key, holders in (("user", users), ("group", groups)):
        if holders:
            lines.append(f"{key} = {_list(holders) if len(holders) > 1 else _value(holders[0])}")
    lines.append(f"allow = {_list(rules)}")
    return lines


def _list(values: Iterable[str | int]) -> str:
    return f"[{', '.join(map(_value, values))}]"


def _value(value: str | int) -> str:
    return str(value) if isinstance(value, int) else quoted(value)


def quoted(text: str) -> str:
    """Printable text as a basic string of TOML."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def comment(text: str) -> str:
    """Text as one comment, whatever is in it: a line break there would begin a line of TOML."""
    return "# " + "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
