# SPDX-License-Identifier: MIT
"""From a grant to the programs that honour it. Pure: everything that is looked up comes in the site.

A bind hook answers 3 (allow, and do not ask for CAP_NET_BIND_SERVICE) for a granted bind and 1 (allow; the kernel
decides) for every other. In the order of its questions: is the port reserved, or one that -r names; is the caller in
the launch's cgroup (what counts for running the hook is where the socket was made, and a socket can be handed on); is
the socket in the launch's network namespace; does a rule permit protocol, address and port; is anything left of the
limit. For a port that -r names and that is not reserved, it sets SO_REUSEPORT after the third question.

The limit is kept by a post-bind hook, which runs when the port is taken and can still give it back. It counts only
binds that the bind hook lifted, so that a process which has the capability itself is never refused. For that the bind
hook notes, for the thread that binds, each bind that it does not lift, in a slot chosen by the thread's id. Both hooks
run in that thread within the one system call, so nothing that other threads do with the socket meanwhile comes
between. A slot that another thread overwrites costs at most a count too many, never one too few.
"""

from __future__ import annotations

from _socket import IPPROTO_TCP, IPPROTO_UDP

from ...grant import counters
from ...grant.counters import BOUND, GRANTED, REFUSED
from ...linux.bpf import INET4_BIND, INET4_POST_BIND, INET6_BIND, INET6_POST_BIND
from ...linux.sockets import SO_REUSEPORT
from .assembly import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Assembly
from .search import BOTH, TCP, UDP, Network, Space, Table, reuse_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...grant.grant import Grant
    from ...grant.site import Site
    from .assembly import Register
    from .search import Cell

    Granted = tuple[str, Cell]
    """A comment: which ports of which addresses are granted at a place."""

NAMES = {
    INET4_BIND: "privbind_bind4",
    INET6_BIND: "privbind_bind6",
    INET4_POST_BIND: "privbind_post4",
    INET6_POST_BIND: "privbind_post6",
}
"""What the programs are called, at most 15 bytes."""

COUNTERS = "counters"
COUNTERS_SIZE = counters.LAYOUT.size
"""The map of counters, as `grant.counters` lays them out."""

MARKS = "marks"
_SLOTS = 4096  # a power of 2; one u32 each
MARKS_SIZE = 4 * _SLOTS
"""The map of marks: in each slot the id of the last thread there whose bind was not lifted."""

NATIVE, LIFTED = 1, 3  # what a bind hook returns; 3 is BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE, 5.12
_ACCEPT, _REJECT = 1, 0  # what a post-bind hook returns
_EACCES = 13

# struct bpf_sock_addr, linux/bpf.h
_USER_IP4 = 4  # network order; readable in INET4 hooks only
_USER_IP6 = 8  # network order; readable in INET6 hooks only; in two halves since 5.3
_USER_PORT = 24  # network order, in the low 16 bits
_PROTOCOL = 36
_SRC_PORT = 44  # struct bpf_sock; host order

_SOL_SOCKET = 1
_PORTS = 65536
_MAX_LEVELS = 32  # how far down a cgroup is looked for where its depth is not known exactly
_BUNCH = 4  # so many ranges of ports are tried one after the other; more are searched
_MAPPED = 0xFFFF  # the third 32 bits of ::ffff:0:0/96, RFC 4291 2.5.5.2

_CONTEXT, _PORT, _HIGH, _LOW = R6, R7, R8, R9
"""Kept through a bind hook: its argument, the port in host order, and the address in host order: 128 bits in two
registers, or the 32 of IPv4 in the first."""
_V4 = _HIGH

_PORT_AGAIN, _PROTOCOL_AGAIN = R4, R5
"""Kept through the search for a rule: the port in network order, and the protocol."""

_ONE = -4  # the place on the stack for the value of a socket option


def programs(grant: Grant, site: Site) -> dict[int, Assembly]:
    """The programs for a grant at a site, by hook."""
    port_start = site.port_start
    table = None if grant.policy.rules is None else Table(grant.policy.rules, port_start)
    found = {hook: _bind(grant, table, site, hook) for hook in (INET4_BIND, INET6_BIND)}
    if grant.limit:
        found |= {hook: _post_bind(grant.limit, port_start, hook) for hook in (INET4_POST_BIND, INET6_POST_BIND)}
    return found


def _bind(grant: Grant, table: Table | None, site: Site, hook: int) -> Assembly:
    port_start = site.port_start
    asm = Assembly("before a bind of an IPv4 socket" if hook == INET4_BIND else "before a bind of an IPv6 socket")
    asm.move(_CONTEXT, R1)
    asm.load_32(_PORT, _CONTEXT, _USER_PORT)
    asm.from_network(_PORT, 16)
    asm.jump_if(_PORT, "==", 0, "native", "any free port: never a reserved one")
    shared = reuse_cells(grant.reuse_ports, max(1, port_start), _PORTS)
    if shared:
        asm.jump_if(_PORT, "<", port_start, "ours")
        known = max(1, port_start), _PORTS - 1
        _search_ports(asm, shared, _PORT, known, ("shared, not reserved", {BOTH: "ours"}, "native"))
        asm.label("ours")
    else:
        asm.jump_if(_PORT, ">=", port_start, "native", "not reserved")
    _at_site(asm, site)
    if shared:
        asm.jump_if(_PORT, "<", port_start, "reserved")
        _share(asm)
        asm.goto("native", "the kernel decides")
        asm.label("reserved")
    if table is None:
        asm.goto("granted", "any reserved port")
    else:
        _rules(asm, table, port_start, hook)
    _granted(asm, grant, port_start)
    if "refused" in asm.wanted:
        asm.label("refused")
        _count(asm, REFUSED, "one more refused")
    asm.label("native")
    if grant.limit:
        _slot(asm)
        asm.store_32(R3, 0, R1, "not lifted by us, so not counted after the bind")
    asm.move(R0, NATIVE)
    asm.exit("the kernel decides")
    return asm


def _at_site(asm: Assembly, site: Site) -> None:
    """Leave binds by strangers, and of sockets in other network namespaces, to the kernel."""
    if site.exact:
        asm.move(R1, site.depth)
        asm.call("get_current_ancestor_cgroup_id")
        asm.wide(R1, site.cgroup)
        asm.jump_if_wide(R0, "!=", R1, "native", "the caller is not in the command's cgroup")
    else:
        # No loop: without CAP_PERFMON the verifier follows one through speculation, where it never ends.
        for level in range(site.depth, site.depth + _MAX_LEVELS):
            asm.move(R1, level)
            asm.call("get_current_ancestor_cgroup_id")
            asm.jump_if_wide(R0, "==", 0, "native", "the caller is not in the command's cgroup")
            asm.wide(R1, site.cgroup)
            asm.jump_if_wide(R0, "==", R1, "in cgroup")
        asm.goto("native")
        asm.label("in cgroup")
    asm.move(R1, _CONTEXT)
    asm.call("get_netns_cookie")
    asm.wide(R1, site.netns)
    asm.jump_if_wide(R0, "!=", R1, "native", "another network namespace")


def _rules(asm: Assembly, table: Table, port_start: int, hook: int) -> None:
    """Go to ``granted`` if a rule permits the bind, else to ``refused``.

    Every place is written only if something before it leads there: the verifier takes no code that cannot be reached.
    """
    asm.load_32(R1, _CONTEXT, _PROTOCOL)
    asm.jump_if(R1, "==", IPPROTO_TCP, "any address")
    asm.jump_if(R1, "!=", IPPROTO_UDP, "refused", "rules are for TCP and UDP")
    asm.label("any address")
    # The search calls no helper, so these registers keep what it needs. Each read of the context, or of the stack,
    # would cost the verifier work for the whole program: a thousand of them, a fifth of a second.
    asm.load_32(_PORT_AGAIN, _CONTEXT, _USER_PORT)
    asm.load_32(_PROTOCOL_AGAIN, _CONTEXT, _PROTOCOL)
    by_address = bool(table.ipv4.networks or (hook == INET6_BIND and table.ipv6.networks))
    _ports(asm, table.anywhere, _PORT, (1, port_start - 1), "by address" if by_address else "refused")
    if "by address" not in asm.wanted:
        return
    asm.label("by address")
    if hook == INET4_BIND:
        asm.load_32(_V4, _CONTEXT, _USER_IP4)
        asm.from_network(_V4, 32)
        _ipv4(asm, table.ipv4, port_start)
    else:
        _ipv6(asm, table, port_start)


def _ipv6(asm: Assembly, table: Table, port_start: int) -> None:
    """Search by the address of an IPv6 socket; an IPv4-mapped one is judged as that IPv4 address, by IPv4 rules."""
    space = table.ipv6
    search = "ipv6" if space.networks else "refused"
    asm.load_64(_HIGH, _CONTEXT, _USER_IP6)
    asm.from_network(_HIGH, 64)
    asm.load_64(_LOW, _CONTEXT, _USER_IP6 + 8)
    asm.from_network(_LOW, 64)
    asm.jump_if_wide(_HIGH, "!=", 0, search)
    asm.jump_if_wide(_LOW, "==", 0, _label(space.wildcard), "[::]")
    asm.move(R1, _LOW)
    asm.shift_right(R1, 32)
    asm.jump_if_wide(R1, "!=", _MAPPED, search)
    if table.ipv4.networks:
        asm.move_32(_V4, _LOW, "IPv4-mapped")
        _ipv4(asm, table.ipv4, port_start)
    else:
        asm.goto("refused", "IPv4-mapped")
    if space.networks:
        asm.label("ipv6")
        _search_ipv6(asm, space, 0, len(space.segments), (0, (1 << 128) - 1))
        _networks(asm, space, port_start)


def _ipv4(asm: Assembly, space: Space, port_start: int) -> None:
    asm.jump_if(_V4, "==", 0, _label(space.wildcard), "0.0.0.0")
    _search_ipv4(asm, space, 0, len(space.segments))
    _networks(asm, space, port_start)


def _search_ipv4(asm: Assembly, space: Space, first: int, end: int) -> None:
    """Go to the narrowest network of the address, among the segments from ``first`` to before ``end``."""
    segments = space.segments
    while end - first > 1:
        middle = (first + end) // 2
        start, network = segments[middle]
        upper = _label(network) if end - middle == 1 else f"ipv4 from {start:#x}"
        asm.jump_if(_V4, ">=", start, upper)
        if end - middle == 1:
            end = middle
            continue
        _search_ipv4(asm, space, first, middle)
        asm.label(upper)
        first = middle
    asm.goto(_label(segments[first][1]))


def _search_ipv6(asm: Assembly, space: Space, first: int, end: int, known: tuple[int, int]) -> None:
    """The same for 128 bits; ``known`` are the lowest and the highest address that can get here."""
    segments = space.segments
    while end - first > 1:
        middle = (first + end) // 2
        start, network = segments[middle]
        upper = _label(network) if end - middle == 1 else f"ipv6 from {start:#x}"
        lower = f"ipv6 below {start:#x}"
        high, low = start >> 64, start & 0xFFFFFFFFFFFFFFFF
        if known[0] >> 64 != known[1] >> 64:
            asm.wide(R1, high)
            if low:
                asm.jump_if_wide(_HIGH, ">", R1, upper)
                asm.jump_if_wide(_HIGH, "!=", R1, lower)
            else:
                asm.jump_if_wide(_HIGH, ">=", R1, upper)
        if low:
            asm.wide(R1, low)
            asm.jump_if_wide(_LOW, ">=", R1, upper)
        if lower in asm.wanted:
            asm.label(lower)
        if end - middle == 1:
            end, known = middle, (known[0], start - 1)
            continue
        _search_ipv6(asm, space, first, middle, (known[0], start - 1))
        asm.label(upper)
        first, known = middle, (start, known[1])
    asm.goto(_label(segments[first][1]))


def _networks(asm: Assembly, space: Space, port_start: int) -> None:
    """The ports of each network, the narrowest first: each leads on to a wider one."""
    for network in space.networks:
        label = _label(network)
        if label in asm.wanted:
            asm.label(label)
            # The port is loaded afresh: then all ways to here look the same to the verifier, and it follows only one.
            asm.move(R1, _PORT_AGAIN)
            asm.from_network(R1, 16)
            _ports(asm, network, R1, (1, port_start - 1), _label(network.wider))


def _label(network: Network | None) -> str:
    return "refused" if network is None else network.label


def _ports(asm: Assembly, network: Network, port: Register, known: tuple[int, int], otherwise: str) -> None:
    """Go to ``granted`` for the ports of a network, else to ``otherwise``; ``known``: the port is one of these."""
    here = network.label
    targets = {BOTH: "granted", TCP: f"{here}, tcp only", UDP: f"{here}, udp only"}
    _search_ports(asm, network.cells, port, known, (here, targets, otherwise))
    for mask, protocol in ((TCP, IPPROTO_TCP), (UDP, IPPROTO_UDP)):
        if targets[mask] in asm.wanted:
            asm.label(targets[mask])
            asm.jump_if(_PROTOCOL_AGAIN, "==", protocol, "granted")
            asm.goto(otherwise)


def _search_ports(
    asm: Assembly, cells: list[Cell], port: Register, known: tuple[int, int], ways: tuple[str, dict[int, str], str]
) -> None:
    """Go where the cell that the port is in leads to; ``known``: the port is one of these.

    ``ways`` are what labels begin with, where each protocol mask leads, and where a port in no cell does.
    """
    here, targets, otherwise = ways
    lowest, highest = known
    while len(cells) > _BUNCH:
        middle = len(cells) // 2
        start = cells[middle][0]
        upper = f"{here}, from {start}"
        asm.jump_if(port, ">=", start, upper)
        _search_ports(asm, cells[:middle], port, (lowest, start - 1), ways)
        asm.label(upper)
        cells, lowest = cells[middle:], start
    for cell in cells:
        low, high, mask = cell
        comment = (here, cell)
        if (low, high) == (lowest, highest):
            asm.goto(targets[mask], comment)
            return
        if low == high:
            asm.jump_if(port, "==", low, targets[mask], comment)
            lowest += low == lowest  # the verifier knows that, too: a test whose answer it knows costs it much time
            continue
        if low > lowest:
            asm.jump_if(port, "<", low, otherwise)
        if high >= highest:
            asm.goto(targets[mask], comment)
            return
        asm.jump_if(port, "<=", high, targets[mask], comment)
        lowest = high + 1
    asm.goto(otherwise)


def _granted(asm: Assembly, grant: Grant, port_start: int) -> None:
    if "granted" not in asm.wanted:
        return
    asm.label("granted")
    if grant.limit:
        asm.map_value(R1, COUNTERS, counters.offset(BOUND))
        asm.load_64(R1, R1, 0)
        asm.wide(R2, grant.limit)
        asm.jump_if_wide(R1, ">=", R2, "refused", f"all {grant.limit} binds are used up")
        _slot(asm)
        asm.load_32(R2, R3, 0)
        asm.jump_if(R2, "!=", R1, "unmarked")
        asm.store_32(R3, 0, 0, "lifted by us, so counted after the bind")
        asm.label("unmarked")
    cells = reuse_cells(grant.reuse_ports, 1, port_start)
    if cells:
        asm.load_32(_PORT, _CONTEXT, _USER_PORT)
        asm.from_network(_PORT, 16)
        _search_ports(asm, cells, _PORT, (1, port_start - 1), ("shared", {BOTH: "share"}, "lifted"))
        asm.label("share")
        _share(asm)
    asm.label("lifted")
    _count(asm, GRANTED, "one more granted")
    asm.move(R0, LIFTED)
    asm.exit("allowed without CAP_NET_BIND_SERVICE")


def _share(asm: Assembly) -> None:
    asm.store_32(R10, _ONE, 1)
    asm.move(R1, _CONTEXT)
    asm.move(R2, _SOL_SOCKET)
    asm.move(R3, SO_REUSEPORT)
    asm.move(R4, R10)
    asm.add(R4, _ONE)
    asm.move(R5, 4)
    asm.call("setsockopt", "SO_REUSEPORT")


def _post_bind(limit: int, port_start: int, hook: int) -> Assembly:
    asm = Assembly("after a bind of an IPv4 socket" if hook == INET4_POST_BIND else "after a bind of an IPv6 socket")
    asm.load_32(_PORT, R1, _SRC_PORT)
    asm.jump_if(_PORT, ">=", port_start, "accept", "not reserved")
    _slot(asm)
    asm.load_32(R2, R3, 0)
    asm.jump_if(R2, "==", R1, "accept", "not lifted by us: the caller had the right itself")
    asm.map_value(R6, COUNTERS)
    asm.move(R1, 1)
    asm.atomic_fetch_add(R6, counters.offset(BOUND), R1)
    asm.wide(R2, limit)
    asm.jump_if_wide(R1, "<", R2, "accept", f"one of {limit} binds")
    asm.move(R1, -1)
    asm.atomic_add(R6, counters.offset(BOUND), R1, "others were faster: give the port back")
    asm.atomic_add(R6, counters.offset(GRANTED), R1)
    asm.move(R1, 1)
    asm.atomic_add(R6, counters.offset(REFUSED), R1)
    asm.move(R1, -_EACCES)
    asm.call("set_retval", "EACCES, as without a grant")
    asm.move(R0, _REJECT)
    asm.exit()
    asm.label("accept")
    asm.move(R0, _ACCEPT)
    asm.exit()
    return asm


def _slot(asm: Assembly) -> None:
    """Put the thread's id into R1 and the address of its slot into R3; R0 and R2 to R5 are lost."""
    asm.call("get_current_pid_tgid")
    asm.move_32(R1, R0, "this thread")
    asm.move(R2, R1)
    asm.mask(R2, _SLOTS - 1)
    asm.shift_left(R2, 2)
    asm.map_value(R3, MARKS, 0, "its slot")
    asm.add(R3, R2)


def _count(asm: Assembly, counter: int, comment: str) -> None:
    asm.map_value(R1, COUNTERS, counters.offset(counter), comment)
    asm.move(R2, 1)
    asm.atomic_add(R1, 0, R2)
