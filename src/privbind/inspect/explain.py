# SPDX-License-Identifier: MIT
"""Why a bind would be refused, or by which right it is permitted: what can be seen, and what follows from that.

`explain` looks, `judge` decides from what was seen, and `Explanation` is the answer, as text or as values for JSON.
Nothing is changed and no port is touched. An ordinary user sees less than root does; the answer says what was not seen.
"""

from __future__ import annotations

import posix
from dataclasses import asdict, dataclass
from shlex import quote

from ..account import Account
from ..errors import PrivbindError, UsageError, strerror
from ..grant.policy import PROTOCOLS, Policy, Ports, Rule
from ..linux import cgroup, network, process, procfs, sockets
from ..linux.cgroup import CgroupError
from . import units
from .rights import CAPABILITY, STANDING, Asker, Found, Reader, Right, holds_capability, lacks, permitted_part, why_not

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

_SHIM = "libprivbind.so"
_SYSTEMD = ("sd_bind4", "sd_bind6")  # src/core/bpf-socket-bind.c
_FILTERED = "2"  # of Seccomp: in proc_pid_status(5)
_KTHREADD = 2
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
    usual = "" if port_start == sockets.DEFAULT_PORT_START else f" (usual are 1 to {sockets.DEFAULT_PORT_START - 1})"
    return f"ports 1 to {port_start - 1}{usual}"


def _taken(taken: Taken) -> str:
    whose = f"uid {taken.uid}" if taken.pid is None else f"process {taken.pid}, {taken.program or '?'}, uid {taken.uid}"
    return f"{taken.protocol}:{taken.address}:{taken.port}, by {whose}"


def _judged(judged: Judged) -> str:
    return f"{judged.right}: {judged.right.policy}: {_WHY[judged.why_not]}"


def explain(policy: Policy, who: Who | None = None, pid: int | None = None) -> Explanation:
    """Why this user, or this process, may bind what the rules say, or may not.

    Without ``pid`` a process of ``who`` is meant that is started here: in the cgroup and the network namespace of this
    process. ``who`` None: the process's user, or this process's own. Only root can try binds for others; the answer
    says what could not be seen. Raises UsageError for a process that does not exist, and PrivbindError.
    """
    if pid is None:
        return judge(_look(policy, who, pid))
    try:
        pidfd = posix.pidfd_open(pid)
    except OSError as error:
        raise UsageError(f"--pid: there is no process {pid} that can be seen ({strerror(error)})") from error
    try:
        facts = _look(policy, who, pid)
        if not process.is_alive(pidfd):
            raise UsageError(f"--pid: process {pid} has ended")
    finally:
        posix.close(pidfd)
    return judge(facts)


def judge(facts: Facts) -> Explanation:
    """What follows from what was seen. Pure."""
    wanted = tuple(rule for rule in map(_reserved_part(facts.port_start), facts.rules) if rule is not None)
    judged = _judge_grants(facts, wanted)
    by_ours, part = _by_ours(judged, wanted)
    right = [str(entry.right) for entry in judged if not entry.why_not or (by_ours and entry.why_not in _PARTS)]
    if facts.capability:
        right.append("the capability CAP_NET_BIND_SERVICE")
    verdict, reasons = _verdict(facts, by_ours, part, right) if wanted else (NOT_RESERVED, [])
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


def _by_ours(judged: list[Judged], wanted: tuple[Rule, ...]) -> tuple[bool, list[str]]:
    """Whether the grants together permit all of it, and what part of it they permit otherwise."""
    if any(not entry.why_not for entry in judged):
        return True, []
    # Several may do together what none does alone: their user and namespace fit, their rules are only parts.
    parts = [
        rule
        for entry in judged
        if entry.why_not in _PARTS
        for each in wanted
        for rule in permitted_part(entry.right.policy, each)
    ]
    if parts and Policy(parts).covers(Policy(wanted)):
        return True, []
    return False, list(dict.fromkeys(map(str, parts)))


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


def _remedies(facts: Facts, verdict: str, judged: list[Judged]) -> tuple[str, ...]:
    """What to type to change it."""
    rules = quote(",".join(map(str, facts.rules)))
    who = facts.who.word
    if verdict == IN_USE:
        owners = [f"process {taken.pid}" for taken in facts.taken if taken.pid is not None]
        end = " and ".join(dict.fromkeys(owners)) or f"whoever has it (sudo ss -lnptu 'sport = :{facts.taken[0].port}')"
        return (f"end {end}, or let both set SO_REUSEPORT (privbind -r)",)
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
    if facts.here is not None and facts.files and not any(entry.right.kind == STANDING for entry in judged):
        found.append("sudo privbindctl load  # the files of grants say so already, the kernel does not")
    if facts.unit:
        found.append(f"sudo privbindctl grant --unit {quote(facts.unit)} --allow {rules}  # while it runs")
    if facts.who.uid:
        found.append(f"sudo privbindctl allow {who} {rules}  # for good")
        found.append(f"sudo privbind -u {who} --allow {rules} -- COMMAND  # once")
    if "namespace" in reasons:
        found.append("or start it in the network namespace that the grant is for")
    return tuple(found)


# What is seen.


def _look(policy: Policy, who: Who | None, pid: int | None) -> Facts:
    rules = policy.rules if policy.rules is not None else Policy.parse(["any"]).rules or ()
    unseen: list[str] = []
    status = _status(pid)
    if who is None:
        who = own_user() if pid is None else _user(status)
    netns, port_start = _namespace(pid, unseen)
    asker = Asker(who.uid, who.gid, netns, _in_first(pid))
    here, path = _here(pid, unseen)
    helped, elsewhere = _others(path, pid, unseen)
    if here is not None:
        here = Found((*here.rights, *helped), here.others, here.unseen)
        unseen += here.unseen
    capability = _capability(pid, status, who)
    shim = _shim(pid) if pid is not None and any(right.mechanism == "preload" for right in helped) else None
    if pid is None:
        unseen.append("Landlock and seccomp of a program that is not started yet")
    else:
        unseen.append(f"Landlock rules of process {pid} (the kernel shows them nowhere)")
    return Facts(
        rules=rules,
        who=who,
        asker=asker,
        port_start=port_start,
        pid=pid,
        program=_program(pid) if pid is not None else None,
        unit=units.unit_of(path) if pid is not None else None,
        here=here,
        elsewhere=elsewhere,
        files=_files(asker, rules, unseen),
        capability=capability,
        refused=_asked(policy, who, pid, _apart(pid, capability, bool(helped)), unseen),
        taken=_bound(rules, pid, unseen),
        filtered=None if pid is None else status.get("Seccomp") == _FILTERED,
        shim=shim,
        unseen=tuple(unseen),
    )


def own_user() -> Who:
    """The user of this process."""
    return _named(posix.getuid(), posix.getgid())


def user(name: str) -> Who:
    """A user by name or uid. Raises UsageError for a name that nobody has."""
    from pwd import getpwnam, getpwuid

    try:
        entry = getpwuid(int(name)) if name.isascii() and name.isdigit() and len(name) < 11 else getpwnam(name)
    except (KeyError, OverflowError, ValueError):
        raise UsageError(f"--user: unknown user '{name}'") from None
    return Who(entry.pw_uid, entry.pw_gid, entry.pw_name)


def _named(uid: int, gid: int) -> Who:
    from pwd import getpwuid

    try:
        return Who(uid, gid, getpwuid(uid).pw_name)
    except KeyError:
        return Who(uid, gid)


def _status(pid: int | None) -> dict[str, str]:
    try:
        return procfs.status(posix.getpid() if pid is None else pid)
    except OSError as error:
        raise UsageError(f"--pid: there is no process {pid} that can be seen ({strerror(error)})") from error


def _user(status: dict[str, str]) -> Who:
    return _named(int(status["Uid"].split()[0]), int(status["Gid"].split()[0]))


def _namespace(pid: int | None, unseen: list[str]) -> tuple[int, int]:
    """The cookie of the network namespace (0: not known), and the first port there that is not reserved."""
    try:
        if pid is None or procfs.namespace(pid, "net") == procfs.namespace(posix.getpid(), "net"):
            return sockets.netns_cookie(), sockets.port_start()
        return network.of_process(pid)
    except OSError as error:
        unseen.append(f"the network namespace, and so which ports are reserved there: {strerror(error)}")
        return 0, sockets.port_start()


def _in_first(pid: int | None) -> bool | None:
    """Whether a process is in the first network namespace: that of the kernel's own threads."""
    try:
        if procfs.name(_KTHREADD) != "kthreadd":
            return None
        first = procfs.namespace(_KTHREADD, "net")
        return first == procfs.namespace(posix.getpid() if pid is None else pid, "net")
    except OSError:
        return None


def _here(pid: int | None, unseen: list[str]) -> tuple[Found | None, str]:
    """The grants in effect where the process is, and the path of its cgroup, "" where that is not known."""
    try:
        found = cgroup.own() if pid is None else cgroup.open_path(cgroup.path_of(pid))
    except CgroupError as error:
        unseen.append(f"grants on its cgroup: {error}")
        return None, ""
    with found:
        reader = Reader()
        try:
            return reader.of_cgroup(found.fd, found.path), found.path
        except OSError as error:
            why = "run as root" if posix.geteuid() else strerror(error)
            unseen.append(f"what the kernel keeps of grants: standing, placed and launch grants ({why})")
        except PrivbindError as error:
            unseen.append(f"standing grants: {error}")
        finally:
            reader.close()
        return None, found.path


def _others(path: str, pid: int | None, unseen: list[str]) -> tuple[tuple[Right, ...], tuple[Right, ...]]:
    """Launch and placed grants on this host: those of helpers that serve a process, and those for other processes.

    ``path`` is the process's cgroup: `_here` finds the grants on it and above.
    """
    from .grants import find

    listing = find()
    unseen += listing.unseen
    above = set(_ancestors(pid)) if pid is not None else set()
    around = [path[:end] for end in range(2, len(path) + 1) if path[end : end + 1] in ("", "/")]
    helped, elsewhere = [], []
    for grant in listing.grants:
        if grant.kind == STANDING or grant.rules is None or grant.guess:
            continue
        right = Right.of_live(grant)
        if grant.mechanism != "bpf" and grant.pid in above:
            helped.append(right)
        elif not any(grant.place.endswith(one) for one in around):
            elsewhere.append(right)
    return tuple(helped), tuple(elsewhere)


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 0 and pid not in found:
        found.append(pid)
        try:
            pid = int(procfs.status(pid).get("PPid", "0"))
        except (OSError, ValueError):
            break
    return found


def _capability(pid: int | None, status: dict[str, str], who: Who) -> bool | None:
    """Whether the process holds CAP_NET_BIND_SERVICE, and over its network namespace."""
    if pid is None:
        if who.uid == posix.getuid():
            return bool(int(status.get("CapEff", "0"), 16) & CAPABILITY)
        return who.uid == 0
    return holds_capability(pid, status)


def _shim(pid: int) -> bool | None:
    """Whether preload's shim is in a process."""
    try:
        return procfs.maps_file(pid, _SHIM)
    except OSError:
        return None


def _program(pid: int) -> str | None:
    try:
        return procfs.executable(pid)
    except OSError:
        return None


def _files(asker: Asker, rules: tuple[Rule, ...], unseen: list[str]) -> tuple[Right, ...] | None:
    """What the files of grants say for the user about these rules."""
    from .rights import of_files

    try:
        found = of_files()
    except PrivbindError as error:
        unseen.append(f"the files of grants: {error}")
        return None
    return tuple(right for right in found if any(why_not(right, asker, rule) == "" for rule in rules))


def _asked(policy: Policy, who: Who, pid: int | None, apart: str, unseen: list[str]) -> tuple[str, ...] | None:
    """What the kernel refuses when binds are tried, where that is possible and the answer holds for this very process.

    ``apart`` says why the answer would not hold for it, "" where it does.
    """
    from .may_bind import refused_as

    if who.uid == 0:
        return None  # nothing is tried for root: it holds the capability, or is judged by what it holds
    if not apart and posix.geteuid() != 0 and who.uid != posix.getuid():
        apart = "only root can ask for others"
    if apart:
        unseen.append(f"the kernel's own answer: {apart}")
        return None
    namespace = -1
    try:
        if pid is not None and posix.geteuid() == 0:
            namespace = network.open_of(pid)
        return tuple(refused_as(Account(who.uid, who.gid, (), name=who.name), policy, namespace))
    except (OSError, PrivbindError) as error:
        unseen.append(f"the kernel's own answer: {error}")
        return None
    finally:
        if namespace >= 0:
            posix.close(namespace)


def _apart(pid: int | None, capability: bool | None, helped: bool) -> str:
    """Why another process of the same user would get another answer, "" where it would get the same."""
    if pid is None:
        return ""
    if capability is not False:
        return "the process has privileges of its own"
    if helped:
        return "a helper binds for the process"
    return "" if _is_beside(pid) else f"process {pid} is in a cgroup of its own"


def _is_beside(pid: int) -> bool:
    """Whether a process is in this process's cgroup and, for who is not root, in its network namespace."""
    try:
        if cgroup.path_of(pid) != cgroup.path_of("self"):
            return False
        return posix.geteuid() == 0 or procfs.namespace(pid, "net") == procfs.namespace(posix.getpid(), "net")
    except (CgroupError, OSError):
        return False


def _bound(rules: tuple[Rule, ...], pid: int | None, unseen: list[str]) -> tuple[Taken, ...]:
    """The sockets that have a port of a rule, where it names just one."""
    ports = {rule.ports.low for rule in rules if rule.ports.low == rule.ports.high}
    found = []
    for protocol in PROTOCOLS:
        meant = [rule for rule in rules if rule.protocol in (None, protocol)]
        try:
            table = network.bound("self" if pid is None else pid, protocol) if meant else []
        except OSError as error:
            unseen.append(f"which ports are in use: {strerror(error)}")
            return ()
        for _, address, port, uid, inode in table:
            if port in ports and any(port in rule.ports and _conflicts(rule, address) for rule in meant):
                found.append((Taken(protocol, network.address_text(address), port, uid), inode))
    if not found:
        return ()
    owners = procfs.socket_owners({inode for _, inode in found})
    return tuple(_owned(taken, owners.get(inode)) for taken, inode in found)


def _owned(taken: Taken, pid: int | None) -> Taken:
    program = _program(pid) if pid is not None else None
    return Taken(taken.protocol, taken.address, taken.port, taken.uid, pid, program)


def _conflicts(rule: Rule, address: bytes) -> bool:
    """Whether a socket with this address keeps others from what a rule means: a wildcard stands for all addresses."""
    if rule.network is None or not any(address) or not any(rule.network):
        return True
    return rule.matches_address(address)
