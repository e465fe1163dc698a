"""Files of grants and of authbind by owner and group, which only root can set."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from privbind.standing import authbind
from privbind.standing.entries import GrantFileError, parse
from privbind.standing.files import read

from ..harness.accounts import Accounts

GRANT = '[[grant]]\nuser = "alice"\nallow = "tcp:80"\n'
ACCESS_LIST = "system.posix_acl_access"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A grants.d with one file, beside an /etc/authbind."""
    tmp_path.chmod(0o755)
    for name in ("grants.d", "authbind", "authbind/byport"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "grants.d/a.toml").write_text(GRANT)
    (tmp_path / "grants.d/a.toml").chmod(0o644)
    return tmp_path


def access_list(path: Path, uid: int, rights: int) -> None:
    """Give one more user rights to a file (acl(5); struct posix_acl_xattr_entry, linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, rights, uid), (4, 4, nobody), (0x10, rights | 4, nobody), (0x20, 4, nobody))
    os.setxattr(path, ACCESS_LIST, struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))


def test_what_is_not_roots_is_refused(place: Path) -> None:
    folder = place / "grants.d"
    assert len(read(str(folder))) == 1
    for path in (folder / "a.toml", folder, place):
        os.chown(path, 1000, 0)
        with pytest.raises(GrantFileError) as caught:
            read(str(folder))
        assert str(caught.value) == f"{path}: it belongs to uid 1000, not to root (chown 0 {path})"
        os.chown(path, 0, 0)
        os.chown(path, 0, 1000)
    assert len(read(str(folder))) == 1


def test_an_access_list_that_lets_others_write_is_seen_in_the_mode(place: Path) -> None:
    path = place / "grants.d/a.toml"
    access_list(path, 1000, 6)
    with pytest.raises(GrantFileError) as caught:
        read(str(path.parent))
    assert str(caught.value) == f"{path}: others than its owner may write it: its mode is 0664 (chmod go-w {path})"


@pytest.mark.parametrize(
    ("owner", "group", "mode", "expected"),
    [
        (1000, 33, 0o700, (("alice",), ())),
        (1000, 33, 0o500, (("alice",), ())),
        (1000, 33, 0o750, (("alice",), ("web",))),
        (0, 33, 0o750, ((), ("web",))),
        (0, 33, 0o010, ((), ("web",))),
        (1234, 1234, 0o110, ((1234,), (1234,))),
        (1000, 33, 0o644, "executable by root at most"),
        (0, 33, 0o700, "executable by root at most"),
        (1000, 33, 0o010, "executable by its group, but not by its owner: name the users"),
        (1000, 0, 0o750, "executable by group 0, which cannot hold a grant: name the users"),
        (1000, 33, 0o755, "executable by everybody: name the users"),
    ],
)
def test_who_may_execute_a_file_of_authbinds(
    place: Path, owner: int, group: int, mode: int, expected: str | tuple[tuple[object, ...], tuple[object, ...]]
) -> None:
    path = place / "authbind/byport/80"
    path.touch()
    os.chown(path, owner, group)
    path.chmod(mode)
    lines = authbind.convert(Accounts(), str(place / "authbind"))
    found = parse("\n".join(lines).encode(), "x")
    if isinstance(expected, str):
        assert found == ()
        assert f"# {path}: {expected}" in lines
    else:
        (entry,) = found
        assert (entry.users, entry.groups, str(entry.policy)) == (*expected, "80")


def test_a_file_for_one_address(place: Path) -> None:
    (place / "authbind/byaddr").mkdir(mode=0o755)
    path = place / "authbind/byaddr/::1,80"
    path.touch()
    os.chown(path, 1000, 33)
    path.chmod(0o500)
    lines = authbind.convert(Accounts(), str(place / "authbind"))
    assert lines[1:] == ("", f"# {path}", "[[grant]]", 'user = "alice"', 'allow = ["[::1]:80"]')


def test_an_access_list_of_authbinds_is_left_to_people(place: Path) -> None:
    path = place / "authbind/byport/80"
    path.touch()
    os.chown(path, 0, 33)
    path.chmod(0o750)
    access_list(path, 1000, 5)
    lines = authbind.convert(Accounts(), str(place / "authbind"))
    assert f"# {path}: it has an access control list: name those whom it lets in (getfacl)" in lines
    assert parse("\n".join(lines).encode(), "x") == ()
