# SPDX-License-Identifier: MIT
"""ambient: the command gets the capability itself, as an ambient one that its children keep.

For hosts that offer nothing else and for requests without policy or limit. Wider than the other mechanisms: the
command, its children and whoever takes one of them over can bind every reserved port, in every network namespace of
this user namespace, for as long as they live.
"""

from __future__ import annotations

from ..account import missing_capabilities
from ..errors import PrivbindError, UnsupportedError, strerror
from ..linux import capabilities, prctl, sockets
from ..linux.capabilities import CAP_NET_BIND_SERVICE
from . import Prepared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..request import Request

NAME = "ambient"


def probe(request: Request) -> None:
    """Raise UnsupportedError for a request that is narrower than the capability, or where it cannot be handed on."""
    grant = request.grant
    if grant.policy.rules is not None:
        raise _refusal("the capability opens every reserved port, which is more than the policy grants")
    if grant.limit:
        raise _refusal("the capability cannot be counted, so -n cannot be kept")
    if grant.reuse_ports:
        raise _refusal("the command binds by itself, so -r cannot set SO_REUSEPORT")
    program = request.program
    if program.gains and not request.no_new_privileges:
        image = program.image.decode("utf-8", "backslashreplace")
        raise _refusal(f"'{image}': {program.gains}, and executing it clears ambient capabilities")
    if missing_capabilities((CAP_NET_BIND_SERVICE,)) or not prctl.in_bounding_set(CAP_NET_BIND_SERVICE):
        raise _refusal("CAP_NET_BIND_SERVICE is missing", "run as root, or add that capability")
    if prctl.securebits() & prctl.SECBIT_NO_CAP_AMBIENT_RAISE:
        raise _refusal("the securebits forbid ambient capabilities")
    question = sockets.bound_probe()
    try:
        if not sockets.may_bind_reserved(question, request.port_start - 1):
            raise _refusal("this network namespace belongs to another user namespace, whose root alone may bind its ports")
    finally:
        question.close()


def _refusal(reason: str, remedy: str = "") -> UnsupportedError:
    return UnsupportedError(NAME, reason, remedy)


def prepare(request: Request) -> Prepared:
    """Nothing has to be made ready."""
    del request
    return _Ambient()


class _Ambient(Prepared):
    keep = (CAP_NET_BIND_SERVICE,)
    notes = (
        "the command holds CAP_NET_BIND_SERVICE itself: it and its children can bind every reserved port, "
        "which is wider than the other mechanisms",
    )

    def seal(self) -> None:
        """Make the capability ambient, so that it survives exec."""
        kept = capabilities.mask(*self.keep)
        try:
            capabilities.put(kept, kept, kept)
            prctl.raise_ambient(CAP_NET_BIND_SERVICE)
        except OSError as error:
            raise PrivbindError(f"cannot make CAP_NET_BIND_SERVICE ambient: {strerror(error)}") from error
