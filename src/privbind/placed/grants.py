# SPDX-License-Identifier: MIT
"""Placing a grant on a cgroup, and revoking what is there."""

from __future__ import annotations

from time import time

from ..grant import record
from ..grant.holder import CGROUP, COMMAND, Holder
from ..mechanisms.bpf import features, placement, published
from ..values import replaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..grant.grant import Grant
    from .place import Place

MECHANISM = "bpf"


def grant(place: Place, granted: Grant) -> bool:
    """Put a grant on a cgroup, in the place of one of ours that is there; whether there was one. Raises PrivbindError.

    Sockets made in it before and afterwards are covered. The limit of binds is counted anew.
    """
    features.check_privileges()
    target = place.cgroup
    site = place.site()
    held = placement.ours(target)
    if not held:
        placement.check_above(target, placement.hooks(granted))
    holder = replaced(_launch(held) or Holder("", 0, 0, (), 0, 0, CGROUP), since=int(time()))
    with placement.Loaded(granted, site, record.encode(record.describe(granted, holder, site, MECHANISM))) as loaded:
        if held:
            placement.replace(target, loaded)
        else:
            placement.attach(target, loaded)
    return bool(held)


def _launch(held: dict[int, list[int]]) -> Holder | None:
    """The holder of a launch whose grant is to be changed: it stays that command's."""
    for program in held.get(published.HOOK, ()):
        found = published.of_program(program)
        if found is not None:
            holder = record.holder(found[0])
            return holder if holder.kind == COMMAND else None
    return None


def revoke(place: Place) -> bool:
    """Take our grants off a cgroup; whether there was one. What is bound stays bound. Raises PrivbindError."""
    return placement.detach(place.cgroup) > 0
