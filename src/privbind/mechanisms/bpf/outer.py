# SPDX-License-Identifier: MIT
"""The launches that this one is inside of: their programs run for its sockets too, so their grants hold as well."""

from __future__ import annotations

import posix

from ...linux import bpf, cgroup
from . import own_cgroup, published

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...linux.cgroup import Cgroup


def grants(parent: Cgroup) -> list[str]:
    """The rules of the launches that this cgroup is inside of, the nearest first.

    Reading them needs CAP_SYS_ADMIN; without it, that there are some is told by the cgroups' names.
    """
    found = []
    above = cgroup.ancestors(parent.fd)
    try:
        for fd in (parent.fd, *above):
            found += [rules for program in bpf.query(fd, published.HOOK)[1] if (rules := _rules(program))]
    except OSError:
        names = parent.path.split("/")
        return ["they cannot be read without CAP_SYS_ADMIN"] * any(map(own_cgroup.is_name, names))
    finally:
        for fd in above:
            posix.close(fd)
    return found


def _rules(program: int) -> str:
    """The rules that a program honours, empty for one that is none of ours."""
    found = published.of_program(program)
    return dict(found[0])["grant"].decode("utf-8", "replace") if found else ""
