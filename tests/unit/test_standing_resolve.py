"""Who the entries mean, in numbers, what is warned of, and how it is told."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.errors import PrivbindError
from privbind.standing.describe import NOTHING, describe, difference
from privbind.standing.entries import Entry, GrantFileError, parse
from privbind.standing.names import System
from privbind.standing.resolve import GID, UID, UIDS, Key, Resolved, resolve

from ..harness.accounts import Accounts

ALICE, BOB, CAROL, WEB = Key(UID, 1000), Key(UID, 1001), Key(UID, 1002), Key(GID, 33)
ALICES = Key(UIDS, 100000, 65536)
BOBS = Key(UIDS, 165536, 65536)


def entries(text: str, file: str = "f.toml") -> tuple[Entry, ...]:
    return parse(text.encode(), file)


def resolved(text: str) -> Resolved:
    return resolve(entries(text), Accounts())


def held(found: Resolved) -> dict[Key, list[tuple[str, str, str]]]:
    """What each holder has, in text."""
    return {
        key: [(str(permission.policy), permission.source, permission.group) for permission in permissions]
        for key, permissions in found.holders.items()
    }


def test_a_user_by_name_and_by_number() -> None:
    found = resolved('[[grant]]\nuser = ["alice", 1001]\nallow = ["tcp:80", "udp:53"]\n')
    assert held(found) == {key: [("tcp:80,udp:53", "f.toml:1", "")] for key in (ALICE, BOB)}
    assert found.names == {ALICE: "alice", BOB: "bob"}
    assert (found.warnings, found.containers) == ((), ())


def test_a_group_is_its_gid_and_its_members_but_root() -> None:
    found = resolved('[[grant]]\ngroup = "web"\nallow = "80"\n')
    assert held(found) == {key: [("80", "f.toml:1", "web")] for key in (ALICE, BOB, WEB)}
    assert found.names == {ALICE: "alice", BOB: "bob", WEB: "web"}
    assert found.warnings == ()


def test_grants_add_up_and_the_order_of_files_means_nothing() -> None:
    one = entries('[[grant]]\nuser = "alice"\nallow = "80"\n[[grant]]\ngroup = 33\nallow = "443"\n', "b.toml")
    two = entries('[[grant]]\nuser = 1000\nallow = ["80", "81"]\n', "a.toml")
    found = resolve([*one, *two], Accounts())
    assert held(found)[ALICE] == [("80,81", "a.toml:1", ""), ("80", "b.toml:1", ""), ("443", "b.toml:4", "web")]
    assert list(map(str, found.rules()[ALICE])) == ["80", "81", "443"]
    assert repr(found) == repr(resolve([*two, *one], Accounts()))


def test_an_entry_counts_once_for_each_holder_first_as_his_own() -> None:
    found = resolved('[[grant]]\nuser = ["alice", 1000]\ngroup = "web"\nallow = "80"\n')
    assert held(found)[ALICE] == [("80", "f.toml:1", "")]


def test_subordinate_uids_of_users_and_of_members() -> None:
    found = resolved('[[grant]]\nuser = "alice"\nsubids = true\nallow = "80"\n')
    assert held(found) == {key: [("80", "f.toml:1", "")] for key in (ALICE, ALICES)}
    assert found.names[ALICES] == "alice"
    found = resolved('[[grant]]\ngroup = "web"\nsubids = true\nallow = "80"\n')
    assert list(found.holders) == [ALICE, BOB, WEB, ALICES, BOBS]
    assert held(found)[BOBS] == [("80", "f.toml:1", "web")]
    assert found.warnings == ()


def test_containers_are_apart() -> None:
    found = resolved('[[grant]]\ncontainer = { "io.kubernetes.pod.name" = "b" }\nallow = "80"\n')
    assert found.holders == {}
    assert [entry.container for entry in found.containers] == [(("io.kubernetes.pod.name", "b"),)]


@pytest.mark.parametrize(
    ("entry", "warnings"),
    [
        ('user = "nobody-knows"', ["unknown user 'nobody-knows': left out until a load that finds the name"]),
        ('group = "nobody-knows"', ["unknown group 'nobody-knows': left out until a load that finds the name"]),
        ("user = 1003", ["no user has the number 1003: whoever gets it next has this grant"]),
        ("group = 1003", ["no group has the number 1003: whichever gets it next has this grant"]),
        ('group = "dns"', ["group dns has an unknown member 'dave': left out until a load that finds the name"]),
        (
            "user = 1003\nsubids = true",
            [
                "no user has the number 1003: whoever gets it next has this grant",
                "user 1003 has no subordinate uids (usermod --add-subuids gives it some)",
            ],
        ),
        (
            'user = "carol"\nsubids = true',
            [
                "subordinate uids 0 to 9 of user carol: left out, since root is among them",
                "subordinate uids 4294967290 to 4294967299 of user carol: left out, since a uid is at most 4294967294",
            ],
        ),
    ],
)
def test_what_is_not_known_is_warned_of_and_the_rest_holds(entry: str, warnings: list[str]) -> None:
    found = resolved(f'[[grant]]\nuser = "alice"\nallow = "80"\n[[grant]]\n{entry}\nallow = "81"\n')
    assert found.warnings == tuple(f"f.toml:4: {warning}" for warning in warnings)
    assert held(found)[ALICE] == [("80", "f.toml:1", "")]


def test_numbers_without_a_name_are_holders_all_the_same() -> None:
    found = resolved('[[grant]]\nuser = 1003\ngroup = 1004\nallow = "80"\n')
    assert found.names == {Key(UID, 1003): "", Key(GID, 1004): ""}
    assert held(found)[Key(GID, 1004)] == [("80", "f.toml:1", "1004")]


def test_ranges_that_are_in_order_hold_beside_those_that_are_not() -> None:
    found = resolved('[[grant]]\nuser = "carol"\nsubids = true\nallow = "80"\n')
    assert list(found.holders) == [CAROL, Key(UIDS, 300000, 1)]


def test_the_same_warning_comes_once() -> None:
    assert len(resolved('[[grant]]\nuser = ["x", "y"]\ngroup = "x"\nallow = "80"\n').warnings) == 3
    one = entries('[[grant]]\nuser = "x"\nallow = "80"\n')
    assert len(resolve([*one, *one], Accounts()).warnings) == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            'user = "toor"',
            (
                "user: toor is root's uid 0 by another name, and may bind every port without a grant "
                "(name the user that the server runs as)"
            ),
        ),
        (
            'group = "wheel"',
            "group: wheel is group 0 by another name, which cannot hold a grant (name another group, or the users)",
        ),
        ('user = "odd"', "user odd has the number -1, not one from 1 to 4294967294"),
    ],
)
def test_root_by_another_name_is_refused(entry: str, message: str) -> None:
    with pytest.raises(GrantFileError) as caught:
        resolved(f'\n[[grant]]\n{entry}\nallow = "80"\n')
    assert str(caught.value) == f"f.toml:2: {message}"


def test_what_is_granted_is_told_by_kinds_of_holders() -> None:
    found = resolve(
        [
            *entries('[[grant]]\nuser = "alice"\nallow = ["tcp:80", "tcp:443"]\nsubids = true\n', "/etc/x/web.toml"),
            *entries(
                '\n[[grant]]\ngroup = "web"\nallow = "udp:53"\n[[grant]]\nuser = 1003\nallow = "1"\n', "/etc/x/y.toml"
            ),
            *entries(
                '[[grant]]\ncontainer = { "io.kubernetes.pod.name" = "b", "io.kubernetes.pod.uid" = "d" }\n'
                'allow = "80"\n',
                "c.toml",
            ),
        ],
        Accounts(),
    )
    assert describe(found) == [
        "3 users:",
        "  alice (uid 1000): tcp:80, tcp:443  (web.toml:1); udp:53  (y.toml:2, group web)",
        "  bob (uid 1001): udp:53  (y.toml:2, group web)",
        "  uid 1003: 1  (y.toml:5)",
        "1 group, for whoever has it as primary group:",
        "  web (gid 33): udp:53  (y.toml:2, group web)",
        "1 range of subordinate uids:",
        "  uids 100000-165535 of alice: tcp:80, tcp:443  (web.toml:1)",
        "1 kind of container:",
        '  io.kubernetes.pod.name = "b", io.kubernetes.pod.uid = "d": 80  (c.toml:1)',
    ]


def test_nothing_granted_is_told_too() -> None:
    assert describe(resolved("")) == [NOTHING]


def test_a_thousand_holders_take_a_line_each() -> None:
    users = ", ".join(map(str, range(2000, 3000)))
    lines = describe(resolved(f'[[grant]]\nuser = [{users}]\nallow = "80"\n'))
    assert len(lines) == 1001
    assert lines[0] == "1000 users:"


def test_what_a_load_would_change() -> None:
    old = {ALICE: {"80", "81"}, BOB: {"80"}, WEB: {"80"}}
    new = {ALICE: {"81", "443", "82"}, CAROL: {"80"}, WEB: {"80"}, ALICES: {"80"}}
    assert difference(old, new, {ALICE: "alice", CAROL: "carol", ALICES: "alice"}) == [
        "- alice (uid 1000): 80",
        "+ alice (uid 1000): 443, 82",
        "- uid 1001: 80",
        "+ carol (uid 1002): 80",
        "+ uids 100000-165535 of alice: 80",
    ]
    assert difference(new, new, {}) == []


RULES = st.dictionaries(
    st.builds(Key, st.sampled_from([UID, GID]), st.integers(1, 5)), st.frozensets(st.sampled_from("abc"))
)


@given(RULES, RULES)
def test_a_difference_is_empty_for_the_same_only_and_turns_round(
    old: dict[Key, frozenset[str]], new: dict[Key, frozenset[str]]
) -> None:
    signs = str.maketrans("+-", "-+")
    there, back = difference(old, new, {}), difference(new, old, {})
    assert sorted(there) == sorted(line.translate(signs) for line in back)
    same = {key: rules for key, rules in old.items() if rules} == {key: rules for key, rules in new.items() if rules}
    assert (not there) == same


class Passwd:
    """A passwd and a group file, in the place of the host's."""

    USERS = (("alice", 1000, 33), ("bob", 1001, 100), ("alice", 2000, 33), ("carol", 1002, 33))
    GROUPS: tuple[tuple[str, int, list[str]], ...] = (("web", 33, ["bob", "gone"]), ("users", 100, []))

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[object] = []
        patch.setattr(pwd, "getpwnam", lambda name: self.find(self.users(), 0, name))
        patch.setattr(pwd, "getpwuid", lambda uid: self.find(self.users(), 2, uid))
        patch.setattr(pwd, "getpwall", self.users)
        patch.setattr(grp, "getgrnam", lambda name: self.find(self.groups(), 0, name))
        patch.setattr(grp, "getgrgid", lambda gid: self.find(self.groups(), 2, gid))

    def users(self) -> list[pwd.struct_passwd]:
        return [pwd.struct_passwd((name, "x", uid, gid, "", "/", "")) for name, uid, gid in self.USERS]

    def groups(self) -> list[grp.struct_group]:
        return [grp.struct_group((name, "x", gid, members)) for name, gid, members in self.GROUPS]

    def find(self, found: list[Any], place: int, wanted: object) -> object:
        self.asked.append(wanted)
        if wanted == "a\0b":
            raise ValueError("embedded null byte")
        for entry in found:
            if entry[place] == wanted:
                return entry
        raise KeyError(wanted)


def test_the_host_is_asked_once_for_each_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Passwd(monkeypatch)
    system = System("/nonexistent")
    for _ in range(2):
        assert [system.user(name) for name in ("alice", "gone", "a\0b")] == [1000, None, None]
        assert [system.user_name(uid) for uid in (1001, 5)] == ["bob", None]
        assert [system.group(name) for name in ("web", "none", "a\0b")] == [33, None, None]
        assert [system.group_name(gid) for gid in (100, 7)] == ["users", None]
        assert system.subids("alice", 1000) == []
    assert len(host.asked) == len(set(map(str, host.asked))) + 1  # a\0b is a user and a group


def test_members_are_those_by_primary_group_and_those_that_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second alice is an entry that nobody reaches by name."""
    Passwd(monkeypatch)
    system = System()
    for _ in range(2):
        assert system.members(33) == (("alice", 1000), ("bob", 1001), ("carol", 1002), ("gone", None))
        assert system.members(100) == (("bob", 1001),)
        assert system.members(7) == ()


def test_subordinate_uids_are_found_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_bytes(
        b"alice:100000:65536\n1000:5:6\nbob:1:2\n# comment\n\nalice:x:1\nalice:1\nalice:1:2:3\nalice:1:0\n"
        b"alice:-1:5\n\xff:7:8\nalice:300000:1"
    )
    system = System(str(path))
    assert system.subids("alice", 1000) == [(100000, 65536), (300000, 1), (5, 6)]
    assert system.subids(None, 1000) == [(5, 6)]
    assert system.subids("1000", 1000) == [(5, 6)]
    assert system.subids("carol", 1002) == []


def test_subuid_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PrivbindError) as caught:
        System(str(tmp_path)).subids("alice", 1000)
    assert str(caught.value) == f"cannot read {tmp_path}: Is a directory"


def test_this_host_knows_root() -> None:
    system = System()
    assert (system.user("root"), system.user_name(0), system.group_name(0)) == (0, "root", grp.getgrgid(0).gr_name)
    assert system.user(pwd.getpwuid(os.getuid()).pw_name) == os.getuid()
