# SPDX-License-Identifier: MIT
"""How the kernel is made to honour a grant: one module a mechanism, each with the same functions.

``probe`` raises UnsupportedError when this host does not offer the mechanism or when it could not honour the grant
exactly for this command; it finds out by doing and changes nothing that is seen outside. ``prepare`` finds out as
much and returns a `Prepared`; it may fail freely, and then it leaves the host as it was. ``describe`` shows what it
would do.
``CAPABILITIES`` are those that it needs of the launching process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..grant.grant import Grant
    from ..grant.holder import Holder
    from ..grant.site import Site
    from ..request import Command

    class Mechanism(Protocol):
        """What a mechanism's module offers."""

        NAME: str
        CAPABILITIES: tuple[int, ...]

        def probe(self, grant: Grant, site: Site, command: Command) -> None:
            """Raise UnsupportedError when this mechanism cannot honour the grant exactly."""

        def describe(self, grant: Grant, site: Site, command: Command) -> list[str]:
            """What ``--dry-run -vv`` shows of how the grant would be honoured, a line each."""

        def prepare(self, grant: Grant, holder: Holder, site: Site, command: Command) -> Prepared:
            """Make ready, as root; raise what `probe` raises, or PrivbindError, and leave nothing behind then."""


class Prepared:
    """A mechanism made ready for one launch. This one does nothing: a mechanism overrides what it needs."""

    keep: tuple[int, ...] = ()
    """Capabilities that stay permitted while the account is taken."""

    notes: tuple[str, ...] = ()
    """What ``-v`` tells of it, a line each."""

    def enter(self) -> None:
        """Do the last step that needs privilege, right before the account is taken."""

    def seal(self) -> None:
        """Do the last step of all, as the account, right before exec."""

    def environment(self, entries: list[bytes]) -> list[bytes]:
        """Make the command's environment of the caller's: entries ``NAME=value``, as execve(2) takes them."""
        return entries

    def cancel(self) -> None:
        """Undo what was prepared, since the launch failed."""

    def release(self) -> None:
        """Let go of what only `cancel` needs. Called where no exec does that, because the process lives on."""


def load(name: str) -> Mechanism:
    """Import one of the mechanisms (`request.MECHANISMS`): only the one that a launch uses is loaded."""
    module: Mechanism = __import__(name, globals(), None, ("probe", "prepare"), 1)
    return module
