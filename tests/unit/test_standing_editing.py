"""Grants given and taken back by command: what is written, what is left alone, and what is said about it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.errors import PrivbindError, UsageError
from privbind.grant.policy import Policy
from privbind.standing import editing
from privbind.standing.editing import GROUP, MARK, USER, Edit, Grantee, write
from privbind.standing.entries import GrantFileError, parse
from privbind.standing.files import read
from privbind.standing.folder import FOLDER
from privbind.standing.render import entry_lines

from ..harness.accounts import Accounts

ME = os.geteuid()
ALICE, WEB = Grantee(USER, "alice"), Grantee(GROUP, "web")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where grants.d would be; it is not there yet, nor is the folder around it."""
    tmp_path.chmod(0o755)
    return tmp_path / "privbind/grants.d"


@pytest.fixture
def existing(folder: Path) -> Path:
    """An empty grants.d."""
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        path.chmod(0o755)
    return folder


def allow(folder: Path, who: Grantee, *rules: str) -> Edit:
    edit = editing.allow(who, rules, Accounts(), folder=str(folder), owner=ME)
    write(edit, ME)
    return edit


def disallow(folder: Path, who: Grantee, *rules: str) -> Edit:
    edit = editing.disallow(who, rules, Accounts(), folder=str(folder), owner=ME)
    write(edit, ME)
    return edit


def by_hand(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_the_first_grant_makes_folder_and_file_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        edit = allow(folder, ALICE, "tcp:80,tcp:443", "udp:443")
    finally:
        os.umask(before)
    assert (folder / "user-alice.toml").read_text() == (
        f'{MARK}\n[[grant]]\nuser = "alice"\nallow = ["tcp:80", "tcp:443", "udp:443"]\n'
    )
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / "user-alice.toml")]
    assert modes == [0o755, 0o755, 0o644]
    assert edit.path == f"{folder}/user-alice.toml"
    assert (edit.added, edit.removed, edit.notes) == (("tcp:80", "tcp:443", "udp:443"), (), ())
    assert edit.undo == ("disallow", "alice", "tcp:80", "tcp:443", "udp:443")
    assert os.listdir(folder) == ["user-alice.toml"]


def test_a_wide_umask_changes_nothing(folder: Path) -> None:
    before = os.umask(0)
    try:
        allow(folder, Grantee(USER, 1001), "80")
    finally:
        os.umask(before)
    (entry,) = read(str(folder), ME)
    assert entry.users == (1001,)


def test_more_is_added_and_what_is_there_is_told(existing: Path) -> None:
    path = allow(existing, WEB, "tcp:80", "1-100").path
    edit = allow(existing, WEB, "tcp:80", "udp:53", "tcp:443", "tcp:443")
    assert edit.added == ("tcp:443",)
    assert edit.notes == (f"tcp:80 is granted already, by {path}", f"udp:53 is granted already, by {path}")
    assert edit.undo == ("disallow", "--group", "web", "tcp:443")
    (entry,) = read(str(existing), ME)
    assert (entry.groups, str(entry.policy)) == (("web",), "tcp:80,1-100,tcp:443")


def test_what_another_file_grants_is_not_written_again(existing: Path) -> None:
    by_hand(existing, "web.toml", '\n[[grant]]\nuser = 1000\nallow = "1-1023"\n')
    edit = allow(existing, ALICE, "tcp:80")
    assert (edit.added, edit.undo, edit.before, edit.after) == ((), (), None, None)
    assert edit.notes == (f"tcp:80 is granted already, by {existing}/web.toml:2",)
    assert os.listdir(existing) == ["web.toml"]


def test_what_a_user_has_through_a_group_is_written_for_himself(existing: Path) -> None:
    """He may leave the group."""
    allow(existing, WEB, "tcp:80")
    assert allow(existing, ALICE, "tcp:80").added == ("tcp:80",)


def test_rules_are_taken_back_one_by_one_and_the_file_with_the_last(existing: Path) -> None:
    allow(existing, ALICE, "tcp:80", "tcp:443", "udp:443")
    edit = disallow(existing, ALICE, "tcp:443", "tcp:80")
    assert (edit.removed, edit.notes) == (("tcp:443", "tcp:80"), ())
    assert edit.undo == ("allow", "alice", "tcp:443", "tcp:80")
    (entry,) = read(str(existing), ME)
    assert str(entry.policy) == "udp:443"
    assert disallow(existing, ALICE, "udp:443").after is None
    assert os.listdir(existing) == []


def test_all_is_taken_back_where_no_rule_is_named(existing: Path) -> None:
    allow(existing, WEB, "tcp:80", "tcp:443")
    assert disallow(existing, WEB).removed == ("tcp:80", "tcp:443")
    assert os.listdir(existing) == []


def test_a_grant_is_taken_back_from_one_who_is_gone(existing: Path) -> None:
    gone = Grantee(USER, "gone")
    text = "\n".join([MARK, *entry_lines(["gone"], [], ["80"]), ""])
    by_hand(existing, gone.file, text)
    assert disallow(existing, gone).removed == ("80",)


def test_what_stays_granted_all_the_same_is_told(existing: Path) -> None:
    path = allow(existing, ALICE, "tcp:80", "tcp:443").path
    by_hand(existing, "own.toml", '[[grant]]\nuser = "alice"\nallow = "443"\n')
    by_hand(existing, "web.toml", '[[grant]]\ngroup = "web"\nallow = "80"\n')
    assert disallow(existing, ALICE).notes == (
        f"tcp:80 stays granted, by {existing}/web.toml:1 to group web",
        f"tcp:443 stays granted, by {existing}/own.toml:1",
    )
    (existing / "own.toml").unlink()
    (existing / "web.toml").unlink()
    text = "\n".join([MARK, *entry_lines(["alice"], [], ["1-100", "tcp:80"]), ""])
    by_hand(existing, ALICE.file, text)
    assert disallow(existing, ALICE, "tcp:80").notes == (f"tcp:80 stays granted, by {path}",)


def refusal_of_disallow(folder: Path, who: Grantee, *rules: str) -> str:
    with pytest.raises(UsageError) as caught:
        disallow(folder, who, *rules)
    return str(caught.value)


def test_what_cannot_be_taken_back(existing: Path) -> None:
    by_hand(existing, "web.toml", '\n[[grant]]\ngroup = "web"\nallow = ["80", "81"]\n')
    place = f"{existing}/web.toml:2"
    assert refusal_of_disallow(existing, ALICE) == (
        f"user alice has no grant by privbindctl allow; others are in {place} to group web (edit them there)"
    )
    assert refusal_of_disallow(existing, Grantee(USER, "carol")) == (
        "user carol has no grant by privbindctl allow, nor any other (privbindctl check)"
    )
    path = allow(existing, ALICE, "1-10").path
    before = Path(path).read_bytes()
    assert refusal_of_disallow(existing, ALICE, "1-10", "tcp:80") == (
        f"tcp:80 is granted to user alice by {place} to group web, not by privbindctl allow (edit it there)"
    )
    assert refusal_of_disallow(existing, ALICE, "tcp:5") == (
        f"tcp:5 is part of 1-10, which {path} grants (disallow that, and allow what is to stay)"
    )
    assert refusal_of_disallow(existing, ALICE, "tcp:443") == (
        "tcp:443 is not granted to user alice by any entry (privbindctl check shows what is)"
    )
    assert refusal_of_disallow(existing, ALICE, "tcp:0") == (
        "rule 'tcp:0': port '0' is not a whole number from 1 to 65535"
        " (port 0 means any free port, which needs no grant)"
    )
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("change", [editing.allow, editing.disallow])
def test_files_written_by_hand_are_left_alone(existing: Path, change: object) -> None:
    entry = '[[grant]]\nuser = "alice"\nallow = ["80"]\n'
    for text, why in (
        (entry, "it was not written by privbindctl allow, which needs this name (edit it by hand, or rename it)"),
        (
            f"{MARK}\n# because of the printer\n{entry}",
            "it was changed since privbindctl allow wrote it (edit it by hand from now on: rename it)",
        ),
        (
            f"{MARK}\n{entry.replace('alice', 'bob')}",
            "it was changed since privbindctl allow wrote it (edit it by hand from now on: rename it)",
        ),
        (f"{MARK}\n", "it was changed since privbindctl allow wrote it (edit it by hand from now on: rename it)"),
    ):
        path = by_hand(existing, "user-alice.toml", text)
        with pytest.raises(PrivbindError) as caught:
            change(ALICE, ["443"], Accounts(), folder=str(existing), owner=ME)  # type: ignore[operator]
        assert str(caught.value) == f"{path}:1: {why}"
        assert path.read_text() == text


@pytest.mark.parametrize(
    ("who", "rules", "message"),
    [
        (ALICE, [], "no rule given: what may user alice bind? (for example tcp:80)"),
        (ALICE, ["80", "x:80"], "rule 'x:80': unknown protocol 'x' (tcp or udp)"),
        (
            Grantee(USER, "nobody-knows"),
            ["80"],
            "unknown user nobody-knows (for one that does not exist yet, write the grant by hand into FOLDER)",
        ),
        (
            Grantee(GROUP, "nobody-knows"),
            ["80"],
            "unknown group nobody-knows (for one that does not exist yet, write the grant by hand into FOLDER)",
        ),
    ],
)
def test_what_cannot_be_allowed(folder: Path, who: Grantee, rules: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        allow(folder, who, *rules)
    assert str(caught.value) == message.replace("FOLDER", str(folder))
    assert not folder.exists()


def test_root_by_another_name_is_refused_before_anything_is_written(existing: Path) -> None:
    with pytest.raises(UsageError, match=r"^user: toor is root's uid 0 by another name"):
        allow(existing, Grantee(USER, "toor"), "80")
    assert os.listdir(existing) == []


def test_what_the_reader_would_refuse_is_not_put_there(existing: Path) -> None:
    path = allow(existing, ALICE, "1").path
    before = Path(path).read_bytes()
    with pytest.raises(GrantFileError) as caught:
        allow(existing, ALICE, *map(str, range(2, 1002)))
    assert str(caught.value) == (
        f"{path}:2: 1001 rules are more than 1000 (write neighbouring ports as a range: 8000-8080)"
    )
    assert Path(path).read_bytes() == before
    assert os.listdir(existing) == ["user-alice.toml"]


def test_a_broken_file_beside_it_is_told_before_anything_is_written(existing: Path) -> None:
    by_hand(existing, "web.toml", "nonsense")
    with pytest.raises(PrivbindError, match=f"^{existing}/web.toml:1: not TOML: "):
        allow(existing, ALICE, "80")
    assert os.listdir(existing) == ["web.toml"]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (USER, "alice", Grantee(USER, "alice")),
        (USER, "1001", Grantee(USER, 1001)),
        (GROUP, "0033", Grantee(GROUP, 33)),
        (USER, "DOM\\bob.x@y$", Grantee(USER, "DOM\\bob.x@y$")),
    ],
)
def test_who_is_meant(kind: str, text: str, expected: Grantee) -> None:
    assert Grantee.parse(kind, text) == expected


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (USER, "root", "user: root may bind every port without a grant (name the user that the server runs as)"),
        (USER, "0", "user: root may bind every port without a grant (name the user that the server runs as)"),
        (GROUP, "root", "group: group 0 cannot hold a grant (name another group, or the users)"),
        (USER, "4294967295", "user '4294967295' is not a whole number from 0 to 4294967294"),
        *(
            (
                kind,
                text,
                f"{kind} '{text}' cannot be part of a file's name (write the grant by hand into {FOLDER})",
            )
            for kind, text in ((USER, ""), (GROUP, "../x"), (USER, "a\nb"), (USER, "\udcff"), (GROUP, "ü" * 101))
        ),
    ],
)
def test_who_cannot_be_meant(kind: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Grantee.parse(kind, text)
    assert str(caught.value) == message


def test_what_failed_later_can_be_put_back(existing: Path) -> None:
    for change, rules in ((allow, ["80"]), (allow, ["81"]), (disallow, ["80"]), (disallow, [])):
        edit = change(existing, ALICE, *rules)
        path = Path(edit.path)
        write(edit.reversed(), ME)
        assert (path.read_bytes() if path.exists() else None) == edit.before
        assert edit.reversed().undo[0] == change.__name__
        write(edit, ME)
    assert os.listdir(existing) == []


def test_an_edit_of_what_was_changed_meanwhile_is_refused(existing: Path) -> None:
    late = editing.allow(ALICE, ["81"], Accounts(), folder=str(existing), owner=ME)
    path = allow(existing, ALICE, "80").path
    with pytest.raises(PrivbindError) as caught:
        write(late, ME)
    assert str(caught.value) == f"{path} was changed meanwhile (do it again)"
    (entry,) = read(str(existing), ME)
    assert str(entry.policy) == "80"
    assert os.listdir(existing) == ["user-alice.toml"]


def test_a_folder_that_is_gone_meanwhile(existing: Path) -> None:
    allow(existing, ALICE, "80")
    late = editing.disallow(ALICE, [], Accounts(), folder=str(existing), owner=ME)
    (existing / "user-alice.toml").unlink()
    existing.rmdir()
    with pytest.raises(PrivbindError, match=r"was changed meanwhile \(do it again\)$"):
        write(late, ME)


def test_two_edits_at_once_do_not_overtake_each_other(existing: Path) -> None:
    edit = editing.allow(ALICE, ["81"], Accounts(), folder=str(existing), owner=ME)
    other = by_hand(existing, ".user-alice.toml.new", "")
    with pytest.raises(PrivbindError) as caught:
        write(edit, ME)
    assert str(caught.value) == f"{other} is there: another privbindctl is writing, or was killed (then remove it)"
    other.unlink()
    write(edit, ME)


def test_a_failure_while_writing_leaves_what_was_there(existing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For instance a full disk."""
    path = Path(allow(existing, ALICE, "80").path)
    before = path.read_bytes()
    edit = editing.allow(ALICE, ["81"], Accounts(), folder=str(existing), owner=ME)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("posix.fsync", full)
    with pytest.raises(PrivbindError) as caught:
        write(edit, ME)
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(existing) == ["user-alice.toml"]


def test_no_descriptor_is_left_open(existing: Path) -> None:
    before = os.listdir("/proc/self/fd")
    allow(existing, ALICE, "80")
    disallow(existing, ALICE)
    assert os.listdir("/proc/self/fd") == before


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and not (name.isascii() and name.isdigit()) and name != "root"
)


@given(st.lists(NAMES | st.integers(1, 4294967294), min_size=1, max_size=4, unique=True), st.booleans())
def test_what_is_written_is_read_back(holders: list[str | int], groups: bool) -> None:
    """Any holders and rules, written as an entry, are the same holders and rules when they are read."""
    rules = ["tcp:80", "10.0.0.0/8:1-1023", "udp:[fd00::/8]:53"]
    lines = entry_lines([] if groups else holders, holders if groups else [], rules)
    (entry,) = parse("\n".join(lines).encode(), "x")
    assert (entry.groups if groups else entry.users) == tuple(holders)
    assert entry.policy == Policy.parse(rules)
