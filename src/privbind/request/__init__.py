# SPDX-License-Identifier: MIT
"""What a launch was asked for, resolved and checked: nothing in it has to be looked up again."""

from __future__ import annotations

from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..account import Account
    from ..grant.grant import Grant
    from ..grant.site import Site
    from .program import Program

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")
"""All mechanisms, in the order in which auto tries them."""

AUTO = "auto"


@value
class Command:
    """What is started, and as whom.

    ``argv`` is the command as given, ``program`` the file that it means; ``library`` the shim named by ``-l``, or None
    for privbind's own.
    """

    account: Account
    argv: tuple[bytes, ...]
    program: Program
    library: bytes | None = None
    no_new_privileges: bool = False


@value
class Request:
    """One launch.

    ``site`` is where the launch is; ``environment`` the caller's, entry by entry; ``via`` a mechanism's name or "auto".
    """

    command: Command
    grant: Grant
    site: Site
    environment: tuple[bytes, ...] = ()
    via: str = AUTO
