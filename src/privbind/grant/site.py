# SPDX-License-Identifier: MIT
"""The site: where a grant holds."""

from __future__ import annotations

from ..values import replaced, value


@value
class Site:
    """Where a grant holds: in a network namespace, and under bpf in a cgroup.

    ``netns`` is the namespace's cookie (SO_NETNS_COOKIE, Linux 5.14), 0 where it is not known; ``port_start`` is the
    first port there that is not reserved. ``cgroup`` is a cgroup's id, 0 for none; ``depth`` counts the cgroups above
    it. Where ``exact`` is false there may be more of them than that.
    """

    netns: int
    port_start: int
    cgroup: int = 0
    depth: int = 0
    exact: bool = True

    def in_cgroup(self, cgroup: int, depth: int, exact: bool) -> Site:
        """The same, in a cgroup."""
        return replaced(self, cgroup=cgroup, depth=depth, exact=exact)
