# SPDX-License-Identifier: MIT
r"""How a grant describes itself: the text that the kernel keeps as long as the grant, so that no file has to. Pure.

Under bpf it is in a frozen map beside the programs, under preload and seccomp in memory of the helper's. Either is
called `NAME`.

The first line is `MAGIC`, then comes a line ``NAME VALUE`` for each thing said. In a value, a backslash stands as
``\\`` and a line break as ``\n``; all else, the command's arguments above all, is there to the byte.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .request import Request

NAME = "privbind_grant"
"""What the kernel's object that holds a record is called, at most 15 bytes."""
MAGIC = b"privbind grant 1"

_MAX_ARGUMENTS = 4096  # bytes of the command line that are kept


def describe(request: Request, mechanism: str, version: str, pid: int, started: int) -> list[tuple[str, bytes]]:
    """What a launch says of itself; ``started`` is in seconds since 1970.

    ``argument`` comes once for each argument; ``cut`` says how many do not fit.
    """
    grant = request.grant
    said = [
        ("version", version),
        ("mechanism", mechanism),
        ("user", request.account.name or str(request.account.uid)),
        ("uid", str(request.account.uid)),
        ("gid", str(request.account.gid)),
        ("rules", str(grant.policy)),
        ("limit", str(grant.limit)),
        ("reuse", ",".join(map(str, grant.reuse_ports))),
        ("reserved-below", str(request.port_start)),
        ("pid", str(pid)),
        ("started", str(started)),
    ]
    found = [(name, value.encode("utf-8", "surrogateescape")) for name, value in said]
    room = _MAX_ARGUMENTS
    for number, argument in enumerate(request.argv):
        room -= len(argument)
        if room < 0:
            found.append(("cut", b"%d" % (len(request.argv) - number)))
            break
        found.append(("argument", argument))
    return found


def encode(said: Iterable[tuple[str, bytes]]) -> bytes:
    """The text of a record."""
    lines = [MAGIC]
    for name, value in said:
        lines.append(name.encode() + b" " + value.replace(b"\\", b"\\\\").replace(b"\n", b"\\n"))
    return b"\n".join(lines) + b"\n"


def decode(text: bytes) -> list[tuple[str, bytes]]:
    """What a record says. Raises ValueError for what is none."""
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
