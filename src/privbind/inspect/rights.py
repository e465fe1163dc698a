# SPDX-License-Identifier: MIT
"""The grants of privbind that count for one process, and whether one of them permits a bind.

What is read is what the kernel keeps: the programs in effect on the process's cgroup, and what they publish. Whether a
grant permits a bind is decided here from values, without asking anything (`why_not`).
"""

from __future__ import annotations

import posix
from dataclasses import dataclass, field

from ..grant import counters, record
from ..grant.grant import Grant
from ..grant.holder import COMMAND
from ..grant.policy import Policy, Ports, Rule, unmapped
from ..linux import bpf, capabilities, network, procfs
from ..mechanisms.bpf import compiler
from ..standing import load, program, text
from ..standing.describe import label
from ..standing.resolve import GID, Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ..grant.holder import Holder
    from .grants import LiveGrant

STANDING, PLACED, LAUNCH = "standing", "placed", "launch"
CAPABILITY = 1 << capabilities.CAP_NET_BIND_SERVICE
BIND_HOOKS = (bpf.INET4_BIND, bpf.INET6_BIND)

_MOST_KNOWN = 256  # programs whose maps are held open: every launch has others


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One grant. ``kind`` is standing, placed or launch; ``source`` says where it is from, ``holder`` whose it is.

    ``key`` are the ids that a standing grant is for; the others are for whoever is in the cgroup. ``netns`` is the
    cookie of the network namespace that it holds in, 0 for the first one, None where that is not known. ``left`` is how
    many binds it still permits, None for no limit.
    """

    kind: str
    mechanism: str
    policy: Policy
    source: str
    holder: str
    key: Key | None = None
    netns: int | None = None
    limit: int = 0
    left: int | None = None

    @classmethod
    def of_live(cls, grant: LiveGrant) -> Self:
        """A launch or placed grant that was found in the list of all. Raises PolicyError for rules without sense."""
        by = grant.place.rpartition(" ")[2] if grant.mechanism != "bpf" else ""
        return cls(
            kind=grant.kind,
            mechanism=grant.mechanism or "?",
            policy=Policy.parse(grant.rules) if grant.rules else Policy(None),
            source=f"on cgroup '{grant.place}'"
            if grant.kind == PLACED
            else f"launch of process {grant.pid}{f', by helper {by}' if by else ''}",
            holder=grant.user or "",
            limit=grant.limit or 0,
            left=grant.left,
        )

    def __str__(self) -> str:
        return f"{self.kind} grant for {self.holder} ({self.source})" if self.holder else f"{self.kind} {self.source}"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who binds, and where: real uid and gid, the cookie of the socket's network namespace, whether it is the first.

    ``netns`` 0: it is not known.
    """

    uid: int
    gid: int
    netns: int
    in_first: bool | None


@dataclass(frozen=True, slots=True)
class Found:
    """The grants on a cgroup and above; names of programs of others; what could not be seen, a line each."""

    rights: tuple[Right, ...]
    others: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def why_not(right: Right, asker: Asker, wanted: Rule) -> str:
    """What keeps a grant from permitting all of this rule, "" for nothing.

    It is "namespace", "user", "port", "protocol", "address" or "limit", the first of them that does. Pure.
    """
    if (
        asker.netns
        and right.netns not in (None, asker.netns)
        and not (right.netns == 0 and asker.in_first is not False)
    ):
        return "namespace"
    key = right.key
    if key is not None and not key.first <= (asker.gid if key.kind == GID else asker.uid) < key.first + key.count:
        return "user"
    lacking = lacks(right.policy, wanted)
    return lacking or ("limit" if right.left == 0 else "")


def lacks(policy: Policy, wanted: Rule) -> str:
    """What of a rule a policy does not permit: "port", "protocol" or "address"; "" where it permits all of it. Pure."""
    if policy.rules is None or policy.covers(Policy([wanted])):
        return ""
    at_port = [rule for rule in policy.rules if _common(rule.ports, wanted.ports)]
    if not at_port:
        return "port"
    of_protocol = [
        rule for rule in at_port if None in (rule.protocol, wanted.protocol) or rule.protocol == wanted.protocol
    ]
    return "address" if of_protocol else "protocol"


def permitted_part(policy: Policy, wanted: Rule) -> list[Rule]:
    """The rules of a policy as far as they lie within another rule. Pure."""
    whole = Policy([wanted])
    found = []
    for rule in policy.rules or (wanted,):
        ports = _common(rule.ports, wanted.ports)
        if ports is None or (wanted.protocol and rule.protocol not in (None, wanted.protocol)):
            continue
        part = Rule(rule.protocol or wanted.protocol, rule.network, rule.prefix, ports)
        if whole.covers(Policy([part])):
            found.append(part)
        elif part.network is None and wanted.network is not None:
            found.append(Rule(part.protocol, wanted.network, wanted.prefix, ports))
    return found


def one_bind(protocol: str | None, address: bytes, port: int) -> Rule:
    """The rule that means just this bind; ``protocol`` None: one that no rule can name."""
    address = unmapped(address)
    return Rule(protocol, address, 8 * len(address), Ports(port, port))


def _common(one: Ports, other: Ports) -> Ports | None:
    low, high = max(one.low, other.low), min(one.high, other.high)
    return Ports(low, high) if low <= high else None


def holds_capability(pid: int, status: dict[str, str] | None = None) -> bool | None:
    """Whether a process holds CAP_NET_BIND_SERVICE over its network namespace; None where that cannot be seen."""
    try:
        if not int((status or procfs.status(pid)).get("CapEff", "0"), 16) & CAPABILITY:
            return False
        its = procfs.namespace(pid, "user")
        return its == procfs.namespace(posix.getpid(), "user") or its == f"user:[{network.owner(pid)}]"
    except OSError:
        return None


@dataclass(slots=True)
class _Known:
    """What is known of a program by its id: its name, and what it published that cannot change."""

    name: str
    said: list[tuple[str, bytes]] | None = None
    slot: int = -1
    table: int = 0  # the id of the map that the slot held when it was read
    standing: tuple[Right, ...] = ()
    counters: int = -1
    size: int = 0


@dataclass(slots=True)
class Reader:
    """Reads the grants in effect on cgroups, again and again: what cannot have changed is read once."""

    _known: dict[int, _Known] = field(default_factory=dict)

    def close(self) -> None:
        """Let all programs' maps go; they are opened again when they are needed."""
        for known in self._known.values():
            for fd in (known.slot, known.counters):
                if fd >= 0:
                    posix.close(fd)
        self._known.clear()

    def of_cgroup(self, fd: int, place: str, hook: int = bpf.INET4_BIND) -> Found:
        """What is in effect for sockets made in a cgroup, its ancestors' programs included.

        ``place`` is what the cgroup is called. Needs CAP_SYS_ADMIN (for grants; CAP_NET_ADMIN alone tells only that
        there are programs). Raises OSError.
        """
        rights: list[Right] = []
        others: list[str] = []
        unseen: list[str] = []
        numbers = bpf.effective(fd, hook)
        if len(self._known) > _MOST_KNOWN:
            self.close()
        for number in dict.fromkeys(numbers):
            try:
                known = self._known.get(number) or self._learn(number)
                rights += self._rights(known, place)
                if known.said is None and known.slot < 0:
                    others.append(known.name)
            except FileNotFoundError:
                continue  # it was taken off just now
            except (KeyError, ValueError) as error:
                unseen.append(f"a grant that makes no sense: {error}")
        return Found(tuple(rights), tuple(others), tuple(unseen))

    def _learn(self, number: int) -> _Known:
        fd = bpf.open_program(number)
        try:
            _, name, maps = bpf.program_info(fd)
        finally:
            posix.close(fd)
        known = _Known(name)
        if name in program.NAMES.values():
            known.slot = load.open_slot(maps)
        elif name in (compiler.NAMES[hook] for hook in BIND_HOOKS):
            for map_number in maps:
                self._learn_map(known, map_number)
        self._known[number] = known
        return known

    def _learn_map(self, known: _Known, number: int) -> None:
        fd = bpf.open_map(number)
        name, size = bpf.map_info(fd)
        if name == compiler.COUNTERS:
            known.counters, known.size = fd, size
            return
        try:
            if name == record.NAME:
                known.said = record.decode(bpf.read_array(fd, size))
        finally:
            posix.close(fd)

    def _rights(self, known: _Known, place: str) -> tuple[Right, ...]:
        if known.said is not None:
            counted = bpf.read_array(known.counters, known.size) if known.counters >= 0 else bytes(counters.LAYOUT.size)
            return (of_record(known.said, counters.LAYOUT.unpack(counted), place),)
        if known.slot < 0:
            return ()
        held = load.held(known.slot)
        if held != known.table:
            found = load.read_slot(known.slot)
            known.standing = of_standing(found) if found else ()
            known.table = held
        return known.standing


def of_record(said: list[tuple[str, bytes]], counted: tuple[int, ...], place: str) -> Right:
    """The right that a record describes. Raises ValueError for one that lacks something or makes no sense. Pure."""
    holder = record.holder(said)
    values = dict(said)
    granted = Grant.parse(values["grant"].decode())
    launch = holder.kind == COMMAND
    netns = values.get("netns", b"").decode()
    return Right(
        kind=LAUNCH if launch else PLACED,
        mechanism=values["mechanism"].decode(),
        policy=granted.policy,
        source=_launched(holder) if launch else f"on cgroup '{place}' or above",
        holder=holder.user if launch else "",
        netns=int(netns) if netns.isdigit() else None,
        limit=granted.limit,
        left=max(granted.limit - counted[counters.BOUND], 0) if granted.limit else None,
    )


def _launched(holder: Holder) -> str:
    """A launch, by its process and the program's name: the arguments may hold secrets."""
    name = holder.argv[0].decode("utf-8", "backslashreplace") if holder.argv else "?"
    return f"launch of {name}, process {holder.pid}"


def of_standing(found: load.InForce) -> tuple[Right, ...]:
    """The rights in a table of standing grants, one for each entry and holder. Raises ValueError. Pure."""
    return _standing(text.decode(found.text), found.netns)


def of_files() -> tuple[Right, ...]:
    """What the files of grants say, for whichever network namespace. Raises PrivbindError."""
    from .standing import by_files

    return _standing(by_files(), None)


def _standing(granted: dict[Key, text.Granted], netns: int | None) -> tuple[Right, ...]:
    return tuple(
        Right(
            kind=STANDING,
            mechanism="bpf",
            policy=Policy.parse(rules),
            source=source,
            holder=label(key, {key: held.name}),
            key=key,
            netns=netns,
        )
        for key, held in granted.items()
        for rules, source in held.entries
        if rules
    )
