# SPDX-License-Identifier: MIT
"""What several mechanisms need of this process and this host, each found out by doing."""

from __future__ import annotations

from ..account import how_to_get, missing_capabilities
from ..errors import UnsupportedError
from ..linux import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..grant.site import Site


def capabilities(mechanism: str, needed: tuple[int, ...]) -> None:
    """Raise UnsupportedError, naming those of the capabilities that are missing."""
    missing = missing_capabilities(needed)
    if missing:
        raise lacking(mechanism, missing)


def lacking(mechanism: str, missing: list[str]) -> UnsupportedError:
    """The error that says which capabilities a mechanism needs that are not there, and how to get them."""
    verb = "is" if len(missing) == 1 else "are"
    reason = f"{' and '.join(missing)} {verb} missing"
    return UnsupportedError(mechanism, reason, how_to_get(missing), tuple(missing))


def netns_cookie(mechanism: str, site: Site) -> None:
    """Raise UnsupportedError where sockets cannot be told apart by network namespace."""
    if not site.netns:
        raise UnsupportedError(mechanism, "the kernel has no SO_NETNS_COOKIE", "Linux 5.14 has it")


def bind_privilege(mechanism: str, site: Site) -> None:
    """Raise UnsupportedError where CAP_NET_BIND_SERVICE counts for nothing: over another owner's network namespace."""
    question = sockets.bound_probe()
    try:
        if sockets.may_bind_reserved(question, site.port_start - 1):
            return
    finally:
        question.close()
    raise UnsupportedError(
        mechanism, "this network namespace belongs to another user namespace, whose root alone may bind its ports"
    )
