# SPDX-License-Identifier: MIT
"""The holder: whose grant it is."""

from __future__ import annotations

from ..values import value

COMMAND = "command"
CGROUP = "cgroup"


@value
class Holder:
    """Whose grant it is: a launch's command, or whatever is in a cgroup (``kind``).

    Of a command: ``user``, ``uid`` and ``gid`` that it runs as, its ``argv``, and the ``pid`` of its main process in
    its own pid namespace; of a cgroup these are empty and 0. ``since`` is when the grant was made, in seconds since
    1970.
    """

    user: str
    uid: int
    gid: int
    argv: tuple[bytes, ...]
    pid: int
    since: int
    kind: str = COMMAND
