# SPDX-License-Identifier: MIT
"""What became of each bind, and by which right, found from the events that watch's programs wrote. Pure.

One event says that a thread asks for a bind, another that the same thread has done it. Where the second does not follow
within `DECIDED_AFTER_NS`, the bind counts as not done; one that is done later still (the thread may have been stopped
in between) corrects that.
"""

from __future__ import annotations

from _socket import IPPROTO_TCP, IPPROTO_UDP
from dataclasses import dataclass, field, replace

from ..grant.policy import TCP, UDP, unmapped
from .rights import Asker, Right, lacks, one_bind, why_not
from .watch_program import ASKED, BOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DECIDED_AFTER_NS = 200_000_000
"""How long a bind may take before it counts as not bound."""
_CORRECTED_WITHIN_NS = 600_000_000_000
"""How long after it was asked for a late bind still corrects what was reported."""
_MOST_CORRECTED = 65_536
"""How many can be corrected: some 40 MB. Who binds in a new thread each time would take gigabytes otherwise."""
HELPER = b"privbind-helper"

BOUND_BY_OURS = "bound"
BY_NONE_OF_OURS = "bound-by-none-of-ours"
BY_UNKNOWN = "bound-by-unknown"
REFUSED = "refused"
FAILED = "failed"
NOT_BOUND = "not-bound"
VERDICTS = (BOUND_BY_OURS, BY_NONE_OF_OURS, BY_UNKNOWN, REFUSED, FAILED, NOT_BOUND)
"""bound-by-unknown: the grants could not be seen, so whether one permits it is not known.
failed: there is a right, and it was not bound all the same, so it is probably in use.
not-bound: whether there is a right could not be seen, or events were lost."""

_PROTOCOLS = {IPPROTO_TCP: TCP, IPPROTO_UDP: UDP}
_NEAREST_FIRST = ("limit", "namespace", "user", "address", "protocol", "port")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A bind that was asked for. ``time_ns`` is since boot; ``protocol`` is a number of IPPROTO, ``address`` packed."""

    time_ns: int
    pid: int
    tid: int
    uid: int
    gid: int
    netns: int
    in_first: bool
    cgroup: int
    protocol: int
    address: bytes
    port: int
    name: bytes

    @property
    def asker(self) -> Asker:
        """Who binds, and where."""
        return Asker(self.uid, self.gid, self.netns, self.in_first)


@dataclass(frozen=True, slots=True)
class Done:
    """A bind that was done."""

    time_ns: int
    tid: int
    port: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a bind: ``bound`` None where its end was lost.

    ``by_helper``: a helper did it, and ``command`` is who asked for it, where that was seen. ``number`` counts the
    outcomes; ``corrects`` is the number of the one that this one corrects, 0 for none.
    """

    number: int
    attempt: Attempt
    bound: bool | None
    command: Attempt | None = None
    by_helper: bool = False
    corrects: int = 0


def parse(data: bytes) -> Attempt | Done:
    """A record of the ring."""
    if len(data) == BOUND.size:
        time_ns, thread, port, _ = BOUND.unpack(data)
        return Done(time_ns, thread & 0xFFFFFFFF, port)
    time_ns, thread, ids, netns, cgroup, port, protocol, family, first, address, name = ASKED.unpack(data)
    return Attempt(
        time_ns=time_ns,
        pid=thread >> 32,
        tid=thread & 0xFFFFFFFF,
        uid=ids & 0xFFFFFFFF,
        gid=ids >> 32,
        netns=netns,
        in_first=bool(first),
        cgroup=cgroup,
        protocol=protocol,
        address=address[:4] if family == 4 else address,
        port=port,
        name=name.partition(b"\0")[0],
    )


@dataclass(slots=True)
class Tracker:
    """Joins the events of asking and of doing, in the order in which they come.

    ``unasked`` are the binds that were done and not seen to be asked for: that event was lost; or the socket had a port
    then, which is a question (inspect/may_bind), and another thread took that off before the bind.
    """

    unasked: int = 0
    _open: dict[int, Attempt] = field(default_factory=dict)  # by thread, which binds one socket at a time
    _decided: dict[int, Outcome] = field(default_factory=dict)  # those that may still be corrected, by thread
    _helpers: dict[int, Attempt | None] = field(default_factory=dict)  # who asked, by the thread of a helper in _open
    _number: int = 0
    _ends_lost_until_ns: int = -1
    _lost_until_ns: int = -1

    def tell(self, event: Attempt | Done, is_helper: bool = False) -> Iterator[Outcome]:
        """Take one event; the outcomes that follow from it: none of a bind that was not seen to be asked for.

        ``is_helper``: the process that asks is a helper. The name does not prove that, since every process can take it.
        """
        if isinstance(event, Attempt):
            before = self._open.pop(event.tid, None)
            if before is not None:
                yield self._end(before, False)
            self._decided.pop(event.tid, None)
            if is_helper:
                asking = self._asking(event)
                self._helpers[event.tid] = None if asking is None else self._open.pop(asking)
            self._open[event.tid] = event
            return
        attempt = self._open.get(event.tid)
        if attempt is not None and attempt.port == event.port:
            del self._open[event.tid]
            yield self._end(attempt, True)
            return
        decided = self._decided.pop(event.tid, None)
        if decided is not None and decided.attempt.port == event.port and decided.attempt.time_ns > self._lost_until_ns:
            self._number += 1
            yield replace(decided, number=self._number, bound=True, corrects=decided.number)
        else:
            self.unasked += 1

    def events_were_lost(self, now_ns: int, ends: bool) -> None:
        """Events before ``now_ns`` were lost; ``ends``: ends of binds among them, whose beginnings were seen."""
        self._lost_until_ns = now_ns
        if ends:
            self._ends_lost_until_ns = now_ns

    def decide(self, now_ns: int) -> Iterator[Outcome]:
        """The binds that were asked for so long ago that they count as not bound. All events up to now have come."""
        for tid, attempt in list(self._open.items()):
            if attempt.time_ns + DECIDED_AFTER_NS <= now_ns:
                del self._open[tid]
                outcome = self._end(attempt, False)
                self._decided[tid] = outcome
                yield outcome
        surplus = len(self._decided) - _MOST_CORRECTED
        past = []
        for place, (tid, outcome) in enumerate(self._decided.items()):
            if place >= surplus and outcome.attempt.time_ns + _CORRECTED_WITHIN_NS > now_ns:
                break  # they are in the order of their decision
            past.append(tid)
        for tid in past:
            del self._decided[tid]

    @property
    def undecided(self) -> int:
        """How many are neither done nor given up."""
        return len(self._open)

    def _end(self, attempt: Attempt, bound: bool) -> Outcome:
        self._number += 1
        known = bound or attempt.time_ns > self._ends_lost_until_ns
        by_helper = attempt.tid in self._helpers
        command = self._helpers.pop(attempt.tid, None)
        return Outcome(self._number, attempt, bound if known else None, command, by_helper)

    def _asking(self, helper: Attempt) -> int | None:
        """The thread that waits for a helper: preload's command was refused this very bind before it asked."""
        what = _what(helper)
        return next(
            (tid for tid, other in self._open.items() if tid not in self._helpers and _what(other) == what), None
        )


def _what(attempt: Attempt) -> tuple[object, ...]:
    return attempt.protocol, attempt.address, attempt.port, attempt.netns


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict; the grants that permit the bind (None: they were not seen); why the nearest other one does not."""

    verdict: str
    rights: tuple[Right, ...] | None
    why: str = ""


def judge(outcome: Outcome, rights: tuple[Right, ...] | None, capable: bool | None) -> Judgement:
    """The verdict. ``capable``: whether the process that binds holds the capability, None where that is not known."""
    attempt = outcome.attempt
    if rights is None:
        # A helper binds what its grant permits, and nothing else.
        bound = BOUND_BY_OURS if outcome.by_helper else BY_UNKNOWN
        return Judgement(bound if outcome.bound else NOT_BOUND, None)
    wanted = one_bind(_PROTOCOLS.get(attempt.protocol), unmapped(attempt.address), attempt.port)
    named = attempt.protocol in _PROTOCOLS
    reasons = [
        why_not(right, attempt.asker, wanted) if named or right.policy.rules is None else "protocol" for right in rights
    ]
    # The last bind of a limit was done before the counter was read.
    good = ("", "limit") if outcome.bound else ("",)
    permitting = tuple(right for right, reason in zip(rights, reasons, strict=True) if reason in good)
    if outcome.bound:
        return Judgement(BOUND_BY_OURS if permitting else BY_NONE_OF_OURS, permitting)
    if outcome.bound is None:
        return Judgement(NOT_BOUND, permitting)
    if permitting or capable:
        return Judgement(FAILED, permitting)
    if capable is None and attempt.uid == 0:
        return Judgement(NOT_BOUND, ())  # root may hold the capability, or not
    # A grant for somebody else that would not permit this bind either does not come near.
    near = {
        reason
        for right, reason in zip(rights, reasons, strict=True)
        if reason not in ("user", "namespace") or not lacks(right.policy, wanted)
    }
    return Judgement(REFUSED, (), next((reason for reason in _NEAREST_FIRST if reason in near), ""))
