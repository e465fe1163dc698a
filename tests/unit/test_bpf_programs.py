"""The compiled programs, run on a small machine and held to `Policy.permits`; no kernel is asked."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privbind.grant import counters
from privbind.grant.counters import BOUND, GRANTED, REFUSED
from privbind.grant.grant import Grant
from privbind.grant.policy import MAX_RULES, Policy, Ports, Rule, parse_ports
from privbind.grant.site import Site
from privbind.linux import bpf
from privbind.mechanisms.bpf import assembly, compiler, disassembly, search
from privbind.values import replaced

from ..harness import bpf_machine as machine
from ..harness.bpf_machine import CONTEXT, TCP, UDP, UDPLITE, unreachable
from ..harness.policies import close_binds, close_rules, packed

COUNTERS, MARKS = 0x30000000, 0x40000000
SITE = Site(netns=0x99AABBCCDDEEFF, port_start=1024, cgroup=0x1122334455667788, depth=3, exact=True)
MAPS = {"counters": 11, "marks": 12}


class Machine(machine.Machine):
    """The maps of a launch's programs, and the process that binds."""

    def __init__(self) -> None:
        super().__init__(MAPS)
        self.counters = self.regions[COUNTERS] = bytearray(compiler.COUNTERS_SIZE)
        self.regions[MARKS] = bytearray(compiler.MARKS_SIZE)
        self.levels = {0: 1, 1: 2, 2: 3, 3: SITE.cgroup}
        self.netns = SITE.netns
        self.thread = 4711
        self.reuse_port = False
        self.retval = 0

    def counter(self, counter: int) -> int:
        return int(struct.unpack_from("<Q", self.counters, counters.offset(counter))[0])

    def set_bound(self, count: int) -> None:
        """Let so many binds have succeeded."""
        struct.pack_into("<Q", self.counters, counters.offset(BOUND), count)

    def bind(self, programs: Mapping[int, assembly.Assembly], protocol: int, address: bytes, port: int) -> int:
        """What the bind hook answers."""
        self.reuse_port = False
        return super().bind(programs, protocol, address, port)

    def bound(self, programs: dict[int, assembly.Assembly], port: int) -> int:
        """What the post-bind hook answers."""
        context = bytearray(72)
        struct.pack_into("<I", context, 44, port)
        return self.run(programs[bpf.INET4_POST_BIND], context)

    def value_of_map(self, number: int) -> int:
        return {MAPS["counters"]: COUNTERS, MAPS["marks"]: MARKS}[number]

    def call(self, helper: str, r: list[int]) -> int:
        if helper == "get_current_pid_tgid":
            return 99 << 32 | self.thread
        if helper == "get_netns_cookie":
            assert r[1] == CONTEXT
            return self.netns
        if helper == "get_current_ancestor_cgroup_id":
            return self.levels.get(r[1], 0)
        if helper == "set_retval":
            self.retval = r[1] - (1 << 64) if r[1] >> 63 else r[1]
            return 0
        assert helper == "setsockopt"
        assert (r[1], r[2], r[3], r[5]) == (CONTEXT, 1, 15, 4)
        assert self.load(r[4], 4) == 1
        self.reuse_port = True
        return 0


def compiled(rules: str = "", limit: int = 0, reuse: str = "", site: Site = SITE) -> dict[int, assembly.Assembly]:
    grant = Grant(Policy.parse([rules]) if rules else Policy(None), limit, parse_ports(reuse) if reuse else ())
    return compiler.programs(grant, site)


@given(
    policy=st.one_of(st.none(), st.lists(close_rules(), min_size=1, max_size=12)),
    port_start=st.sampled_from([1024, 1024, 2, 80, 81, 2000, 65535]),
    tries=st.lists(close_binds(), min_size=1, max_size=40),
)
@settings(max_examples=400, deadline=None)
def test_decisions_are_those_of_the_policy(
    policy: list[Rule] | None, port_start: int, tries: list[tuple[int, bytes, int]]
) -> None:
    """A bind is lifted exactly if it is of a reserved port and Policy.permits it."""
    grant = Grant(Policy(policy))
    programs = compiler.programs(grant, replaced(SITE, port_start=port_start))
    for program in programs.values():
        assert unreachable(program, MAPS) == []
    host = Machine()
    granted = refused = 0
    for protocol, address, port in tries:
        name = {TCP: "tcp", UDP: "udp"}.get(protocol)
        reserved = 0 < port < port_start
        lifted = reserved and grant.policy.permits(name, address, port)
        answer = host.bind(programs, protocol, address, port)
        assert answer == (compiler.LIFTED if lifted else compiler.NATIVE), (protocol, address, port)
        granted += lifted
        refused += reserved and not lifted
    assert (host.counter(GRANTED), host.counter(REFUSED)) == (granted, refused)


def test_everything_reserved() -> None:
    """Without a policy a reserved port of any protocol is granted, and only that."""
    programs = compiled()
    host = Machine()
    for protocol in (TCP, UDP, UDPLITE):
        assert host.bind(programs, protocol, packed("10.0.0.1"), 1) == compiler.LIFTED
        assert host.bind(programs, protocol, packed("::"), 1023) == compiler.LIFTED
    assert host.bind(programs, TCP, packed("10.0.0.1"), 1024) == compiler.NATIVE
    assert host.bind(programs, TCP, packed("10.0.0.1"), 0) == compiler.NATIVE


@pytest.mark.parametrize("exact", [True, False])
def test_strangers_get_nothing(exact: bool) -> None:
    """Only a process in the cgroup, or in one below it, and only in the launch's network namespace."""
    programs = compiled("tcp:80", site=SITE.in_cgroup(SITE.cgroup, 3 if exact else 1, exact))
    host = Machine()
    bind = (programs, TCP, packed("0.0.0.0"), 80)
    assert host.bind(*bind) == compiler.LIFTED
    host.levels[4] = 77
    assert host.bind(*bind) == compiler.LIFTED
    host.levels[3] = 78
    assert host.bind(*bind) == compiler.NATIVE
    host.levels = {0: 1}
    assert host.bind(*bind) == compiler.NATIVE
    host = Machine()
    host.netns += 1
    assert host.bind(*bind) == compiler.NATIVE


def test_a_cgroup_below_a_namespace_is_found_at_any_depth() -> None:
    """Where the depth is not known, deeper levels are tried too, as far as a limit, and never shallower ones."""
    programs = compiled(site=SITE.in_cgroup(SITE.cgroup, 2, exact=False))
    for depth, expected in ((2, 3), (3, 3), (20, 3), (33, 3), (34, 1), (1, 1)):
        host = Machine()
        host.levels = {level: SITE.cgroup if level == depth else 1000 + level for level in range(depth + 2)}
        assert host.bind(programs, TCP, packed("::1"), 80) == expected, depth


class TestLimit:
    """-n: what the two hooks do together."""

    def test_exactly_so_many(self) -> None:
        programs = compiled("tcp:80", limit=2)
        host = Machine()
        for _ in range(2):
            assert host.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
            assert host.bound(programs, 80) == 1
        assert host.bind(programs, TCP, packed("::1"), 80) == compiler.NATIVE
        assert [host.counter(counter) for counter in (GRANTED, REFUSED, BOUND)] == [2, 1, 2]

    def test_the_last_ones_race(self) -> None:
        """Two threads pass the first check; the second to get its port gives it back and hears EACCES."""
        programs = compiled("tcp:80", limit=1)
        host = Machine()
        for host.thread in (1, 2):
            assert host.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        host.thread = 1
        assert host.bound(programs, 80) == 1
        host.thread = 2
        assert host.bound(programs, 80) == 0
        assert host.retval == -13
        assert [host.counter(counter) for counter in (GRANTED, REFUSED, BOUND)] == [1, 1, 1]

    def test_binds_that_fail_are_not_counted(self) -> None:
        programs = compiled("tcp:80", limit=1)
        host = Machine()
        for _ in range(5):
            assert host.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED  # then EADDRINUSE: no second hook
        assert host.bound(programs, 80) == 1
        assert host.counter(BOUND) == 1

    def test_binds_that_were_not_lifted_are_not_counted(self) -> None:
        """A process that has the capability itself binds what is not granted, and binds when all is used up."""
        programs = compiled("tcp:80", limit=1)
        host = Machine()
        assert host.bind(programs, TCP, packed("::1"), 81) == compiler.NATIVE
        assert host.bound(programs, 81) == 1
        assert host.counter(BOUND) == 0
        assert host.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        assert host.bound(programs, 80) == 1
        assert host.bind(programs, TCP, packed("::1"), 80) == compiler.NATIVE
        assert host.bound(programs, 80) == 1
        assert host.counter(BOUND) == 1

    def test_other_ports_are_not_counted(self) -> None:
        programs = compiled(limit=1)
        host = Machine()
        assert host.bind(programs, TCP, packed("::1"), 0) == compiler.NATIVE
        assert host.bound(programs, 40000) == 1
        assert host.counter(BOUND) == 0

    def test_what_another_thread_does_with_the_socket_does_not_hide_a_bind(self) -> None:
        """Thread 2 tries an unreserved port of the same socket between thread 1's two hooks."""
        programs = compiled(limit=1)
        host = Machine()
        host.thread = 1
        assert host.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        host.thread = 2
        assert host.bind(programs, TCP, packed("::1"), 8080) == compiler.NATIVE
        host.thread = 1
        assert host.bound(programs, 80) == 1
        assert host.counter(BOUND) == 1

    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["granted", "refused", "in use"])), max_size=60))
    @settings(deadline=None)
    def test_threads_that_share_a_slot(self, story: list[tuple[int, str]]) -> None:
        """Whatever threads of the same slot do, never more binds are lifted and kept than the limit."""
        programs = compiled("80", limit=3)
        host = Machine()
        kept = 0
        pending: dict[int, bool] = {}
        for number, what in story:
            host.thread = 5 + 4096 * number
            if pending.pop(number, False):
                kept += host.bound(programs, 80)
            lifted = host.bind(programs, TCP, packed("::1"), 81 if what == "refused" else 80) == compiler.LIFTED
            pending[number] = lifted and what == "granted"
        assert kept <= 3
        assert host.counter(BOUND) == kept

    def test_the_largest_limit(self) -> None:
        programs = compiled(limit=0xFFFFFFFF)
        host = Machine()
        host.set_bound(0xFFFFFFFE)
        assert host.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        assert host.bound(programs, 80) == 1
        assert host.bind(programs, TCP, packed("::1"), 80) == compiler.NATIVE

    def test_without_a_limit_there_is_no_second_hook(self) -> None:
        assert set(compiled()) == {bpf.INET4_BIND, bpf.INET6_BIND}
        assert set(compiled(limit=1)) == set(compiler.NAMES)


def test_reuse_port() -> None:
    """SO_REUSEPORT is set for these ports when they are granted, and for no others."""
    programs = compiled("tcp:80-90,tcp:443", reuse="80,85-87,443,500-2000")
    host = Machine()
    for port, granted, shared in ((80, 3, True), (81, 3, False), (86, 3, True), (443, 3, True), (500, 1, False)):
        assert host.bind(programs, TCP, packed("0.0.0.0"), port) == granted
        assert host.reuse_port is shared, port
    assert host.bind(programs, UDP, packed("0.0.0.0"), 80) == compiler.NATIVE
    assert not host.reuse_port


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("rules", ["", "tcp:80", "tcp:8080", "tcp:10.0.0.0/8:80,udp:[::1]:53"])
@pytest.mark.parametrize(
    ("start", "reuse", "shared", "others"),
    [
        (1024, "8080", (8080,), (1024, 8079, 8081, 65535)),
        (1024, "80,8080-8090,9000,9002,9004,9006,1024", (1024, 8080, 8090, 9000, 9006), (1025, 8079, 8091, 9001)),
        (1024, "any", (1024, 8080, 65535), ()),
        (1024, "1000-2000", (1024, 2000), (2001,)),
        (81, "80-81,65535", (81, 65535), (82, 65534)),
        (1, "any", (1, 80, 65535), ()),
        (0, "80", (80,), (1, 79, 81)),
    ],
)
def test_reuse_of_ports_that_are_not_reserved(  # noqa: PLR0917  # a table
    start: int, reuse: str, shared: tuple[int, ...], others: tuple[int, ...], rules: str, limit: int
) -> None:
    """SO_REUSEPORT is set whatever the rules are, by the command and in its namespace; the kernel decides the bind."""
    site = Site(SITE.netns, start).in_cgroup(SITE.cgroup, SITE.depth, SITE.exact)
    programs = compiled(rules, limit, reuse, site)
    machine = Machine()
    before = bytes(machine.counters)
    for address in ("0.0.0.0", "10.1.2.3", "::", "::1", "::ffff:10.1.2.3"):
        for protocol in (TCP, UDP):
            for port in (0, *shared, *others):
                assert machine.bind(programs, protocol, packed(address), port) == compiler.NATIVE
                assert machine.reuse_port is (port in shared), port
    assert machine.counters == before
    machine.netns += 1
    assert machine.bind(programs, TCP, packed("::"), shared[0]) == compiler.NATIVE
    assert not machine.reuse_port
    machine.netns -= 1
    machine.levels[3] += 1
    assert machine.bind(programs, TCP, packed("::"), shared[0]) == compiler.NATIVE
    assert not machine.reuse_port


def long_policies() -> dict[str, list[Rule]]:
    """The longest policies, each unlike the others."""

    def network6(number: int) -> bytes:
        return (number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128)).to_bytes(16, "big")

    def network4(number: int) -> bytes:
        return (number * 0x9E3779B1 % (1 << 32)).to_bytes(4, "big")

    count = range(1, MAX_RULES + 1)
    return {
        "ports": [Rule("tcp", None, 0, Ports(port, port)) for port in count],
        "every other port": [Rule(("tcp", "udp")[port & 1], None, 0, Ports(port, port)) for port in count],
        "overlapping ranges": [Rule(("tcp", "udp")[n & 1], None, 0, Ports(n, n + 20)) for n in count],
        "IPv4 and ranges": [Rule("tcp", network4(n), 32, Ports(n % 900 + 1, n % 900 + 99)) for n in count],
        "IPv6 and ranges": [Rule("tcp", network6(n), 128, Ports(n % 900 + 1, n % 900 + 99)) for n in count],
        "IPv6 side by side": [Rule("udp", n.to_bytes(16, "big"), 128, Ports(2, 1000)) for n in range(2, MAX_RULES + 2)],
        "nested": [
            Rule("udp", bytes([128 >> n % 8 if k == n // 8 % 16 else 0 for k in range(16)]), n % 128 + 1, Ports(n, n))
            for n in count
        ],
        "both families": [
            Rule("tcp", (network4(n), network6(n))[n & 1], (32, 128)[n & 1], Ports(n % 900 + 1, n % 900 + 99))
            for n in count
        ],
    }


@pytest.mark.parametrize("name", long_policies())
def test_the_longest_policies_fit(name: str) -> None:
    """No jump is too far, a bind takes few steps, and decisions are still the policy's."""
    rules = long_policies()[name]
    policy = Policy(rules)
    programs = compiler.programs(Grant(policy, 5, parse_ports("1-10,80")), SITE)
    host = Machine()
    for rule in rules[::50]:
        host.set_bound(0)
        address = rule.network or packed("::1")
        for port in {rule.ports.low, rule.ports.high, max(1, rule.ports.low - 1)}:
            for protocol in (TCP, UDP):
                answer = host.bind(programs, protocol, address, port)
                assert (answer == compiler.LIFTED) == policy.permits({TCP: "tcp", UDP: "udp"}[protocol], address, port)
                assert host.steps < 400
    assert max(len(program.lines) for program in programs.values()) < 32768


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 30), st.integers(1, 3)).map(lambda c: (c[0], c[0] + c[1], c[2])),
        max_size=12,
    )
)
def test_merged_cells(cells: list[tuple[int, int, int]]) -> None:
    """The same ports for the same protocols, sorted, without overlap, and no two neighbours alike."""

    def masks(of: list[tuple[int, int, int]]) -> list[int]:
        found = [0] * 100
        for low, high, mask in of:
            for port in range(low, high + 1):
                found[port] |= mask
        return found

    merged = search.merged(cells)
    assert masks(merged) == masks(cells)
    for (_, high, mask), (low, _, following) in itertools.pairwise(merged):
        assert high < low
        assert high + 1 < low or mask != following


class TestAssembly:
    """The assembler by itself."""

    def test_a_jump_that_is_too_far_is_refused(self) -> None:
        asm = assembly.Assembly("too long")
        asm.goto("end")
        for _ in range(32768):
            asm.move(assembly.R0, 0)
        asm.label("end")
        asm.exit()
        with pytest.raises(OverflowError, match="too long: 'end' is 32768 instructions away"):
            asm.code({})

    def test_encoding(self) -> None:
        """A few instructions, as Documentation/bpf/standardization/instruction-set.rst has them."""
        asm = assembly.Assembly("encoding")
        asm.move(assembly.R6, assembly.R1)
        asm.load_32(assembly.R7, assembly.R6, 24)
        asm.from_network(assembly.R7, 16)
        asm.jump_if(assembly.R7, ">=", 1024, "end")
        asm.wide(assembly.R1, 0x1122334455667788)
        asm.map_value(assembly.R2, "counters", 16)
        asm.jump_if_wide(assembly.R1, "!=", assembly.R2, "end")
        asm.label("end")
        asm.exit()
        assert asm.code(MAPS).hex(" ", 8).split() == [
            "bf16000000000000",
            "6167180000000000",
            "dc07000010000000",
            "3607050000040000",
            "1801000088776655",
            "0000000044332211",
            "182200000b000000",
            "0000000010000000",
            "5d21000000000000",
            "9500000000000000",
        ]

    def test_a_jump_to_the_next_instruction_is_left_out(self) -> None:
        asm = assembly.Assembly("peephole")
        asm.goto("next")
        asm.label("next")
        asm.exit()
        assert len(asm.lines) == 1

    def test_but_not_one_that_something_jumps_to(self) -> None:
        asm = assembly.Assembly("peephole")
        asm.jump_if(assembly.R1, "==", 0, "there")
        asm.goto("next")
        asm.label("there")
        asm.label("next")
        asm.exit()
        assert len(asm.code({})) == 24


def test_listing_reads_like_the_close_rules() -> None:
    """Each rule stands where it is granted; labels lead the reader."""
    text = disassembly.lines(compiled("tcp:80,udp:10.0.0.0/8:53,[::1]:1-9", limit=3, reuse="80")[bpf.INET6_BIND])
    assert text[0] == "# before a bind of an IPv6 socket"
    joined = "\n".join(text)
    for shown in ("# tcp:80", "# udp:10.0.0.0/8:53", "# [::1]:1-9", "granted:", "# all 3 binds are used up", "exit"):
        assert shown in joined
    assert not any(line.endswith(" ") for line in text)
    wanted = {line.split("goto ")[1].split("#")[0].strip() for line in text if "goto " in line}
    assert wanted <= {line[:-1] for line in text if not line.startswith((" ", "#"))}


def test_listing_shows_every_instruction() -> None:
    """All four programs, each instruction in words."""
    for program in compiled("tcp:80,udp:[fd00::/8]:53", limit=3, reuse="80-90").values():
        shown = [line for line in disassembly.lines(program) if line.startswith(" ")]
        assert len(shown) == sum(1 for line in program.lines if line[0])
