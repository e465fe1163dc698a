# SPDX-License-Identifier: MIT
"""What a grant's programs publish: the record in their frozen map, and their counters. Reading needs CAP_SYS_ADMIN."""

from __future__ import annotations

import posix

from ...grant import counters, record
from ...linux import bpf
from . import compiler

TYPE_CHECKING = False
if TYPE_CHECKING:
    Said = list[tuple[str, bytes]]

HOOK = bpf.INET4_BIND
"""Every grant has a program for this one."""


def of_program(program: int) -> tuple[Said, tuple[int, ...]] | None:
    """The record of a program's grant, and how many binds were granted, refused, and counted for the limit.

    None for a program that is none of ours. Raises OSError, and ValueError for a record that makes no sense.
    """
    fd = bpf.open_program(program)
    try:
        _, name, maps = bpf.program_info(fd)
    finally:
        posix.close(fd)
    values = dict(filter(None, map(_value, maps))) if name == compiler.NAMES[HOOK] else {}
    if record.NAME not in values:
        return None
    counted = values.get(compiler.COUNTERS, bytes(counters.LAYOUT.size))
    return record.decode(values[record.NAME]), counters.LAYOUT.unpack(counted)


def _value(number: int) -> tuple[str, bytes] | None:
    """The name and the value of a map; None for one that is of no interest."""
    fd = bpf.open_map(number)
    try:
        name, size = bpf.map_info(fd)
        return (name, bpf.read_array(fd, size)) if name in (record.NAME, compiler.COUNTERS) else None
    finally:
        posix.close(fd)
