# SPDX-License-Identifier: MIT
r"""A grant's record: the text that describes it, kept in memory as long as the grant, so no file is needed. Pure.

Under bpf it is in a frozen map beside the programs, under preload and seccomp in a memory file of the helper's. Either
is called `NAME`.

The first line is `MAGIC`, then comes a line ``NAME VALUE`` for each thing said. In a value, a backslash stands as
``\\`` and a line break as ``\n``; all else, the command's arguments above all, is there to the byte.
"""

from __future__ import annotations

from .holder import Holder
from .policy import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .grant import Grant
    from .site import Site

NAME = "privbind_grant"
"""What the kernel's object that holds a record is called, at most 15 bytes."""
MAGIC = b"privbind grant 1"

_LATEST = 1 << 40  # a time that can still be shown
_MAX_ARGUMENTS = 4096  # bytes of the command line that are kept


def describe(grant: Grant, holder: Holder, site: Site, mechanism: str) -> list[tuple[str, bytes]]:
    """What a grant says of itself.

    ``argument`` comes once for each argument of the holder's command; ``cut`` says how many do not fit.
    """
    said = [
        ("mechanism", mechanism),
        ("grant", str(grant)),
        ("holder", holder.kind),
        ("user", holder.user),
        ("uid", str(holder.uid)),
        ("gid", str(holder.gid)),
        ("pid", str(holder.pid)),
        ("since", str(holder.since)),
        ("reserved-below", str(site.port_start)),
        ("netns", str(site.netns)),
    ]
    found = [(name, value.encode("utf-8", "surrogateescape")) for name, value in said]
    room = _MAX_ARGUMENTS
    for place, argument in enumerate(holder.argv):
        room -= len(argument)
        if room < 0:
            found.append(("cut", b"%d" % (len(holder.argv) - place)))
            break
        found.append(("argument", argument))
    return found


def holder(said: Iterable[tuple[str, bytes]]) -> Holder:
    """Whose grant a record says it is. Raises ValueError for a record that lacks something or makes no sense."""
    said = tuple(said)
    values = {name: value.decode("utf-8", "surrogateescape") for name, value in said}
    try:
        uid, gid, pid, since = (number(values[name], 0, _LATEST, name) for name in ("uid", "gid", "pid", "since"))
        argv = tuple(value for name, value in said if name == "argument")
        return Holder(values["user"], uid, gid, argv, pid, since, values["holder"])
    except KeyError as error:
        raise ValueError(f"the record lacks {error}") from None


def encode(said: Iterable[tuple[str, bytes]]) -> bytes:
    """The text of a record."""
    lines = [MAGIC]
    for name, value in said:
        lines.append(name.encode() + b" " + value.replace(b"\\", b"\\\\").replace(b"\n", b"\\n"))
    return b"\n".join(lines) + b"\n"


def decode(text: bytes) -> list[tuple[str, bytes]]:
    """What a record says. Raises ValueError for bytes that are no record."""
    first, *lines = text.split(b"\n")
    if first != MAGIC or lines[-1:] != [b""]:
        raise ValueError("not a record of a grant")
    found = []
    for line in lines[:-1]:
        name, _, value = line.partition(b" ")
        # Two backslashes first, since they may stand before an n.
        parts = [part.replace(b"\\n", b"\n") for part in value.split(b"\\\\")]
        found.append((name.decode(), b"\\".join(parts)))
    return found
