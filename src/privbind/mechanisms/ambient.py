# SPDX-License-Identifier: MIT
"""ambient: the command gets the capability itself, as an ambient one that its children keep.

For hosts that offer nothing else and for requests without policy or limit. Wider than the other mechanisms: the
command, its children and whoever takes one of them over can bind every reserved port, in every network namespace of
this user namespace, for as long as they live.
"""

from __future__ import annotations

from ..errors import PrivbindError, UnsupportedError, strerror
from ..linux import capabilities, prctl
from ..linux.capabilities import CAP_NET_BIND_SERVICE
from . import Prepared, needs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..grant.grant import Grant
    from ..grant.holder import Holder
    from ..grant.site import Site
    from ..request import Command

NAME = "ambient"
CAPABILITIES = (CAP_NET_BIND_SERVICE,)


def probe(grant: Grant, site: Site, command: Command) -> None:
    """Raise UnsupportedError for a grant that is narrower than the capability, or where it cannot be handed on."""
    if grant.policy.rules is not None:
        raise _refusal(
            "the capability opens every reserved port, which is more than the policy grants", "leave out --allow"
        )
    if grant.limit:
        raise _refusal("the capability cannot be counted, so -n cannot be kept", "leave out -n")
    if grant.reuse_ports:
        raise _refusal("the command binds by itself, so -r cannot set SO_REUSEPORT", "leave out -r")
    program = command.program
    if gained := program.gained(no_new_privileges=command.no_new_privileges):
        image = program.image.decode("utf-8", "backslashreplace")
        raise _refusal(f"'{image}': {gained}, and executing it clears ambient capabilities")
    needs.capabilities(NAME, CAPABILITIES)
    if not prctl.in_bounding_set(CAP_NET_BIND_SERVICE):
        raise _refusal("CAP_NET_BIND_SERVICE is missing in the bounding set")
    if prctl.securebits() & prctl.SECBIT_NO_CAP_AMBIENT_RAISE:
        raise _refusal("the securebits forbid ambient capabilities")
    needs.bind_privilege(NAME, site)


def _refusal(reason: str, remedy: str = "") -> UnsupportedError:
    return UnsupportedError(NAME, reason, remedy)


def describe(grant: Grant, site: Site, command: Command) -> list[str]:
    """What the command would get."""
    del grant, site, command
    return list(_Ambient.notes)


def prepare(grant: Grant, holder: Holder, site: Site, command: Command) -> Prepared:
    """Nothing has to be made ready."""
    del holder
    probe(grant, site, command)
    return _Ambient()


class _Ambient(Prepared):
    keep = CAPABILITIES
    notes = (
        "wider than the other mechanisms: the command and its children hold CAP_NET_BIND_SERVICE themselves",
        "so they can bind every reserved port",
    )

    def seal(self) -> None:
        """Make the capability ambient, so that it survives exec."""
        kept = capabilities.mask(*self.keep)
        try:
            capabilities.put(kept, kept, kept)
            prctl.raise_ambient(CAP_NET_BIND_SERVICE)
        except OSError as error:
            raise PrivbindError(f"cannot make CAP_NET_BIND_SERVICE ambient: {strerror(error)}") from error
