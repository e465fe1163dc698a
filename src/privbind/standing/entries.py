# SPDX-License-Identifier: MIT
"""What a file of grants says: TOML in, entries out, or one line about what is wrong and where. Pure.

Names of users and groups stay as they were written (`resolve` looks them up); only services become ports here.
"""

from __future__ import annotations

import re
import tomllib
from _socket import getservbyname

from ..errors import PrivbindError
from ..grant.policy import MAX_U32, Policy, parse_rule
from ..values import value
from .annotations import KNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..grant.policy import Rule, Services

    ReadRule = Callable[[str], tuple[Rule, ...]]

MAX_ID = MAX_U32 - 1
"""The largest uid and gid: the number above it means "no change" to the kernel."""

_GRANT = "grant"
_KEYS = ("user", "group", "allow", "subids", "container")
_BESIDE_CONTAINER = ("user", "group", "subids")
_MEANT = {
    "users": "user",
    "uid": "user",
    "groups": "group",
    "gid": "group",
    "rule": "allow",
    "rules": "allow",
    "port": "allow",
    "ports": "allow",
    "subuid": "subids",
    "subuids": "subids",
    "subid": "subids",
    "containers": "container",
}
"""Keys that people write, and the right ones."""

# Strings and comments of TOML: what is in them is no header, even where it looks like one. A string in three quotes
# may end in up to two more of them, which belong to it.
_OPAQUE = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*",
    re.DOTALL,
)
_HEADER = re.compile(r"[ \t]*\[\[[ \t]*grant[ \t]*\]\]")


class GrantFileError(PrivbindError):
    """A file of grants, or their folder, that cannot be used. No grant changes because of it."""

    def __init__(self, file: str, what: str, line: int = 0) -> None:
        """Say where: ``line`` 0 stands for the whole file."""
        super().__init__(f"{_place(file, line)}: {what}")


class _EntryError(ValueError):
    """What is wrong in one entry, as PolicyError is for one rule."""


@value
class Entry:
    """One ``[[grant]]``: who may bind what.

    ``users`` and ``groups`` are names and numbers as written. ``subids`` says that the users' subordinate uids are
    meant, too. ``container`` holds what is asked of a container, as sorted pairs; where there are any, there are no
    users and groups. ``line`` is that of the entry's header, 0 where it is not known.
    """

    file: str
    line: int
    users: tuple[str | int, ...]
    groups: tuple[str | int, ...]
    container: tuple[tuple[str, str], ...]
    policy: Policy
    subids: bool

    @property
    def source(self) -> str:
        """Where the entry stands, as FILE:LINE."""
        return _place(self.file, self.line)


def _place(file: str, line: int) -> str:
    return f"{file}:{line}" if line else file


def parse(data: bytes, file: str, services: Services = getservbyname) -> tuple[Entry, ...]:
    """The entries of one file, in their order. ``file`` is its name, for messages. Raises GrantFileError."""
    text = _decode(data, file)
    document = _load(text, file)
    plain = _OPAQUE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for key in document:
        if key != _GRANT:
            raise GrantFileError(file, f"unknown key '{key}' (a grant begins with [[grant]])", _line_of_key(plain, key))
    tables = document.get(_GRANT, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise GrantFileError(
            file, "'grant' is not a list of tables (a grant begins with [[grant]])", _line_of_key(plain, _GRANT)
        )
    lines = [number for number, line in enumerate(plain.split("\n"), 1) if _HEADER.match(line)]
    if len(lines) != len(tables):  # TOML has other ways to write a list of tables
        lines = [0] * len(tables)
    read_rule = rule_reader(services)
    entries = []
    for index, (table, line) in enumerate(zip(tables, lines, strict=True), 1):
        try:
            entries.append(_entry(table, file, line, read_rule))
        except ValueError as error:
            raise GrantFileError(file, str(error) if line else f"entry {index}: {error}", line) from None
    return tuple(entries)


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GrantFileError(
            file, f"byte 0x{data[error.start]:02x} is not UTF-8 (save the file as UTF-8)", line
        ) from None


def _load(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise GrantFileError(file, "not TOML: nested too deeply (see privbind-grants(5))") from None
    except ValueError as error:  # TOMLDecodeError, or int() at a number of thousands of digits
        reason, _, place = str(error).removesuffix(")").rpartition(" (at ")
        line = 0
        if place == "end of document":
            line = text.rstrip("\n").count("\n") + 1
        elif place.startswith("line "):
            number, _, column = place.removeprefix("line ").partition(", ")
            line, reason = int(number), f"{reason} at {column}"
        raise GrantFileError(file, f"not TOML: {reason or error} (see privbind-grants(5))", line) from None


def _line_of_key(plain: str, key: str) -> int:
    """The first line that sets a key or opens a table of that name; 0 where none is found (a key may be quoted)."""
    found = re.search(rf"^[ \t]*(?:\[\[?[ \t]*)?{re.escape(key)}[ \t]*[\].=]", plain, re.MULTILINE)
    return plain.count("\n", 0, found.start()) + 1 if found else 0


def rule_reader(services: Services) -> ReadRule:
    """A function that reads a rule; each text once, since a thousand entries share a few dozen rules."""
    known: dict[str, tuple[Rule, ...]] = {}

    def read(text: str) -> tuple[Rule, ...]:
        if text not in known:
            known[text] = tuple(rule for item in text.split(",") for rule in parse_rule(item, services))
        return known[text]

    return read


def _entry(table: dict[str, Any], file: str, line: int, read_rule: ReadRule) -> Entry:
    """Check one table. Raises ValueError with the reason."""
    for key in table:
        if key not in _KEYS:
            hint = f"did you mean {_MEANT[key]}?" if key in _MEANT else f"known are {', '.join(_KEYS)}"
            raise _EntryError(f"unknown key '{key}' ({hint})")
    users = _holders(table.get("user", []), "user", "uid")
    groups = _holders(table.get("group", []), "group", "gid")
    container: tuple[tuple[str, str], ...] = ()
    if "container" in table:
        for key in _BESIDE_CONTAINER:
            if key in table:
                raise _EntryError(f"{key} and container cannot stand together (write two grants)")
        container = _container(table["container"])
    elif not users and not groups:
        raise _EntryError("it is nobody's grant (say whose: user or group, or container)")
    subids = table.get("subids", False)
    if not isinstance(subids, bool):
        raise _EntryError(f"subids: {_kind(subids)} is neither true nor false (write subids = true, or leave it out)")
    return Entry(file, line, users, groups, container, _policy(table.get("allow"), read_rule), subids)


def _holders(found: object, key: str, number: str) -> tuple[str | int, ...]:
    """Names and numbers, each once."""
    items = found if isinstance(found, list) else [found]
    return tuple(dict.fromkeys(_holder(item, key, number) for item in items))


def _holder(found: object, key: str, number: str) -> str | int:
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise _EntryError(f'{key}: {_kind(found)} is neither a name nor a {number} (write {key} = "NAME" or a number)')
    if found in ("root", 0):
        raise _EntryError(root_refused(key, found))
    if isinstance(found, int):
        if not 1 <= found <= MAX_ID:
            raise _EntryError(f"{key}: {found} is not a {number} from 1 to {MAX_ID}")
    elif not found:
        raise _EntryError(f'{key}: a name is empty (write {key} = "NAME" or a number)')
    elif found.isascii() and found.isdigit():
        raise _EntryError(f'{key}: "{found}" would be a name (a {number} is written without quotes: {found})')
    return found


def root_refused(key: str, name: str | int) -> str:
    """Why root, or group 0, is no holder, whatever it was called."""
    if key == "user":
        who = "root" if name in ("root", 0) else f"{name} is root's uid 0 by another name, and"
        return f"user: {who} may bind every port without a grant (name the user that the server runs as)"
    who = "group 0" if name in ("root", 0) else f"{name} is group 0 by another name, which"
    return f"group: {who} cannot hold a grant (name another group, or the users)"


def _container(found: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(found, dict) or not found:
        what = "an empty table" if found == {} else _kind(found)
        raise _EntryError(f'container: {what} names no container (write container = {{ "ANNOTATION" = "VALUE" }})')
    for name, wanted in found.items():
        if not isinstance(wanted, str):
            hint = "a name with dots needs quotes" if isinstance(wanted, dict) else "write it in quotes"
            raise _EntryError(f"container: the value of '{name}' is {_kind(wanted)}, not text ({hint})")
        if name not in KNOWN:
            raise _EntryError(
                f"container: no runtime sets '{name}' itself, so an image or a pod could (known are {', '.join(KNOWN)})"
            )
    return tuple(sorted(found.items()))


def _policy(found: object, read_rule: ReadRule) -> Policy:
    if found is None or found == []:
        raise _EntryError('allow is missing or empty (say what may be bound, as in allow = "tcp:80")')
    rules: list[Rule] = []
    for text in found if isinstance(found, list) else [found]:
        if not isinstance(text, str):
            raise _EntryError(f'allow: {_kind(text)} is not a rule (write rules in quotes, as in allow = "tcp:80")')
        rules += read_rule(text)
    return Policy(rules)


def _kind(found: object) -> str:
    """What a TOML value is, in words."""
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, (int, float)):
        return f"the number {found}"
    words = ((str, "text"), (list, "a list"), (dict, "a table"))
    return next((word for kind, word in words if isinstance(found, kind)), "a date or time")
