# SPDX-License-Identifier: MIT
"""What follows from what was seen of a process, its grants and a port: may it bind, why, and what would change that.

`Facts` is what was seen (`explain` looks), `judge` decides, and `Explanation` is the answer, as text or as values for
JSON. Nothing is asked here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from shlex import quote

from ..grant.policy import PROTOCOLS, Policy, Ports, Rule
from ..linux.sockets import DEFAULT_PORT_START
from .rights import STANDING, Asker, Found, Right, lacks, permitted_part, why_not

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NOT_RESERVED = "not-reserved"
PERMITTED = "permitted"
BY_NONE_OF_OURS = "permitted-by-none-of-ours"
IN_USE = "in-use"
PARTLY = "partly"
REFUSED = "refused"
UNKNOWN = "unknown"
VERDICTS = (NOT_RESERVED, PERMITTED, BY_NONE_OF_OURS, IN_USE, PARTLY, REFUSED, UNKNOWN)
"""in-use: there is a right, but a socket has the port. partly: permitted for a part of what the rule means."""

_SYSTEMD = ("sd_bind4", "sd_bind6")  # src/core/bpf-socket-bind.c
_MOST = 10  # grants that are told of, sockets that are told of

_PARTS = ("port", "protocol", "address")
"""Reasons for which a grant does not permit all of a rule, though it may permit a part of it."""

_WHY = {
    "namespace": "it holds in another network namespace",
    "user": "it is for somebody else",
    "port": "it names other ports",
    "protocol": "it is for another protocol",
    "address": "it is for other addresses",
    "limit": "its limit of binds is used up",
    "elsewhere": "it is for other processes",
}


@dataclass(frozen=True, slots=True)
class Who:
    """Whose bind is asked about: real uid and gid, and the user's name, "" for none."""

    uid: int
    gid: int
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"uid {self.uid}"

    @property
    def word(self) -> str:
        """The user as an argument of a command."""
        return quote(self.name or str(self.uid))


@dataclass(frozen=True, slots=True)
class Judged:
    """A grant that concerns the rule, and whether it permits it: ``why_not`` is "" where it does."""

    right: Right
    why_not: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A socket that has the port: protocol, address in text, its maker's uid, and the process where it can be seen."""

    protocol: str
    address: str
    port: int
    uid: int
    pid: int | None = None
    program: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen; None stands for what could not be.

    ``here`` are the grants on the process's cgroup and above, and those of helpers that serve it; ``elsewhere`` launch
    and placed grants for other processes; ``files`` what the files of grants say of the user; ``refused`` what the
    kernel refused when binds were tried (empty: nothing), as rules.
    """

    rules: tuple[Rule, ...]
    who: Who
    asker: Asker
    port_start: int
    pid: int | None = None
    program: str | None = None
    unit: str | None = None
    here: Found | None = None
    elsewhere: tuple[Right, ...] = ()
    files: tuple[Right, ...] | None = None
    capability: bool | None = None
    refused: tuple[str, ...] | None = None
    taken: tuple[Taken, ...] = ()
    filtered: bool | None = None
    shim: bool | None = None
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer. ``verdict`` is one of VERDICTS; ``right`` the grants (or the capability) that permit it, in words.

    ``reasons`` say why, ``remedies`` are commands (and some words) that would change it. ``checked`` tells whether
    binds were tried. ``grants`` are those that concern the rule, ``taken`` the sockets that have the port.
    """

    rule: str
    verdict: str
    who: Who
    pid: int | None
    program: str | None
    reserved_below: int
    right: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    grants: tuple[Judged, ...] = ()
    taken: tuple[Taken, ...] = ()
    obstacles: tuple[str, ...] = ()
    checked: bool = False
    unseen: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people: the verdict, and below it a line for each thing that is to be said."""
        whose = f"process {self.pid} ({self.program or '?'}, {self.who})" if self.pid is not None else str(self.who)
        said = {
            NOT_RESERVED: f"{self.rule} is not reserved here: everybody may bind it",
            PERMITTED: f"{whose} may bind {self.rule}",
            BY_NONE_OF_OURS: f"{whose} may bind {self.rule}, by no grant of privbind",
            IN_USE: f"{whose} may bind {self.rule}, but it is in use",
            PARTLY: f"{whose} may bind a part of {self.rule}",
            REFUSED: f"{whose} may not bind {self.rule}",
            UNKNOWN: f"it cannot be told whether {whose} may bind {self.rule}",
        }[self.verdict]
        found = [said]
        sections: tuple[tuple[str, list[str]], ...] = (
            ("by", list(self.right)),
            ("why", list(self.reasons)),
            ("reserved", [_reserved(self.reserved_below)]),
            ("in use", [_taken(taken) for taken in self.taken]),
            ("grant", [_judged(judged) for judged in self.grants if judged.why_not]),
            ("in the way", list(self.obstacles)),
            ("to do", list(self.remedies)),
            ("checked", ["the kernel was asked, without touching the port"] if self.checked else []),
            ("not seen", list(self.unseen)),
        )
        return found + [f"  {head:<11}{line}" for head, lines in sections for line in lines]

    def text(self) -> str:
        """The lines as one text."""
        return "".join(f"{line}\n" for line in self.lines())

    def values(self) -> dict[str, Any]:
        """For JSON: null stands for what is not known or not there."""
        return {
            "rule": self.rule,
            "verdict": self.verdict,
            "user": asdict(self.who),
            "pid": self.pid,
            "program": self.program,
            "reserved_below": self.reserved_below,
            "right": list(self.right),
            "reasons": list(self.reasons),
            "remedies": list(self.remedies),
            "grants": [
                {
                    "kind": judged.right.kind,
                    "mechanism": judged.right.mechanism,
                    "rules": str(judged.right.policy).split(","),
                    "holder": judged.right.holder,
                    "source": judged.right.source,
                    "left": judged.right.left,
                    "permits": not judged.why_not,
                    "why_not": judged.why_not or None,
                }
                for judged in self.grants
            ],
            "in_use": [asdict(taken) for taken in self.taken],
            "obstacles": list(self.obstacles),
            "checked": self.checked,
            "unseen": list(self.unseen),
        }


def _reserved(port_start: int) -> str:
    if port_start <= 1:
        return f"no port (net.ipv4.ip_unprivileged_port_start is {port_start})"
    usual = "" if port_start == DEFAULT_PORT_START else f" (usual are 1 to {DEFAULT_PORT_START - 1})"
    return f"ports 1 to {port_start - 1}{usual}"


def _taken(taken: Taken) -> str:
    whose = f"uid {taken.uid}" if taken.pid is None else f"process {taken.pid}, {taken.program or '?'}, uid {taken.uid}"
    return f"{taken.protocol}:{taken.address}:{taken.port}, by {whose}"


def _judged(judged: Judged) -> str:
    return f"{judged.right}: {judged.right.policy}: {_WHY[judged.why_not]}"


def judge(facts: Facts) -> Explanation:
    """What follows from what was seen. Pure."""
    wanted = tuple(rule for rule in map(_reserved_part(facts.port_start), facts.rules) if rule is not None)
    judged = _judge_grants(facts, wanted)
    permitting, part = _by_ours(judged, wanted)
    right = [str(entry.right) for entry in permitting]
    if facts.capability:
        right.append("the capability CAP_NET_BIND_SERVICE")
    verdict, reasons = _verdict(facts, bool(permitting), part, right) if wanted else (NOT_RESERVED, [])
    if verdict in (NOT_RESERVED, PERMITTED, BY_NONE_OF_OURS) and facts.taken:
        verdict = IN_USE
    return Explanation(
        rule=",".join(map(str, facts.rules)),
        verdict=verdict,
        who=facts.who,
        pid=facts.pid,
        program=facts.program,
        reserved_below=facts.port_start,
        right=tuple(right) if wanted and verdict not in (REFUSED, UNKNOWN) else (),
        reasons=tuple(reasons),
        remedies=_remedies(facts, verdict, judged),
        grants=tuple(judged[:_MOST]),
        taken=facts.taken[:_MOST],
        obstacles=tuple(_obstacles(facts)),
        checked=facts.refused is not None,
        unseen=facts.unseen,
    )


def _verdict(facts: Facts, by_ours: bool, part: list[str], right: list[str]) -> tuple[str, list[str]]:  # noqa: PLR0911
    """The verdict before it is known whether the port is in use, and why."""
    refused = facts.refused
    if refused:
        if by_ours and facts.here is None:
            return REFUSED, ["the files of grants permit it, but the kernel says no: perhaps they are not loaded"]
        if by_ours or facts.capability:
            return REFUSED, ["there is a right, but the kernel says no: something else is in the way"]
        wanted = {text for rule in facts.rules for text in _texts(rule, facts.port_start)}
        if part or wanted - set(refused):
            return PARTLY, [f"the kernel refuses {', '.join(refused)}", *_only(part)]
        return REFUSED, [_no_right(facts)]
    if by_ours and (facts.here is not None or refused is not None):
        return PERMITTED, []
    if facts.capability:
        return BY_NONE_OF_OURS, []
    if refused is not None:
        if facts.here is None:
            return PERMITTED, ["by which right cannot be seen from here (run as root)"]
        right.append("something that is none of privbind's: another program on the cgroup")
        return BY_NONE_OF_OURS, []
    if facts.here is None or facts.capability is None:
        return UNKNOWN, []
    return (PARTLY, _only(part)) if part else (REFUSED, [_no_right(facts)])


def _only(part: list[str]) -> list[str]:
    return [f"a grant permits {', '.join(part)}"] if part else []


def _no_right(facts: Facts) -> str:
    grants = "no grant that can be seen permits it" if facts.here is None else "no grant permits it"
    if facts.capability is None:
        return grants
    whose = "the process" if facts.pid is not None else "the user"
    return f"{grants}, and {whose} does not hold CAP_NET_BIND_SERVICE"


def _reserved_part(port_start: int) -> Callable[[Rule], Rule | None]:
    def cut(rule: Rule) -> Rule | None:
        """What of a rule is reserved."""
        if rule.ports.low >= port_start:
            return None
        return Rule(
            rule.protocol, rule.network, rule.prefix, Ports(rule.ports.low, min(rule.ports.high, port_start - 1))
        )

    return cut


def _texts(rule: Rule, port_start: int) -> list[str]:
    """A rule as `may_bind` reports it: one protocol each, and reserved ports only."""
    cut = _reserved_part(port_start)(rule)
    if cut is None:
        return []
    protocols = PROTOCOLS if rule.protocol is None else (rule.protocol,)
    return [str(Rule(protocol, cut.network, cut.prefix, cut.ports)) for protocol in protocols]


def _judge_grants(facts: Facts, wanted: tuple[Rule, ...]) -> list[Judged]:
    """The grants that concern the rule: those that name its ports and, where there are few, those with other ports."""
    found: list[Judged] = []
    rights = facts.here.rights if facts.here is not None else facts.files or ()
    for right in rights:
        reasons = [why_not(right, facts.asker, rule) for rule in wanted]
        worst = next((reason for reason in reasons if reason), "")
        about_port = any(lacks(right.policy, rule) != "port" for rule in wanted)
        if about_port or (worst == "port" and len(rights) <= _MOST):
            found.append(Judged(right, worst))
    found += [
        Judged(right, "elsewhere")
        for right in facts.elsewhere
        if any(lacks(right.policy, rule) != "port" for rule in wanted)
    ]
    found.sort(key=lambda judged: (bool(judged.why_not), judged.why_not == "port"))
    return found


def _by_ours(judged: list[Judged], wanted: tuple[Rule, ...]) -> tuple[list[Judged], list[str]]:
    """The grants that permit all of it, each or else together; where there are none, what part of it is permitted."""
    whole = [entry for entry in judged if not entry.why_not]
    if whole:
        return whole, []
    # Several may do together what none does alone: their user and namespace fit, their rules are only parts.
    parts = [
        (entry, rule)
        for entry in judged
        if entry.why_not in _PARTS
        for each in wanted
        for rule in permitted_part(entry.right.policy, each)
    ]
    rules = [rule for _, rule in parts]
    if rules and Policy(rules).covers(Policy(wanted)):
        return [entry for entry in judged if any(entry is one for one, _ in parts)], []
    return [], list(dict.fromkeys(map(str, rules)))


def _obstacles(facts: Facts) -> list[str]:
    found = []
    names = facts.here.others if facts.here is not None else ()
    if any(name in _SYSTEMD for name in names):
        found.append("systemd's SocketBindAllow= or SocketBindDeny= of a unit (systemctl cat UNIT)")
    found += [f"another BPF program on the cgroup, '{name}'" for name in names if name not in _SYSTEMD]
    if facts.filtered:
        found.append("a seccomp filter, which may refuse bind(2) itself; what it does cannot be seen")
    if facts.shim is False:
        found.append(
            "preload's shim is not in the process: it is static, or was started without LD_PRELOAD (use --via bpf)"
        )
    return found


def _is_standing(facts: Facts, rule: Rule) -> bool:
    """Whether a standing grant that is in force permits this, be it in another network namespace."""
    held = facts.here.rights if facts.here is not None else ()
    anywhere = replace(facts.asker, netns=0)
    return any(right.kind == STANDING and not why_not(right, anywhere, rule) for right in held)


def _unloaded(facts: Facts) -> bool:
    """Whether the files of grants permit a part of it that no standing grant in force permits."""
    return facts.here is not None and any(
        not why_not(right, facts.asker, rule) and not _is_standing(facts, rule)
        for rule in facts.rules
        for right in facts.files or ()
    )


def _free(facts: Facts) -> str:
    """How a port that is in use can be had."""
    owners = [f"process {taken.pid}" for taken in facts.taken if taken.pid is not None]
    end = " and ".join(dict.fromkeys(owners)) or f"whoever has it (sudo ss -lnptu 'sport = :{facts.taken[0].port}')"
    return f"end {end}, or let both set SO_REUSEPORT (privbind -r)"


def _for_good(facts: Facts) -> list[str]:
    """How to give a standing grant, unless there is one already, which holds in another network namespace."""
    if all(_is_standing(facts, rule) for rule in facts.rules):
        return []
    return [f"sudo privbindctl allow {facts.who.word} {quote(','.join(map(str, facts.rules)))}  # for good"]


def _remedies(facts: Facts, verdict: str, judged: list[Judged]) -> tuple[str, ...]:
    """What to type to change it."""
    rules = quote(",".join(map(str, facts.rules)))
    who = facts.who.word
    if verdict == IN_USE:
        return (_free(facts),)
    if verdict not in (REFUSED, PARTLY):
        return ()
    reasons = {entry.why_not for entry in judged}
    found = []
    if "" in reasons and facts.here is None:
        return ("sudo privbindctl load  # put into the kernel what the files of grants say",)
    if "" in reasons or facts.capability:
        return ("look at what is in the way: another program on the cgroup, Landlock, a security module",)
    if "limit" in reasons:
        found.append("start it again, for a new limit, or grant more: privbind -n NUM, privbindctl grant -n NUM")
    if _unloaded(facts):
        found.append("sudo privbindctl load  # the files of grants say so already, the kernel does not")
    if facts.unit:
        found.append(f"sudo privbindctl grant --unit {quote(facts.unit)} --allow {rules}  # while it runs")
    if facts.who.uid:
        found += _for_good(facts)
        found.append(f"sudo privbind -u {who} --allow {rules} -- COMMAND  # once")
    if "namespace" in reasons:
        found.append("or start it in the network namespace that the grant is for")
    return tuple(found)
