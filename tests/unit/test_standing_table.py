"""The table of standing grants, its text, and the programs that read it; no kernel is asked."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privbind.grant.policy import Policy, Ports, Rule, unmapped
from privbind.linux import bpf
from privbind.mechanisms.bpf import assembly
from privbind.mechanisms.bpf.compiler import LIFTED, NATIVE
from privbind.mechanisms.bpf.disassembly import lines
from privbind.standing import program, table, text
from privbind.standing.entries import Entry
from privbind.standing.resolve import GID, UID, UIDS, Key, Permission, Resolved
from privbind.standing.text import Granted

from ..harness import bpf_machine as machine
from ..harness.bpf_machine import CONTEXT, TCP, UDP, reachable, unreachable
from ..harness.install import ROOT
from ..harness.policies import close_binds, close_rules, packed

SLOT, TABLE, VALUES, ROOM = 21, 22, 0x50000000, 64
MAPS = {program.SLOT: SLOT}
FIRST_NETNS, OTHER_NETNS = 7, 8


class Host(machine.Machine):
    """The slot and the table, and a process with these real ids, whose socket is in the first network namespace."""

    def __init__(self, entries: dict[bytes, bytes] | None) -> None:
        super().__init__(MAPS)
        self.ids = (0, 0)
        self.netns = FIRST_NETNS
        self.entries = entries
        self._places = {}
        for place, key in enumerate(entries or {}):
            self._places[key] = VALUES + ROOM * place
        # One region for all, since a machine looks through them one by one.
        self.regions[VALUES] = bytearray(b"".join(value.ljust(ROOM, b"\0") for value in (entries or {}).values()))

    def call(self, helper: str, r: list[int]) -> int:
        if helper == "get_netns_cookie":
            assert r[1] in (0, CONTEXT)
            return self.netns if r[1] else FIRST_NETNS
        if helper == "get_current_uid_gid":
            return self.ids[1] << 32 | self.ids[0]
        assert helper == "map_lookup_elem"
        if r[1] == SLOT:
            assert self.load(r[2], 4) == 0
            return TABLE if self.entries is not None else 0
        assert r[1] == TABLE
        return self._places.get(self.read(r[2], table.KEY_SIZE), 0)

    def granted(self, key: bytes) -> int:
        """A holder's counter."""
        return self.load(self._places[key] + table.GRANTED, 8)


# Around the edges of blocks of 256, so that ranges and single uids meet.
UIDS_TRIED = [1, 255, 256, 257, 300, 511, 512, 513, 767, 768, 100000, 1 << 32 - 8, 0xFFFFFFFE]
uids = st.sampled_from(UIDS_TRIED)
holders = st.one_of(
    st.builds(Key, st.just(UID), uids),
    st.builds(Key, st.just(GID), uids),
    st.builds(Key, st.just(UIDS), st.sampled_from([1, 200, 255, 256, 257, 500]), st.integers(1, 800)),
    st.just(Key(UIDS, 0xFFFFFFFE - 300, 301)),
)
grants = st.dictionaries(holders, st.lists(close_rules(), min_size=1, max_size=5), max_size=6)


def holds(key: Key, uid: int, gid: int) -> bool:
    """Whether a holder is meant by these ids: the model."""
    if key.kind == GID:
        return gid == key.first
    return key.first <= uid < key.first + key.count


@given(grants, st.lists(st.tuples(uids, uids, close_binds()), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_table_and_programs_answer_what_the_rules_say(
    granted: dict[Key, list[Rule]], tries: list[tuple[int, int, tuple[int, bytes, int]]]
) -> None:
    """For all grants and binds: the model, the table read in Python, and the programs agree."""
    entries = table.build(granted)
    host = Host(entries)
    programs = program.programs()
    for uid, gid, (protocol, address, port) in tries:
        name = {TCP: "tcp", UDP: "udp"}.get(protocol)
        found = [Policy(rules) for key, rules in granted.items() if holds(key, uid, gid)]
        expected = port > 0 and any(policy.permits(name, address, port) for policy in found)
        if name is not None and port:
            assert table.permits(entries, (uid, gid), name, unmapped(address), port) == expected
        host.ids = (uid, gid)
        before = [host.granted(key) for key in table.holders(entries)]
        assert host.bind(programs, protocol, address, port) == (LIFTED if expected else NATIVE)
        after = [host.granted(key) for key in table.holders(entries)]
        assert sum(after) - sum(before) == expected


def rules(text_: str) -> tuple[Rule, ...]:
    found = Policy.parse([text_]).rules
    assert found is not None
    return found


def answers(host: Host, port: int = 80, address: str = "127.0.0.1", *, netns: int = 0) -> bool:
    return host.bind(program.programs(netns), TCP, packed(address), port) == LIFTED


def test_the_network_namespace_counts() -> None:
    """The first one, or the one that the grants were loaded for; both are the socket's, not the process's."""
    host = Host(table.build({Key(UID, 1000): rules("tcp:80")}))
    host.ids = (1000, 1000)
    assert answers(host)
    assert not answers(host, netns=OTHER_NETNS)
    host.netns = OTHER_NETNS
    assert not answers(host)
    assert answers(host, netns=OTHER_NETNS)


def test_without_a_table_nothing_is_granted() -> None:
    host = Host(None)
    host.ids = (1000, 1000)
    assert not answers(host)
    assert not answers(Host({}))


def test_blocks_of_subordinate_uids() -> None:
    """A range is blocks of 256 as far as it can be, and single uids at its ends; ranges that overlap add up."""
    key = Key(UIDS, 254, 516)  # 254-769
    single = [254, 255, 768, 769]
    assert list(table.keys(key)) == [
        *(table.holder_key(uid, table.USER) for uid in (254, 255)),
        *(table.holder_key(block, table.BLOCK) for block in (1, 2)),
        *(table.holder_key(uid, table.USER) for uid in (768, 769)),
    ]
    entries = table.build({key: rules("tcp:80"), Key(UIDS, 256, 256): rules("tcp:81"), Key(UID, 300): rules("tcp:82")})
    host = Host(entries)
    for uid in (253, 770):
        host.ids = (uid, 1)
        assert not answers(host)
    for uid in (*single, 256, 511, 512, 767):
        host.ids = (uid, 1)
        assert answers(host), uid
        assert answers(host, 81) == (256 <= uid <= 511), uid
    host.ids = (300, 1)
    assert all(answers(host, port) for port in (80, 81, 82))


def test_equal_grants_share_their_entries() -> None:
    """A thousand users with the same rules need little more than an entry each."""
    same = rules("tcp:80,tcp:443,udp:127.0.0.0/8:53")
    one = table.build({Key(UID, 1): same})
    many = table.build({Key(UID, uid): same for uid in range(1, 1001)})
    assert len(many) == len(one) + 999
    assert {len(value) for value in many.values()} == {table.VALUE_SIZE}
    assert {len(key) for key in many} == {table.KEY_SIZE}


def test_counters_go_on() -> None:
    key = table.holder_key(1000, table.USER)
    entries = table.build({Key(UID, 1000): rules("tcp:80")}, counted={key: 41, table.holder_key(5, table.USER): 9})
    host = Host(entries)
    host.ids = (1000, 1000)
    assert answers(host)
    assert not answers(host, 81)
    assert host.granted(key) == 42
    assert table.holders(entries)[key].granted == 41


def networks(count: int, size: int) -> tuple[Rule, ...]:
    start = bytes([10]) if size == 4 else bytes([0xFD])
    return tuple(
        Rule("tcp", start + number.to_bytes(size - 1, "big"), 8 * size, Ports(80, 80)) for number in range(count)
    )


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize(
    ("key", "who"),
    [
        (Key(UID, 1000), "uid 1000"),
        (Key(GID, 33), "gid 33"),
        (Key(UIDS, 512, 256), "the range of uids 512-767"),
    ],
)
def test_how_many_networks_fit(size: int, key: Key, who: str) -> None:
    """As many as the programs look at; with one more it is said whose they are, how many, and how many fit."""
    most = table.MAX_NETWORKS
    host = Host(table.build({key: networks(most, size)}))
    host.ids = (key.first, key.first)
    for number in (0, most - 1, most):
        address = (b"\x0a" if size == 4 else b"\xfd") + number.to_bytes(size - 1, "big")
        assert host.bind(program.programs(), TCP, address, 80) == (LIFTED if number < most else NATIVE)
    with pytest.raises(table.TableError) as caught:
        table.build({key: networks(most + 1, size)})
    assert str(caught.value) == (
        f"{who} has rules for 65 addresses or networks of IPv{4 if size == 4 else 6}, and 64 fit "
        "(name networks instead of their addresses)"
    )


def test_how_many_entries_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs more is refused, and how much would fit is said."""
    granted = {Key(UID, uid): rules("tcp:80") for uid in range(1, 11)}
    needed = len(table.build(granted, b"x" * 100))
    monkeypatch.setattr(table, "MAX_ENTRIES", needed)
    table.build(granted, b"x" * 100)
    with pytest.raises(table.TableError) as caught:
        table.build(granted, b"x" * 121)
    assert str(caught.value) == (
        f"the kernel's table takes {needed} entries, and the grants need {needed + 1} "
        "(they are for users, groups and blocks of subordinate uids, 10 of them: name fewer)"
    )


def test_a_huge_range_is_refused_before_it_is_laid_out() -> None:
    """All uids there are would be sixteen million blocks."""
    with pytest.raises(table.TableError) as caught:
        table.build({Key(UIDS, 1, 0xFFFFFFFE): rules("tcp:80")})
    assert str(caught.value) == (
        "the kernel's table takes 1000000 entries, and the grants need more than that "
        "(they are for users, groups and blocks of subordinate uids: name fewer)"
    )


def instructions(asm: assembly.Assembly) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("<BBhI", asm.code(MAPS)))


@pytest.mark.parametrize("netns", [0, 0x1122334455667788])
@pytest.mark.parametrize("hook", program.NAMES)
def test_the_programs_answer_1_or_3_whatever_comes(hook: int, netns: int) -> None:
    """Every exit of the main function stands behind an instruction that sets one of them, to which all ways lead."""
    asm = program.programs(netns)[hook]
    code = instructions(asm)
    main = reachable(asm, MAPS, (0,), into_functions=False)
    exits = [place for place in main if code[place][0] == assembly.JMP | assembly.EXIT]
    assert len(exits) == 2
    answered = set()
    for place in exits:
        opcode, registers, _, immediate = code[place - 1]
        assert (opcode, registers) == (assembly.ALU64 | assembly.MOV, assembly.R0)
        answered.add(immediate)
        # Nobody jumps between the two.
        assert place not in asm.labels.values()
    assert answered == {NATIVE, LIFTED} == {1, 3}
    assert unreachable(asm, MAPS) == []


def test_the_programs_are_the_same_on_every_host() -> None:
    """Nothing of the grants is in them, but the network namespace where that is not the first."""
    first, again = program.programs(), program.programs()
    for hook in program.NAMES:
        assert first[hook].code(MAPS) == again[hook].code(MAPS)
        assert len(first[hook].lines) < 200
    assert program.NAMES.keys() == {bpf.INET4_BIND, bpf.INET6_BIND}
    assert all(len(name) < bpf._NAME_SIZE for name in (*program.NAMES.values(), program.SLOT))


def test_the_documentation_lists_the_program() -> None:
    """docs/standing.md shows the one for IPv6, as `privbindctl load --dry-run -vv` does."""
    page = (ROOT / "docs/standing.md").read_text()
    shown = page.partition("```\n# before a bind of an IPv6 socket\n")[2].partition("\n```\n")[0].splitlines()
    assert ["# before a bind of an IPv6 socket", *shown] == lines(program.programs()[bpf.INET6_BIND])


named = st.text(max_size=5)
granted = st.dictionaries(
    holders,
    st.builds(
        Granted,
        named,
        st.lists(st.tuples(st.lists(named, max_size=3).map(tuple), named), max_size=3).map(tuple),
    ),
    max_size=5,
)


@given(granted)
@example({Key(UID, 1): Granted("a\udcff\n\x1b[2J", ((("tcp:80",), "/etc/x:1"),))})
def test_the_text_reads_back(found: dict[Key, Granted]) -> None:
    """Whatever is in names and places; also with the zero bytes behind it that the table leaves."""
    encoded = text.encode(found)
    assert text.decode(encoded) == found
    entries = table.build({}, encoded)
    assert table.text_of(entries)[: len(encoded)] == encoded
    assert text.decode(table.text_of(entries)) == found


def test_the_text_says_what_the_entries_say() -> None:
    policy = Policy.parse(["tcp:80,udp:[fd00::/8]:53"])
    resolved = Resolved(
        {Key(UID, 7): (Permission(policy, "a:1"), Permission(Policy.parse(["tcp:80"]), "b:2", "web"))},
        {Key(UID, 7): "alice"},
        (Entry("f", 1, (), (), (("a", "b"),), policy, subids=False),),
        ("a warning",),
    )
    (found,) = text.describe(resolved).values()
    assert found.rules == ("tcp:80", "udp:[fd00::/8]:53")
    assert found.sources == ("a:1", "b:2")


@pytest.mark.parametrize(
    "value",
    [
        7,
        {"a": 1},
        [7],
        [[UID, 1, 1, "x"]],
        [["user", 1, 1, "x", []]],
        [[UID, "1", 1, "x", []]],
        [[UID, 1.0, 1, "x", []]],
        [[UID, True, 1, "x", []]],
        [[UID, -1, 1, "x", []]],
        [[UID, 1 << 32, 1, "x", []]],
        [[UID, 1, [], "x", []]],
        [[UID, 1, 1, None, []]],
        [[UID, 1, 1, "x", [[1, "y"]]]],
        [[UID, 1, 1, "x", [[["tcp:80"], 7]]]],
        [[UID, 1, 1, "x", [[[7], "y"]]]],
        [[[], 1, 1, "x", []]],
    ],
)
def test_a_text_that_makes_no_sense(value: object) -> None:
    import json
    import zlib

    with pytest.raises(ValueError, match=r"^not a text of standing grants: "):
        text.decode(zlib.compress(json.dumps(value).encode()))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_text_or_a_value_error(data: bytes) -> None:
    """For all bytes, never another error."""
    try:
        text.decode(data)
    except ValueError:
        pass


def test_a_text_that_unpacks_to_too_much_is_no_text() -> None:
    import zlib

    with pytest.raises(ValueError, match=r"^not a text of standing grants: "):
        text.decode(zlib.compress(b"[" + b" " * text._MAX_SIZE + b"]"))
