# SPDX-License-Identifier: MIT
"""What a launch was asked for, resolved and checked: nothing in it has to be looked up again."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .account import Account
    from .command import Program
    from .policy import Grant

AUTO = "auto"


class Request:
    """One launch.

    ``argv`` is the command as given, ``program`` the file that it means; ``via`` a mechanism's name or "auto";
    ``environment`` the caller's, entry by entry; ``port_start`` the first port that is not reserved in the network
    namespace of the launch; ``library`` the shim named by ``-l``, or None for privbind's own.
    """

    def __init__(
        self,
        *,
        account: Account,
        grant: Grant,
        argv: list[bytes],
        program: Program,
        environment: list[bytes],
        port_start: int,
        via: str = AUTO,
        library: bytes | None = None,
        no_new_privileges: bool = False,
    ) -> None:
        """Keep what was asked for."""
        self.account = account
        self.grant = grant
        self.argv = argv
        self.program = program
        self.environment = environment
        self.port_start = port_start
        self.via = via
        self.library = library
        self.no_new_privileges = no_new_privileges
