# SPDX-License-Identifier: MIT
"""The launches that this one is inside of: their programs run for its sockets too, so their grants hold as well."""

from __future__ import annotations

import posix

from ... import record
from ...linux import bpf, cgroup
from .compiler import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...linux.cgroup import Cgroup

_HOOK = bpf.INET4_BIND


def grants(parent: Cgroup) -> list[str]:
    """The rules of the launches that this cgroup is inside of, the nearest first.

    Reading them needs CAP_SYS_ADMIN; without it, that there are some is told by the cgroups' names.
    """
    found = []
    above = cgroup.ancestors(parent.fd)
    try:
        for fd in (parent.fd, *above):
            found += [rules for program in bpf.query(fd, _HOOK)[1] if (rules := _rules(program))]
    except OSError:
        names = parent.path.split("/")
        return ["they cannot be read without CAP_SYS_ADMIN"] * any(name.startswith(cgroup.PREFIX) for name in names)
    finally:
        for fd in above:
            posix.close(fd)
    return found


def _rules(program: int) -> str:
    """The rules that a program honours, empty for one that is none of ours."""
    fd = bpf.open_program(program)
    try:
        _, name, maps = bpf.program_info(fd)
    finally:
        posix.close(fd)
    if name == NAMES[_HOOK]:
        for number in maps:
            said = _said(number)
            if said:
                return dict(said)["rules"].decode("utf-8", "replace")
    return ""


def _said(number: int) -> list[tuple[str, bytes]]:
    """What a map records, nothing when it is another one."""
    fd = bpf.open_map(number)
    try:
        name, size = bpf.map_info(fd)
        return record.decode(bpf.read_array(fd, size)) if name == record.NAME else []
    finally:
        posix.close(fd)
