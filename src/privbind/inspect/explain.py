# SPDX-License-Identifier: MIT
"""Why a bind would be refused, or by which right it is permitted: what can be seen, for `verdict` to judge.

Nothing is changed and no port is touched. An ordinary user sees less than root does; the answer says what was not seen.
"""

from __future__ import annotations

import posix

from ..account import Account
from ..errors import PrivbindError, UsageError, strerror
from ..grant.policy import PROTOCOLS, Policy, Rule
from ..linux import cgroup, network, process, procfs, sockets
from ..linux.cgroup import CgroupError
from . import units
from .rights import CAPABILITY, STANDING, Asker, Found, Reader, Right, holds_capability, why_not
from .verdict import Explanation, Facts, Taken, Who, judge

_SHIM = "libprivbind.so"
_FILTERED = "2"  # of Seccomp: in proc_pid_status(5)
_KTHREADD = 2


def explain(policy: Policy, who: Who | None = None, pid: int | None = None) -> Explanation:
    """Why this user, or this process, may bind what the rules say, or may not.

    Without ``pid`` a process of ``who`` is meant that is started here: in the cgroup and the network namespace of this
    process; with both, one of ``who`` where ``pid`` is. ``who`` None: the process's user, or this process's own. Only
    root can try binds for others; the answer says what could not be seen. Raises UsageError for a process that does not
    exist, and PrivbindError.
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
        # A number may be one that passwd does not know, as many in containers are.
        remedy = "--pid PID asks for a process, whoever runs it" if name.isdigit() else ""
        raise UsageError(f"--user: unknown user '{name}'", remedy) from None
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
    """Whether the process holds CAP_NET_BIND_SERVICE, and over its network namespace; for another user, a new one."""
    if who.uid != int(status["Uid"].split()[0]):
        return who.uid == 0
    if pid is None:
        return bool(int(status.get("CapEff", "0"), 16) & CAPABILITY)
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
