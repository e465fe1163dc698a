# SPDX-License-Identifier: MIT
"""What the helper does about one bind: decide, count, set SO_REUSEPORT, bind. `channel` and `supervisor` use it."""

from __future__ import annotations

from errno import EACCES

from ..grant.counters import BOUND, GRANTED, REFUSED
from ..grant.decision import REFUSALS, decide
from ..linux.sockets import MAX_ADDRESS
from ..linux.target import Binder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from ..grant.decision import Allow, Deny, Share
    from ..grant.grant import Grant
    from ..grant.site import Site
    from ..linux.target import Socket


class Executor:
    """Carries out decisions for one grant at one site. ``counters`` are a `Ledger`'s."""

    def __init__(self, grant: Grant, site: Site, counters: MutableSequence[int]) -> None:
        """Nothing is done yet."""
        self.site = site
        self.grant = grant
        self.shares = any(ports.high >= site.port_start for ports in grant.reuse_ports)
        """Whether there can be a `Share`, which is possible even when the limit is used up."""
        self._counters = counters
        self._binder = Binder(MAX_ADDRESS)

    @property
    def exhausted(self) -> bool:
        """Whether the limit of binds is used up."""
        return 0 < self.grant.limit <= self._counters[BOUND]

    def decide(self, target: Socket, address: bytes) -> Allow | Share | Deny:
        """Decide whether to bind a socket to this struct sockaddr, and count a refusal. Raises OSError."""
        decision = decide(self.grant, self.site, target.describe(), address, self._counters[BOUND])
        if decision in REFUSALS:
            self._counters[REFUSED] += 1
        return decision

    def bind(self, target: Socket, address: bytes, port: int) -> int:
        """Bind as was allowed, and count it: 0, or the errno that bind(2) gave."""
        self._counters[GRANTED] += 1
        try:
            if self.grant.reuses(port):
                target.reuse_port()
            self._binder.bind(target.fileno(), address)
        except OSError as error:
            return error.errno or EACCES
        self._counters[BOUND] += 1
        return 0
