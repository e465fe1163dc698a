"""The privbindctl command: its command line, what it makes of what it finds, as text and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.commands import privbindctl as ctl
from privbind.commands.output import printable
from privbind.commands.report import doctor_text, doctor_values, grants_text, grants_values, reserved_state
from privbind.errors import UsageError
from privbind.grant import record
from privbind.grant.grant import Grant
from privbind.grant.holder import Holder
from privbind.grant.policy import Policy, parse_ports
from privbind.grant.site import Site
from privbind.helper import ledger
from privbind.inspect.grants import Listing, LiveGrant, from_record
from privbind.inspect.host import Cgroups, Installed, Offer, Report, Shim
from privbind.inspect.installation import Installation
from privbind.inspect.standing import Standing

from ..harness.install import SOURCE

NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("ls", ("ls", "", "", {})),
        ("ls --json", ("ls", "", "json", {})),
        ("--json doctor", ("doctor", "", "json", {})),
        ("doctor --help", ("help", "", "", {})),
        ("-h --nonsense", ("help", "", "", {})),
        ("--version", ("version", "", "", {})),
        ("allow alice tcp:80 udp:53", ("allow", "alice tcp:80 udp:53", "", {})),
        ("allow --group web tcp:80", ("allow", "tcp:80", "", {"group": "web"})),
        ("allow tcp:80 --group=web", ("allow", "tcp:80", "", {"group": "web"})),
        ("--group web allow tcp:80 --cgroup /x", ("allow", "tcp:80", "", {"group": "web", "cgroup": "/x"})),
        ("disallow -- --odd", ("disallow", "--odd", "", {})),
        ("disallow alice", ("disallow", "alice", "", {})),
        ("check --diff a b", ("check", "a b", "diff", {})),
        ("check -- --diff", ("check", "--diff", "", {})),
        ("load --dry-run -v --cgroup=", ("load", "", "dry-run verbose", {"cgroup": ""})),
        ("load --verbose", ("load", "", "verbose", {})),
        ("load -vv", ("load", "", "verbose very-verbose", {})),
        ("-v load -v", ("load", "", "verbose very-verbose", {})),
        ("help", ("help", "", "", {})),
        ("unload --cgroup /x", ("unload", "", "", {"cgroup": "/x"})),
        ("test alice 80", ("test", "alice 80", "", {})),
        ("import-authbind", ("import-authbind", "", "", {})),
    ],
)
def test_command_lines(arguments: str, what: tuple[str, str, str, dict[str, str]]) -> None:
    """The command, its arguments, and its options without and with a value, wherever those stand."""
    command, words, flags, values = what
    assert ctl.parse(arguments.split()) == ctl.Call(command, tuple(words.split()), frozenset(flags.split()), values)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no command given"),
        (["list"], "unknown command 'list'"),
        (["ls", "80"], "takes no argument"),
        (["ls", "-x"], "unknown option -x"),
        (["doctor", "--json=1"], "option --json takes no value"),
        (["ls", "--cgroup=/x"], "ls: unknown option --cgroup"),
        (["load", "--json"], "load: unknown option --json"),
        (["load", "web"], "load: takes no argument, but got 'web'"),
        (["load", "--cgroup"], "option --cgroup needs a value"),
        (["allow", "--verbose", "alice", "80"], "allow: unknown option --verbose"),
        (["test", "--group", "web", "80"], "test: unknown option --group"),
    ],
)
def test_bad_command_lines(arguments: list[str], why: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that says what to do, and 125."""
    with pytest.raises(UsageError, match=why):
        ctl.parse(arguments)
    assert ctl.main(arguments) == 125
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("privbindctl: ")
    assert err.count("\n") == 1
    assert why in err


def test_help_and_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["--help"]) == 0
    assert capfd.readouterr() == (ctl.HELP, "")
    assert ctl.main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("privbindctl 2.")


def test_without_anybody_to_write_to(capfd: pytest.CaptureFixture[str]) -> None:
    """An error of its own, not a trace."""
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); "
        "from privbind.commands.privbindctl import main; sys.exit(main(['--help']))"
    )
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-I", "-c", code], stdout=full, stderr=-1, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr == "privbindctl: cannot write to standard output: No space left on device\n"
    capfd.readouterr()


REPORT = Report(
    kernel="6.18.0",
    machine="x86_64",
    uid=0,
    offers=(
        Offer("bpf", False, False, False, "cgroup v2 is not mounted", "mount it"),
        Offer("seccomp", True, True, True, "CAP_SYS_ADMIN is missing", "add it", "--no-new-privs"),
        Offer("preload", None, None, None, "this user lacks everything", "run as root"),
        Offer("ambient", True, False, False, "wider"),
    ),
    port_start=1024,
    cgroups=Cgroups("hybrid", "/a", True),
    installation=Installation("pipx", "/a/privbind", "/a/python3", "3.11", ("everybody may write '/a'",)),
    installed=(Installed("/usr/bin/privbind", True, False, False),),
    shim=Shim("/lib/x.so", True, True),
    standing=Standing(True, 2, 1, NOW, False),
    unseen=("whether preload can be used",),
)


def test_the_doctors_text() -> None:
    lines = doctor_text(REPORT, None).splitlines()
    assert lines[3].split() == ["bpf", "no", "no", "no"]
    assert lines[4] == "  cgroup v2 is not mounted (mount it)"
    assert lines[5].split() == ["seccomp", "yes", "yes", "yes"]
    assert lines[6] == "  only with --no-new-privs: CAP_SYS_ADMIN is missing (add it)"
    assert lines[7].split() == ["preload", "?", "?", "?"]
    told = {line[:11].strip(): line[11:] for line in lines[lines.index("") + 1 :]}
    assert told["reserved"] == "ports 1 to 1023"
    assert told["from"] == (
        "pipx, in /a/privbind, run by /a/python3, which it is bound to: with another than 3.11, install it again"
    )
    assert told["beware"] == "everybody may write '/a'"
    assert told["installed"] == "/usr/bin/privbind is setuid: every user can run commands as any user with it"
    assert told["shim"] == "/lib/x.so: loads"
    assert told["not seen"] == "whether preload can be used"


SINCE = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW))
IN_FORCE = f"grants for 1 user and 0 groups are in force, loaded at {SINCE}"


@pytest.mark.parametrize(
    ("standing", "says"),
    [
        (Standing(None, reason="run as root"), "?"),
        (Standing(False, changed=False), "no grants are in force"),
        (Standing(False, changed=True), "no grants are in force; the files grant some (privbindctl load)"),
        (Standing(True, 2, 1, NOW, False), f"grants for 2 users and 1 group are in force, loaded at {SINCE}"),
        (
            Standing(True, 1, 0, NOW, True),
            f"{IN_FORCE}; the files grant something else by now (privbindctl check --diff)",
        ),
        (
            Standing(True, 1, 0, NOW, None, "the files are bad"),
            f"{IN_FORCE}; the files are bad",
        ),
    ],
)
def test_what_the_doctor_says_of_standing_grants(standing: Standing, says: str) -> None:
    report = replace(REPORT, standing=standing)
    assert f"\nstanding   {says}\n" in doctor_text(report, None)
    since = None if standing.since is None else "2027-01-15T08:00:00Z"
    assert doctor_values(report)["standing"] == asdict(standing) | {"since": since}


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_the_doctors_text_fits(width: int) -> None:
    """Down to what is too narrow to be read."""
    assert max(map(len, doctor_text(REPORT, width).splitlines())) <= max(width, 60)


@pytest.mark.parametrize(
    ("start", "state", "says"),
    [
        (None, None, "?"),
        (0, "empty", "every program may bind every port"),
        (1, "empty", "no port"),
        (80, "lowered", "ports 1 to 79 (lowered"),
        (1024, "usual", "ports 1 to 1023"),
        (9000, "raised", "ports 1 to 8999 (raised"),
    ],
)
def test_reserved_ranges(start: int | None, state: str | None, says: str) -> None:
    assert reserved_state(start) == state
    report = replace(REPORT, port_start=start)
    assert f"reserved   {says}" in doctor_text(report, None) or says in doctor_text(report, None)
    assert doctor_values(report)["reserved"] == {"below": start, "state": state}


def test_the_doctors_json() -> None:
    """Its keys are documented, and stay."""
    values = json.loads(json.dumps(doctor_values(REPORT)))
    assert set(values) == {
        "privbind", "kernel", "uid", "mechanisms", "reserved", "cgroups", "installation", "installed", "shim",
        "standing", "unseen",
    }  # fmt: skip
    assert values["mechanisms"][1] == {
        "name": "seccomp",
        "usable": True,
        "policy": True,
        "limit": True,
        "reason": "CAP_SYS_ADMIN is missing",
        "remedy": "add it",
        "condition": "--no-new-privs",
    }
    assert values["mechanisms"][2]["usable"] is None
    assert values["cgroups"] == {"layout": "hybrid", "own": "/a", "usable": True, "reason": ""}


def test_what_the_doctors_status_counts() -> None:
    """A mechanism that is known to honour a policy; one of which that could not be told is none."""
    assert REPORT.honours_policy
    assert not replace(REPORT, offers=REPORT.offers[2:]).honours_policy


GRANT = LiveGrant(
    mechanism="bpf",
    place="/sys/fs/cgroup/privbind.7.0",
    user="www-data",
    uid=33,
    gid=33,
    rules=("tcp:80", "tcp:443"),
    limit=5,
    left=3,
    reuse_ports=(),
    granted=2,
    refused=1,
    since=NOW - 60,
    pid=7,
    command=(b"./server", b"-v", b"\x1b[2J\n\xff"),
)
UNKNOWN = LiveGrant(mechanism=None, place="process 9")
GUESS = LiveGrant(mechanism="ambient", place="process 8", guess=True, user="u", rules=(), limit=0, since=NOW, pid=8)


def cells(grant: LiveGrant) -> list[str]:
    return grants_text(Listing((grant,), ()), None, NOW).splitlines()[1].split()


def test_rows() -> None:
    """Unknown is a question mark, what there is not a hyphen."""
    found = cells(GRANT)
    assert found[:6] == ["7", "bpf", "www-data", "2", "1", "3"]
    assert found[7:9] == ["tcp:80,tcp:443", "./server"]
    assert cells(UNKNOWN) == ["?"] * 9
    assert cells(GUESS)[:6] == ["8", "ambient?", "u", "-", "-", "-"]
    assert cells(replace(GRANT, pid=None))[0] == "-"
    assert cells(replace(GRANT, limit=0, left=None))[5] == "-"
    assert cells(replace(GRANT, rules=()))[7] == "any"
    assert cells(replace(GRANT, cut=3))[-1] == "…"


STANDING = LiveGrant(
    mechanism="bpf",
    place="/sys/fs/cgroup",
    kind="standing",
    user="alice",
    uid=1000,
    rules=("tcp:80", "udp:53"),
    limit=0,
    reuse_ports=(),
    granted=7,
    since=NOW,
    sources=("/etc/privbind/grants.d/a.toml:1", "/etc/privbind/grants.d/b.toml:5"),
)


def test_rows_of_standing_grants() -> None:
    """They have no process; whose they are, what for, and where that is written."""
    found = cells(STANDING)
    assert found[:6] == ["-", "standing", "alice", "7", "-", "-"]
    assert found[7:] == ["tcp:80,udp:53", "a.toml:1,", "b.toml:5"]
    assert cells(replace(STANDING, user=None))[2] == "1000"
    assert cells(replace(STANDING, user="web", uid=None, gid=33))[2:4] == ["group", "web"]
    assert cells(replace(STANDING, user=None, uid=None, gid=33))[2:4] == ["group", "33"]
    assert cells(replace(STANDING, uid=None, uids=(100000, 65536)))[2:5] == ["uids", "of", "alice"]
    assert cells(replace(STANDING, user=None, uid=None, uids=(100000, 65536)))[2:4] == ["uids", "100000-165535"]


def test_a_command_does_nothing_to_the_terminal() -> None:
    """Escapes, line breaks and stray bytes are shown."""
    text = grants_text(Listing((GRANT,), ()), None, NOW)
    assert "'\\x1b[2J\\x0a\\xff'" in text
    assert text.count("\n") == 2


@pytest.mark.parametrize("width", [80, 100, 132, 1000])
def test_the_table_fits(width: int) -> None:
    """Rules and command share what the others leave."""
    long = replace(GRANT, pid=4194304, user="a-very-long-user-name", rules=("tcp:80",) * 50, command=(b"x" * 500,))
    lines = grants_text(Listing((long, GUESS, UNKNOWN), ()), width, NOW).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 4


def test_the_lists_json() -> None:
    values = json.loads(json.dumps(grants_values(Listing((GRANT, UNKNOWN), ("something",), ("a note",)))))
    first, second = values["grants"]
    assert (values["unseen"], values["notes"]) == (["something"], ["a note"])
    assert first["since"] == "2027-01-15T07:59:00Z"
    assert first["rules"] == ["tcp:80", "tcp:443"]
    assert first["command"] == ["./server", "-v", "\x1b[2J\n\\xff"]
    assert {key for key, value in second.items() if value is not None} == {
        "place", "kind", "guess", "cut", "sources",
    }  # fmt: skip
    assert (first["kind"], first["sources"]) == ("launch", [])
    assert set(first) == set(second)


@given(st.text())
def test_printable_text_is_one_line(text: str) -> None:
    """For all text: nothing in it moves a terminal, and it can be written."""
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert shown == text or not text.isprintable()


NARROW = Grant(Policy.parse(["tcp:80,udp:[fd00::/8]:53"]), 3, parse_ports("80"))


def said(grant: Grant = NARROW, argv: tuple[bytes, ...] = (b"x", b"\n")) -> list[tuple[str, bytes]]:
    holder = Holder("www-data", 33, 33, argv, 77, NOW)
    return record.decode(record.encode(record.describe(grant, holder, Site(7, 1024), "bpf")))


def test_what_a_record_says() -> None:
    grant, pid = from_record(said(), (4, 5, 2), "here")
    assert pid == 77
    assert grant == LiveGrant(
        mechanism="bpf",
        place="here",
        user="www-data",
        uid=33,
        gid=33,
        rules=("tcp:80", "udp:[fd00::/8]:53"),
        limit=3,
        left=1,
        reuse_ports=("80",),
        granted=4,
        refused=5,
        since=NOW,
        command=(b"x", b"\n"),
    )


def test_what_a_record_of_everything_says() -> None:
    """No rules: any reserved port. No limit: nothing is left of it."""
    grant, _ = from_record(said(Grant(Policy(None)), (b"x" * 4096, b"y")), (0, 0, 0), "here")
    assert (grant.rules, grant.limit, grant.left, grant.reuse_ports, grant.cut) == ((), 0, None, (), 1)


@given(st.binary(max_size=300), st.integers(0, 24))
def test_any_bytes_are_a_ledger_or_a_value_error(data: bytes, zeros: int) -> None:
    """For all bytes that a helper may publish: a grant that can be shown, or ValueError, never another error."""
    try:
        counters, text = ledger.parse(bytes(zeros) + data)
        grant, _ = from_record(record.decode(text), counters, "here")
    except ValueError:
        return
    grants_text(Listing((grant,), ()), 80, NOW)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("since", b"9" * 19, "not a whole number"),
        ("uid", b"x", "not a whole number"),
        ("pid", b"", "not a whole number"),
        ("grant", b"tcp:80; at most -1 binds", "not a whole number"),
        ("grant", b"tcp:80; at most 0 binds", "not a whole number"),
        ("grant", b"tcp:80; and more", "'and more' is no part of a grant"),
        ("grant", b"", "it is empty"),
        ("grant", b"tcp:80; SO_REUSEPORT on ", "nothing between the commas"),
    ],
)
def test_a_record_that_makes_no_sense(name: str, value: bytes, why: str) -> None:
    wrong = [(known, value if known == name else right) for known, right in said()]
    with pytest.raises(ValueError, match=why):
        from_record(wrong, (0, 0, 0), "here")
    with pytest.raises(ValueError, match=f"lacks '{name}'"):
        from_record([line for line in said() if line[0] != name], (0, 0, 0), "here")


VALUES = st.one_of(st.integers().map(lambda number: b"%d" % number), st.binary(max_size=20))


@given(st.data())
def test_any_record_is_a_grant_or_a_value_error(data: st.DataObject) -> None:
    """The same for records of the right form that say anything."""
    lines = [(name, data.draw(VALUES)) for name, _ in said() if name != data.draw(st.sampled_from(["", "grant"]))]
    try:
        grant, _ = from_record(record.decode(record.encode(lines)), (1, 2, 3), "here")
    except ValueError:
        return
    for width in (None, 80):
        assert printable(grants_text(Listing((grant,), ()), width, NOW).replace("\n", ""))
    json.dumps(grants_values(Listing((grant,), ())))
