"""The compiled programs, run on a small machine and held to `Policy.permits`; no kernel is asked."""

from __future__ import annotations

import ipaddress
import itertools
import operator
import struct

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

MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
CONTEXT, STACK_TOP, COUNTERS, MARKS = 0x10000000, 0x20000200, 0x30000000, 0x40000000
SITE = Site(netns=0x99AABBCCDDEEFF, port_start=1024, cgroup=0x1122334455667788, depth=3, exact=True)
MAPS = {"counters": 11, "marks": 12}
TCP, UDP, UDPLITE = 6, 17, 136
COMPARE = {
    assembly.TESTS[text]: compare
    for text, compare in {
        "==": operator.eq,
        "!=": operator.ne,
        ">": operator.gt,
        ">=": operator.ge,
        "<": operator.lt,
        "<=": operator.le,
    }.items()
}
HELPERS = {number: name for name, number in assembly.HELPERS.items()}


class Machine:
    """As much of the kernel's BPF machine as the programs use, with its maps and the process that binds."""

    def __init__(self) -> None:
        self.regions = {CONTEXT: bytearray(72), STACK_TOP - 512: bytearray(512)}
        self.counters = self.regions[COUNTERS] = bytearray(compiler.COUNTERS_SIZE)
        self.regions[MARKS] = bytearray(compiler.MARKS_SIZE)
        self.levels = {0: 1, 1: 2, 2: 3, 3: SITE.cgroup}
        self.netns = SITE.netns
        self.thread = 4711
        self.reuse_port = False
        self.retval = 0
        self.steps = 0
        self.decoded: dict[assembly.Assembly, list[tuple[int, int, int, int]]] = {}

    def counter(self, counter: int) -> int:
        return int(struct.unpack_from("<Q", self.counters, counters.offset(counter))[0])

    def set_bound(self, count: int) -> None:
        """Let so many binds have succeeded."""
        struct.pack_into("<Q", self.counters, counters.offset(BOUND), count)

    def bind(self, programs: dict[int, assembly.Assembly], protocol: int, address: bytes, port: int) -> int:
        """What the bind hook answers."""
        hook = bpf.INET4_BIND if len(address) == 4 else bpf.INET6_BIND
        context = bytearray(72)
        start = compiler._USER_IP4 if len(address) == 4 else compiler._USER_IP6
        context[start : start + len(address)] = address
        context[24:26] = port.to_bytes(2, "big")
        struct.pack_into("<I", context, 36, protocol)
        self.reuse_port = False
        return self.run(programs[hook], context)

    def bound(self, programs: dict[int, assembly.Assembly], port: int) -> int:
        """What the post-bind hook answers."""
        context = bytearray(72)
        struct.pack_into("<I", context, 44, port)
        return self.run(programs[bpf.INET4_POST_BIND], context)

    def _memory(self, address: int, size: int) -> tuple[bytearray, int]:
        for start, memory in self.regions.items():
            if start <= address and address + size <= start + len(memory):
                return memory, address - start
        raise AssertionError(f"access outside of all memory: {address:#x}")

    def _load(self, address: int, size: int) -> int:
        memory, offset = self._memory(address, size)
        return int.from_bytes(memory[offset : offset + size], "little")

    def _store(self, address: int, size: int, value: int) -> None:
        memory, offset = self._memory(address, size)
        memory[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def run(self, program: assembly.Assembly, context: bytearray) -> int:
        """Run a program to its end."""
        self.regions[CONTEXT] = context
        if program not in self.decoded:
            self.decoded[program] = list(struct.iter_unpack("<BBhI", program.code(MAPS)))
        instructions = self.decoded[program]
        r = [0] * 11
        r[1], r[10] = CONTEXT, STACK_TOP
        place = 0
        self.steps = 0
        while True:
            self.steps += 1
            opcode, registers, offset, immediate = instructions[place]
            to, source = registers & 15, registers >> 4
            signed = immediate - (1 << 32) if immediate >> 31 else immediate
            place += 1
            kind = opcode & 7
            right = r[source] if opcode & 8 else signed & MASK64
            if opcode == assembly.WIDE:
                upper = instructions[place][3]
                base = {11: COUNTERS, 12: MARKS}[immediate] if source == assembly.MAP_VALUE else None
                r[to] = base + upper if base is not None else upper << 32 | immediate
                place += 1
            elif opcode == assembly.LOAD_32:
                r[to] = self._load(r[source] + offset, 4)
            elif opcode == assembly.LOAD_64:
                r[to] = self._load(r[source] + offset, 8)
            elif opcode == assembly.STORE_32:
                self._store(r[to] + offset, 4, r[source])
            elif opcode == assembly.STORE_CONSTANT_32:
                self._store(r[to] + offset, 4, immediate)
            elif opcode == assembly.ATOMIC_ADD_64:
                before = self._load(r[to] + offset, 8)
                self._store(r[to] + offset, 8, before + r[source])
                if immediate & assembly.FETCH:
                    r[source] = before
            elif opcode == assembly.ALU | assembly.TO_BE:
                size = immediate // 8
                r[to] = int.from_bytes((r[to] & (1 << immediate) - 1).to_bytes(size, "little"), "big")
            elif opcode == assembly.JMP | assembly.EXIT:
                return r[0]
            elif opcode == assembly.JMP | assembly.CALL:
                r[0] = self._call(HELPERS[immediate], r) & MASK64
                r[1:6] = [0xDEAD] * 5  # lost
            elif kind in (assembly.ALU, assembly.ALU64):
                left = r[to]
                operation = opcode & 0xF0
                result = {
                    assembly.MOV: right,
                    assembly.ADD: left + right,
                    assembly.AND: left & right,
                    assembly.LSH: left << (right & 63),
                    assembly.RSH: left >> (right & 63),
                }[operation]
                r[to] = result & (MASK32 if kind == assembly.ALU else MASK64)
            elif opcode == assembly.JMP | assembly.JA:
                place += offset
            else:
                mask = MASK32 if kind == assembly.JMP32 else MASK64
                left, right = r[to] & mask, right & mask
                if COMPARE[opcode & 0xF0](left, right):
                    place += offset

    def _call(self, helper: str, r: list[int]) -> int:
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
        assert self._load(r[4], 4) == 1
        self.reuse_port = True
        return 0


def compiled(rules: str = "", limit: int = 0, reuse: str = "", site: Site = SITE) -> dict[int, assembly.Assembly]:
    grant = Grant(Policy.parse([rules]) if rules else Policy(None), limit, parse_ports(reuse) if reuse else ())
    return compiler.programs(grant, site)


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


# Few enough networks and ports that random binds meet them, with nesting, wildcards and mapped addresses among them.
ADDRESSES_4 = [
    "0.0.0.0",
    "0.0.0.1",
    "10.0.0.0",
    "10.0.0.1",
    "10.128.0.0",
    "127.0.0.1",
    "192.168.1.0",
    "255.255.255.255",
]
ADDRESSES_6 = [
    "::",
    "::1",
    "::fffe:0:1",
    "::1:0:0:0",
    "fd00::",
    "fd00::1",
    "fd00:0:0:1::",
    "fd00:0:0:1:8000::",
    "fe80::1",
]
ADDRESSES_6 += [f"::ffff:{address}" for address in ADDRESSES_4] + ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
PORTS = [1, 2, 22, 79, 80, 81, 100, 443, 444, 512, 1022, 1023, 1024, 2000, 65535]

ports = st.one_of(st.sampled_from(PORTS), st.integers(1, 65535))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    protocol = draw(st.sampled_from(["tcp", "udp", None]))
    low, high = sorted((draw(ports), draw(ports))) if draw(st.booleans()) else (draw(ports),) * 2
    span = Ports(low, high) if draw(st.integers(0, 9)) else Ports(1, 65535)
    if not draw(st.integers(0, 3)):
        return Rule(protocol, None, 0, span)
    address = packed(draw(st.sampled_from(ADDRESSES_4 + ADDRESSES_6)))
    bits = 8 * len(address)
    prefix = draw(
        st.one_of(st.sampled_from([bits, 0, 8, bits - 1, min(bits, 64), min(bits, 96)]), st.integers(0, bits))
    )
    network = (int.from_bytes(address, "big") >> bits - prefix << bits - prefix).to_bytes(len(address), "big")
    return Rule(protocol, network, prefix, span)


@st.composite
def binds(draw: st.DrawFn) -> tuple[int, bytes, int]:
    address = packed(draw(st.sampled_from(ADDRESSES_4 + ADDRESSES_6)))
    if draw(st.booleans()):
        bits = 8 * len(address)
        address = (int.from_bytes(address, "big") ^ 1 << draw(st.integers(0, bits - 1))).to_bytes(len(address), "big")
    return draw(st.sampled_from([TCP, TCP, UDP, UDP, UDPLITE])), address, draw(st.one_of(st.just(0), ports))


@given(
    policy=st.one_of(st.none(), st.lists(rules(), min_size=1, max_size=12)),
    port_start=st.sampled_from([1024, 1024, 2, 80, 81, 2000, 65535]),
    tries=st.lists(binds(), min_size=1, max_size=40),
)
@settings(max_examples=400, deadline=None)
def test_decisions_are_those_of_the_policy(
    policy: list[Rule] | None, port_start: int, tries: list[tuple[int, bytes, int]]
) -> None:
    """A bind is lifted exactly if it is of a reserved port and Policy.permits it."""
    grant = Grant(Policy(policy))
    programs = compiler.programs(grant, replaced(SITE, port_start=port_start))
    for program in programs.values():
        assert unreachable(program) == []
    machine = Machine()
    granted = refused = 0
    for protocol, address, port in tries:
        name = {TCP: "tcp", UDP: "udp"}.get(protocol)
        reserved = 0 < port < port_start
        lifted = reserved and grant.policy.permits(name, address, port)
        answer = machine.bind(programs, protocol, address, port)
        assert answer == (compiler.LIFTED if lifted else compiler.NATIVE), (protocol, address, port)
        granted += lifted
        refused += reserved and not lifted
    assert (machine.counter(GRANTED), machine.counter(REFUSED)) == (granted, refused)


def unreachable(program: assembly.Assembly) -> list[int]:
    """The instructions to which no way leads: the kernel's verifier takes none."""
    instructions = list(struct.iter_unpack("<BBhI", program.code(MAPS)))
    seen: set[int] = set()
    ways = [0]
    while ways:
        place = ways.pop()
        if place in seen:
            continue
        seen.add(place)
        opcode, _, offset, _ = instructions[place]
        if opcode == assembly.WIDE:
            seen.add(place + 1)
            ways.append(place + 2)
        elif opcode == assembly.JMP | assembly.EXIT:
            continue
        elif opcode == assembly.JMP | assembly.JA:
            ways.append(place + 1 + offset)
        else:
            ways.append(place + 1)
            if opcode & 7 in (assembly.JMP, assembly.JMP32) and opcode != assembly.JMP | assembly.CALL:
                ways.append(place + 1 + offset)
    return sorted(set(range(len(instructions))) - seen)


def test_everything_reserved() -> None:
    """Without a policy a reserved port of any protocol is granted, and only that."""
    programs = compiled()
    machine = Machine()
    for protocol in (TCP, UDP, UDPLITE):
        assert machine.bind(programs, protocol, packed("10.0.0.1"), 1) == compiler.LIFTED
        assert machine.bind(programs, protocol, packed("::"), 1023) == compiler.LIFTED
    assert machine.bind(programs, TCP, packed("10.0.0.1"), 1024) == compiler.NATIVE
    assert machine.bind(programs, TCP, packed("10.0.0.1"), 0) == compiler.NATIVE


@pytest.mark.parametrize("exact", [True, False])
def test_strangers_get_nothing(exact: bool) -> None:
    """Only a process in the cgroup, or in one below it, and only in the launch's network namespace."""
    programs = compiled("tcp:80", site=SITE.in_cgroup(SITE.cgroup, 3 if exact else 1, exact))
    machine = Machine()
    bind = (programs, TCP, packed("0.0.0.0"), 80)
    assert machine.bind(*bind) == compiler.LIFTED
    machine.levels[4] = 77
    assert machine.bind(*bind) == compiler.LIFTED
    machine.levels[3] = 78
    assert machine.bind(*bind) == compiler.NATIVE
    machine.levels = {0: 1}
    assert machine.bind(*bind) == compiler.NATIVE
    machine = Machine()
    machine.netns += 1
    assert machine.bind(*bind) == compiler.NATIVE


def test_a_cgroup_below_a_namespace_is_found_at_any_depth() -> None:
    """Where the depth is not known, deeper levels are tried too, as far as a limit, and never shallower ones."""
    programs = compiled(site=SITE.in_cgroup(SITE.cgroup, 2, exact=False))
    for depth, expected in ((2, 3), (3, 3), (20, 3), (33, 3), (34, 1), (1, 1)):
        machine = Machine()
        machine.levels = {level: SITE.cgroup if level == depth else 1000 + level for level in range(depth + 2)}
        assert machine.bind(programs, TCP, packed("::1"), 80) == expected, depth


class TestLimit:
    """-n: what the two hooks do together."""

    def test_exactly_so_many(self) -> None:
        programs = compiled("tcp:80", limit=2)
        machine = Machine()
        for _ in range(2):
            assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
            assert machine.bound(programs, 80) == 1
        assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.NATIVE
        assert [machine.counter(counter) for counter in (GRANTED, REFUSED, BOUND)] == [2, 1, 2]

    def test_the_last_ones_race(self) -> None:
        """Two threads pass the first check; the second to get its port gives it back and hears EACCES."""
        programs = compiled("tcp:80", limit=1)
        machine = Machine()
        for machine.thread in (1, 2):
            assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        machine.thread = 1
        assert machine.bound(programs, 80) == 1
        machine.thread = 2
        assert machine.bound(programs, 80) == 0
        assert machine.retval == -13
        assert [machine.counter(counter) for counter in (GRANTED, REFUSED, BOUND)] == [1, 1, 1]

    def test_binds_that_fail_are_not_counted(self) -> None:
        programs = compiled("tcp:80", limit=1)
        machine = Machine()
        for _ in range(5):
            assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED  # then EADDRINUSE: no second hook
        assert machine.bound(programs, 80) == 1
        assert machine.counter(BOUND) == 1

    def test_binds_that_were_not_lifted_are_not_counted(self) -> None:
        """A process that has the capability itself binds what is not granted, and binds when all is used up."""
        programs = compiled("tcp:80", limit=1)
        machine = Machine()
        assert machine.bind(programs, TCP, packed("::1"), 81) == compiler.NATIVE
        assert machine.bound(programs, 81) == 1
        assert machine.counter(BOUND) == 0
        assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        assert machine.bound(programs, 80) == 1
        assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.NATIVE
        assert machine.bound(programs, 80) == 1
        assert machine.counter(BOUND) == 1

    def test_other_ports_are_not_counted(self) -> None:
        programs = compiled(limit=1)
        machine = Machine()
        assert machine.bind(programs, TCP, packed("::1"), 0) == compiler.NATIVE
        assert machine.bound(programs, 40000) == 1
        assert machine.counter(BOUND) == 0

    def test_what_another_thread_does_with_the_socket_does_not_hide_a_bind(self) -> None:
        """Thread 2 tries an unreserved port of the same socket between thread 1's two hooks."""
        programs = compiled(limit=1)
        machine = Machine()
        machine.thread = 1
        assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        machine.thread = 2
        assert machine.bind(programs, TCP, packed("::1"), 8080) == compiler.NATIVE
        machine.thread = 1
        assert machine.bound(programs, 80) == 1
        assert machine.counter(BOUND) == 1

    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["granted", "refused", "in use"])), max_size=60))
    @settings(deadline=None)
    def test_threads_that_share_a_slot(self, story: list[tuple[int, str]]) -> None:
        """Whatever threads of the same slot do, never more binds are lifted and kept than the limit."""
        programs = compiled("80", limit=3)
        machine = Machine()
        kept = 0
        pending: dict[int, bool] = {}
        for number, what in story:
            machine.thread = 5 + 4096 * number
            if pending.pop(number, False):
                kept += machine.bound(programs, 80)
            lifted = machine.bind(programs, TCP, packed("::1"), 81 if what == "refused" else 80) == compiler.LIFTED
            pending[number] = lifted and what == "granted"
        assert kept <= 3
        assert machine.counter(BOUND) == kept

    def test_the_largest_limit(self) -> None:
        programs = compiled(limit=0xFFFFFFFF)
        machine = Machine()
        machine.set_bound(0xFFFFFFFE)
        assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.LIFTED
        assert machine.bound(programs, 80) == 1
        assert machine.bind(programs, TCP, packed("::1"), 80) == compiler.NATIVE

    def test_without_a_limit_there_is_no_second_hook(self) -> None:
        assert set(compiled()) == {bpf.INET4_BIND, bpf.INET6_BIND}
        assert set(compiled(limit=1)) == set(compiler.NAMES)


def test_reuse_port() -> None:
    """SO_REUSEPORT is set for these ports when they are granted, and for no others."""
    programs = compiled("tcp:80-90,tcp:443", reuse="80,85-87,443,500-2000")
    machine = Machine()
    for port, granted, shared in ((80, 3, True), (81, 3, False), (86, 3, True), (443, 3, True), (500, 1, False)):
        assert machine.bind(programs, TCP, packed("0.0.0.0"), port) == granted
        assert machine.reuse_port is shared, port
    assert machine.bind(programs, UDP, packed("0.0.0.0"), 80) == compiler.NATIVE
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
    machine = Machine()
    for rule in rules[::50]:
        machine.set_bound(0)
        address = rule.network or packed("::1")
        for port in {rule.ports.low, rule.ports.high, max(1, rule.ports.low - 1)}:
            for protocol in (TCP, UDP):
                answer = machine.bind(programs, protocol, address, port)
                assert (answer == compiler.LIFTED) == policy.permits({TCP: "tcp", UDP: "udp"}[protocol], address, port)
                assert machine.steps < 400
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


def test_listing_reads_like_the_rules() -> None:
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
