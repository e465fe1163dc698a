# SPDX-License-Identifier: MIT
"""The holder: whose grant it is."""

from __future__ import annotations

from ..values import value


@value
class Holder:
    """Whose grant it is: a user by name and ids, and the command that a launch made it for.

    ``argv`` is the command's; ``pid`` that of its main process in its own pid namespace; ``since`` is when the grant
    was made, in seconds since 1970.
    """

    user: str
    uid: int
    gid: int
    argv: tuple[bytes, ...]
    pid: int
    since: int
