"""What authbind's files become as grants. Those that hang on a file's owner are in tests/root."""

from __future__ import annotations

import errno
import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.errors import PrivbindError
from privbind.grant.policy import Policy
from privbind.standing.authbind import convert
from privbind.standing.authbind_names import (
    NoSuchNameError,
    address_and_port,
    is_second_choice,
    parse_line,
    port_of,
    uid_and_ports,
)
from privbind.standing.entries import Entry, parse

from ..harness.accounts import Accounts

NEVER = "authbind never looks at a file of this name"
MAPPED = "it is about an IPv4-mapped address, which privbind takes for the IPv4 address"
LONG = "2620:106:e002:f00f:0:0:0:21"
SHORT = "2620:106:e002:f00f::21"


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An /etc/authbind as its package makes it."""
    tmp_path.chmod(0o755)
    for name in ("byport", "byaddr", "byuid"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    return tmp_path


def put(root: Path, name: str, mode: int = 0o644, text: str = "") -> Path:
    path = root / name
    path.write_text(text)
    path.chmod(mode)
    return path


def converted(root: Path) -> list[str]:
    """The lines after the first."""
    return list(convert(Accounts(), str(root))[1:])


def entries(root: Path) -> tuple[Entry, ...]:
    """The grants that would hold if the text were kept as it is."""
    return parse("\n".join(convert(Accounts(), str(root))).encode(), "x")


@pytest.mark.parametrize(("name", "port"), [("80", 80), ("1", 1), ("511", 511), ("!512", 512), ("!1023", 1023)])
def test_names_in_byport(name: str, port: int) -> None:
    assert port_of(name) == port


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *(
            (name, NEVER)
            for name in ("0", "080", "+80", "80 ", "", "!", "http", "٨٠", "80\n", "!!600", "!0", "9" * 5000)
        ),
        ("!80", f"{NEVER}: for port 80 it must not begin with !"),
        ("600", f"{NEVER}: for port 600 it must begin with !"),
        ("8080", "authbind is not asked about ports from 1024 on, which are not reserved"),
        ("!99999", "authbind is not asked about ports from 1024 on, which are not reserved"),
    ],
)
def test_names_in_byport_that_mean_nothing(name: str, why: str) -> None:
    with pytest.raises(NoSuchNameError) as caught:
        port_of(name)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("name", "address", "port", "second"),
    [
        ("127.0.0.1,80", "127.0.0.1", 80, False),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("!0.0.0.0:600", "0.0.0.0", 600, True),
        (f"{SHORT},80", SHORT, 80, False),
        (f"{LONG},80", SHORT, 80, True),
        (f"!{SHORT},600", SHORT, 600, False),
        ("::,80", "::", 80, False),
        ("0:0:0:0:0:0:0:0,80", "::", 80, True),
        ("1:2:3:4:5:6:7:8,80", "1:2:3:4:5:6:7:8", 80, False),
    ],
)
def test_names_in_byaddr(name: str, address: str, port: int, second: bool) -> None:
    assert address_and_port(name) == (packed(address), port)
    assert is_second_choice(name) == second


@pytest.mark.parametrize(
    "name",
    ["80", "", ",80", "127.1,80", "127.0.0.01,80", "127.0.0.1/32,80", f"{SHORT}:80", "2620:0106::,80", "FD00::1,80"]
    + ["[::1],80", "0:0::,80", "fe80::1%lo,80", "127.0.0.1,080", "127.0.0.1,80,", "127.0.0.1,!80", "a\0b,80"],
)
def test_names_in_byaddr_that_mean_nothing(name: str) -> None:
    with pytest.raises(NoSuchNameError) as caught:
        address_and_port(name)
    assert str(caught.value) == NEVER
    is_second_choice(name)


def test_names_in_byuid() -> None:
    assert uid_and_ports("432") == (432, range(1, 512))
    assert uid_and_ports("!4294967294") == (4294967294, range(512, 1024))
    for name in ("alice", "0432", "!", "-1", "4294967295", "9" * 5000, "1001~"):
        with pytest.raises(NoSuchNameError, match=f"^{NEVER}$"):
            uid_and_ports(name)


@pytest.mark.parametrize(
    ("line", "networks", "ports"),
    [
        ("2620:106:e002:f00f::21,80", [(SHORT, 128)], (80, 80)),
        ("::/0,80", [("::", 0)], (80, 80)),
        ("10.0.0.0/8,1-1023", [("10.0.0.0", 8)], (1, 1023)),
        ("10.0.0.0/8:1,1023", [("10.0.0.0", 8)], (1, 1023)),
        ("0.0.0.0,80", [("0.0.0.0", 32)], (80, 80)),
        ("10.0.0.1-10.0.0.4,80", [("10.0.0.1", 32), ("10.0.0.2", 31), ("10.0.0.4", 32)], (80, 80)),
        ("10.0.0.1-10.0.0.1,80-80", [("10.0.0.1", 32)], (80, 80)),
        ("FD00::-fd00::1,53", [("fd00::", 127)], (53, 53)),
    ],
)
def test_lines_of_byuid(line: str, networks: list[tuple[str, int]], ports: tuple[int, int]) -> None:
    assert parse_line(line) == ([(packed(address), prefix) for address, prefix in networks], *ports)


@pytest.mark.parametrize(
    "line",
    ["80", "10.0.0.0/8", "10.0.0.0/8,", "10.0.0.1/8,80", "10.0.0.0/33,80", "10.0.0.0/8,90-80", "10.0.0.0/8:90,80"]
    + ["10.0.0.2-10.0.0.1,80", "10.0.0.1-::1,80", "::/0:1,1023", "10.0.0.0/08,80", " 10.0.0.1,80", "10.0.0.1,80 "]
    + ["10.0.0.1,80\r", "10.0.0.1, 80", "10.0.0.1,+80", "host,80", "any,80", "10.0.0.1-10.0.0.2/8,80", "10.1,80"]
    + ["10.0.0.1-10.0.0.x,80", "..,80", "10.0.0.1,٨٠", "10.0.0.1," + "9" * 5000],
)
def test_lines_of_byuid_that_authbind_ignores(line: str) -> None:
    assert parse_line(line) is None


def test_no_authbind_here(tmp_path: Path) -> None:
    with pytest.raises(PrivbindError) as caught:
        convert(Accounts(), str(tmp_path / "none"))
    assert str(caught.value) == f"cannot read {tmp_path}/none: it is no folder (is authbind set up on this host?)"


def test_nothing_in_it_is_a_comment_and_no_grant(root: Path) -> None:
    (root / "byaddr").rmdir()
    assert convert(Accounts(), str(root)) == (
        "# Made by privbindctl import-authbind from authbind's files. Look it through before you keep it.",
    )
    assert entries(root) == ()


def test_byuid(root: Path) -> None:
    put(root, "byuid/1000", text="# web\n10.0.0.0/8:1,1023\n\n0.0.0.0/1,80\n::/0,53-54\n10.0.0.0/8,1-1023\nrubbish\n")
    put(root, "byuid/!1000", text="10.0.0.1,500-600\n10.0.0.1,80\n")
    put(root, "byuid/1234", text="::1,80")
    put(root, "byuid/0", text="::1,80")
    assert converted(root) == [
        "",
        f"# {root}/byuid/!1000",
        "# line 2, 10.0.0.1,80: authbind looks into this file for ports 512 to 1023 only",
        "[[grant]]",
        'user = "alice"',
        'allow = ["10.0.0.1:512-600"]',
        "",
        f"# {root}/byuid/0: root needs no grant",
        "",
        f"# {root}/byuid/1000",
        "# line 7, rubbish: authbind takes no notice of such a line",
        "[[grant]]",
        'user = "alice"',
        'allow = ["10.0.0.0/8:1-511", "0.0.0.0/1:80", "0.0.0.0:80", "[::/0]:53-54"]',
        "",
        f"# {root}/byuid/1234",
        "[[grant]]",
        "user = 1234",
        'allow = ["[::1]:80"]',
    ]
    assert [entry.users for entry in entries(root)] == [("alice",), ("alice",), (1234,)]


def test_names_that_lead_elsewhere_stay_numbers(root: Path) -> None:
    """A name that is another's too, one in digits, one that cannot be printed."""
    accounts = Accounts()
    accounts.users = {"a": 1, "1234": 5, "x\ny": 6}
    accounts.user_name = {5: "1234", 6: "x\ny", 7: "a"}.get  # type: ignore[assignment,method-assign]
    for uid in (5, 6, 7):
        put(root, f"byuid/{uid}", text="::1,80")
    found = [line for line in convert(accounts, str(root)) if line.startswith("user")]
    assert found == ["user = 5", "user = 6", "user = 7"]


def test_what_is_decided_earlier_is_no_grant_later(root: Path) -> None:
    put(root, "byport/80")
    put(root, "byport/!600", 0o601)
    put(root, "byport/600", 0o601)
    put(root, "byaddr/10.0.0.1,80")
    put(root, "byaddr/10.0.0.1,81", 0o601)
    put(root, "byaddr/10.0.0.1:81")
    put(root, "byaddr/::ffff:1.2.3.4,81")
    put(root, "byuid/1000", text="10.0.0.0/8,79-82\n10.0.0.2,81\n::ffff:1.2.3.0/120,81\n10.0.0.0/8,80\n")
    text = "\n".join(converted(root))
    for line in (
        f"# {root}/byaddr/10.0.0.1,80: a file in byport decides about port 80 before it",
        f"# {root}/byaddr/10.0.0.1:81: a file for the same address and port, of another name, decides before it",
        f"# {root}/byaddr/::ffff:1.2.3.4,81: {MAPPED}",
        f"# {root}/byport/600: {NEVER}: for port 600 it must begin with !",
        "# line 1, 10.0.0.0/8,79-82: a file in byport decides about port 80 before it",
        "# line 1, 10.0.0.0/8,79-82: a file in byaddr decides about one address of port 81 before it: name the others",
        "# line 3, ::ffff:1.2.3.0/120,81: IPv4-mapped addresses are taken for the IPv4 addresses that they are",
        "# line 4, 10.0.0.0/8,80: a file in byport decides about port 80 before it",
    ):
        assert f"{line}\n" in text
    (entry,) = entries(root)
    assert str(entry.policy) == "10.0.0.0/8:79,10.0.0.0/8:82,10.0.0.2:81"


def test_everybody_is_nobody_until_somebody_is_named(root: Path) -> None:
    put(root, "byport/80", 0o777)
    put(root, "byaddr/0.0.0.0,81", 0o601)
    put(root, "byport/!600", 0)
    assert converted(root) == [
        "",
        f"# {root}/byport/!600: executable by root at most",
        "",
        f"# {root}/byport/80: executable by everybody: name the users",
        "# [[grant]]",
        '# user = "NAME"',
        '# allow = ["80"]',
        "",
        f"# {root}/byaddr/0.0.0.0,81: executable by everybody: name the users",
        "# [[grant]]",
        '# user = "NAME"',
        '# allow = ["0.0.0.0:81"]',
    ]
    assert entries(root) == ()


def test_what_is_no_plain_file(root: Path) -> None:
    put(root, "target", 0o777)
    (root / "byport/80").symlink_to(root / "target")
    (root / "byport/81").symlink_to(root / "nothing")
    (root / "byport/82").mkdir()
    os.mkfifo(root / "byport/83", 0o777)
    (root / "byuid/1000").symlink_to(root / "target")
    os.mkfifo(root / "byuid/1001")
    put(root, "byuid/1002", text="::1,80\n" * (1 << 18))
    put(
        root,
        "byuid/1003",
        text="\n".join(f"10.0.{port}.1,{port}" for port in range(1, 255)) + "\n10.1.0.1-10.1.255.254,1\n",
    )
    put(root, "byuid/1004", text="80-81,1-2,3\n" + "".join(f"10.{a}.{b}.1,9\n" for a in range(5) for b in range(250)))
    text = "\n".join(converted(root)) + "\n"
    for line in (
        f"{root}/byport/80: it is a symbolic link: name those who may execute what it leads to",
        f"{root}/byport/81: it is a symbolic link to nothing, which to authbind is no file",
        f"{root}/byport/82: it is not a regular file",
        f"{root}/byport/83: it is not a regular file",
        f"{root}/byuid/1000: it is a symbolic link: see yourself what it leads to",
        f"{root}/byuid/1001: it is not a regular file",
        f"{root}/byuid/1002: it is larger than 1048576 bytes",
        f"{root}/byuid/1004: it makes 1250 rules, more than the 1000 that a grant may have",
    ):
        assert f"# {line}\n" in text
    assert [entry.users for entry in entries(root)] == [(1003,)]


def test_a_link_to_nothing_decides_nothing(root: Path) -> None:
    (root / "byport/80").symlink_to(root / "nothing")
    put(root, "byuid/1000", text="::1,80\n")
    assert [str(entry.policy) for entry in entries(root)] == ["[::1]:80"]


@pytest.mark.parametrize("folder", ["", "byport", "byaddr"])
def test_who_may_not_enter_a_folder_is_refused_by_it(root: Path, folder: str) -> None:
    put(root, "byuid/1000", text="::1,80\n")
    put(root, "byaddr/::1,81", 0o710)
    place = root / folder
    place.chmod(0o750)
    text = "\n".join(converted(root))
    assert f"# {root}/byuid/1000: only some users may enter {place}: name those of them who are meant" in text
    assert f"# {root}/byaddr/::1,81: only some users may enter {place}: name those of them who are meant" in text
    assert entries(root) == ()


def test_who_may_not_enter_byuid_is_not_refused_since_authbind_reads_it_as_root(root: Path) -> None:
    put(root, "byuid/1000", text="::1,80\n")
    (root / "byuid").chmod(0o700)
    assert len(entries(root)) == 1


def test_what_is_no_folder(root: Path) -> None:
    for name in ("byport", "byuid"):
        (root / name).rmdir()
        put(root, name)
    put(root, "byaddr/::1,81", 0o710)
    assert converted(root) == [
        "",
        f"# {root}/byport: cannot be read: Not a directory",
        "",
        f"# {root}/byaddr/::1,81: {root}/byport cannot be read: Not a directory",
        "# [[grant]]",
        '# user = "NAME"',
        '# allow = ["[::1]:81"]',
        "",
        f"# {root}/byuid: cannot be read: Not a directory",
    ]


NAMES = st.binary(min_size=1, max_size=30).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@given(st.lists(NAMES | st.just(b'80\n[[grant]]\nuser = 1000\nallow = "80"\n#'), max_size=3), NAMES)
def test_no_name_and_no_line_becomes_a_grant_by_its_form(names: list[bytes], line: bytes) -> None:
    """Odd names and lines are comments, whatever is in them."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for place in ("byport", "byuid"):
            (root / place).mkdir()
            (root / place).chmod(0o755)
            for name in names:
                Path(os.fsdecode(os.path.join(os.fsencode(root / place), name))).touch()
        (root / "byuid/1000").write_bytes(b"x" + line)
        assert entries(root) == ()


ADDRESSES = st.sampled_from(
    ["0.0.0.0", "0.0.0.1", "10.0.0.0", "10.0.0.5", "127.0.0.1", "255.255.255.255", "::", "::1", "fd00::7"]
)
PORTS = st.sampled_from([1, 80, 510, 511, 512, 1023])
LINES = st.one_of(
    st.builds("{},{}".format, ADDRESSES, PORTS),
    st.builds("{}-{},{}-{}".format, ADDRESSES, ADDRESSES, PORTS, PORTS),
    st.builds("{}/{},{}-{}".format, ADDRESSES, st.integers(0, 128), PORTS, PORTS),
    st.builds("{}/{}:{},{}".format, ADDRESSES, st.integers(0, 32), PORTS, PORTS),
)


def authbind_permits(line: str, address: str, port: int) -> bool:
    """What authbind(1) says of a line, read another way."""
    where, _, ports = line.rpartition(":") if line.count(":") == 1 else line.partition(",")
    first, _, last = ports.replace("-", ",").partition(",")
    if not int(first) <= port <= int(last or first):
        return False
    asked = ipaddress.ip_address(address)
    low, _, high = where.partition("-")
    try:
        if high:
            first_end, last_end = map(ipaddress.ip_address, (low, high))
            alike = first_end.version == last_end.version == asked.version
            return alike and int(first_end) <= int(asked) <= int(last_end)
        return asked in ipaddress.ip_network(where)
    except (TypeError, ValueError):
        return False


@given(LINES, ADDRESSES, PORTS)
def test_a_line_permits_what_authbind_permits(line: str, address: str, port: int) -> None:
    """Exactly that, in the range of ports for which the file is looked at."""
    from privbind.standing.authbind import _Conversion

    rules, _ = _Conversion(Accounts(), "/nonexistent")._line(line, range(1, 512))
    expected = port < 512 and authbind_permits(line, address, port)
    permitted = bool(rules) and Policy(rules).permits("tcp", packed(address), port)
    assert permitted == expected


def test_what_the_kernel_refuses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked at is no grant, nor is what comes after it."""
    put(root, "byuid/1000", text="::1,80\n")
    put(root, "byuid/1001", text="::1,80\n")

    def refuse(call: str, refused: Path) -> None:
        real = getattr(os, call)

        def maybe(path: object, *rest: object, **named: object) -> object:
            if path == str(refused):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *rest, **named)

        monkeypatch.setattr(os, call, maybe)

    refuse("open", root / "byuid/1000")
    assert converted(root)[:2] == ["", f"# {root}/byuid/1000: cannot be read: Permission denied"]
    assert [entry.users for entry in entries(root)] == [("bob",)]
    refuse("stat", root / "byport")
    assert f"# {root}/byuid/1001: {root}/byport cannot be looked at: Permission denied" in converted(root)
    assert entries(root) == ()
    monkeypatch.undo()
    refuse("listdir", root / "byaddr")
    assert f"# {root}/byaddr: cannot be read: Permission denied" in converted(root)
    assert entries(root) == ()
