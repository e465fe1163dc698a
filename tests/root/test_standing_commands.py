"""Standing grants by command, end to end; what shows them; and privbind without -u."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from privbind.inspect import standing as inspected
from privbind.standing import load as loading

from ..harness.cases import Bind
from ..harness.host import BIND_WHEN_TOLD, python, read_line, tell
from ..harness.standing import ALICE, CAROL, GRANTS, SUBIDS, WEB, StandingHost


def answers(host: StandingHost, user: str, program: Path, *ports: int) -> list[str]:
    return host.binds(user, program, *(Bind("tcp", family, where, port) for port in ports for family, where in HERE))


HERE = (("4", "127.0.0.1"), ("6", "::1"))


@pytest.fixture
def trybind(programs: Path) -> Path:
    return programs / "trybind"


def test_allow_and_disallow(standing: StandingHost, trybind: Path) -> None:
    """Each says what it did and how to undo it; that command does undo it."""
    where = f" --cgroup={standing.cgroup}"
    file = standing.grants / "user-alice.toml"
    found = standing.ctl("allow", "alice", "tcp:80,tcp:443", "udp:53").ok()
    assert found.lines == [
        f"written: {GRANTS}/user-alice.toml",
        "loaded: grants for 1 user and 0 groups are in force",
        f"to undo: privbindctl disallow alice tcp:80 tcp:443 udp:53{where}",
    ]
    assert file.stat().st_mode & 0o777 == 0o644
    assert answers(standing, "alice", trybind, 80, 443, 81) == ["ok"] * 4 + ["EACCES"] * 2
    assert answers(standing, "bob", trybind, 80) == ["EACCES"] * 2
    again = standing.ctl("allow", "alice", "tcp:80").ok()
    assert again.lines == [
        f"note: tcp:80 is granted already, by {GRANTS}/user-alice.toml",
        "nothing has changed: grants for 1 user and 0 groups are in force",
    ]
    # As after a boot at which nothing was loaded.
    standing.ctl("unload").ok()
    again = standing.ctl("allow", "alice", "tcp:80").ok()
    assert again.lines[1:] == ["loaded: grants for 1 user and 0 groups are in force"]
    assert answers(standing, "alice", trybind, 80) == ["ok"] * 2
    found = standing.ctl("disallow", "alice", "tcp:80").ok()
    assert found.lines == [
        f"written: {GRANTS}/user-alice.toml",
        "loaded: grants for 1 user and 0 groups are in force",
        f"to undo: privbindctl allow alice tcp:80{where}",
    ]
    assert answers(standing, "alice", trybind, 80, 443) == ["EACCES"] * 2 + ["ok"] * 2
    undo = found.lines[2].partition("privbindctl ")[2].removesuffix(where).split()
    standing.ctl(*undo).ok()
    assert answers(standing, "alice", trybind, 80) == ["ok"] * 2
    found = standing.ctl("disallow", "alice").ok()
    assert found.lines[0] == f"removed: {GRANTS}/user-alice.toml"
    assert not file.exists()
    assert answers(standing, "alice", trybind, 80, 443) == ["EACCES"] * 4


def test_a_port_that_needs_no_grant(standing: StandingHost) -> None:
    """The grant is written all the same, as the ports that are reserved may be others some day."""
    found = standing.ctl("allow", "alice", "tcp:80,tcp:8080,tcp:1000-2000").ok()
    note = "ports from 1024 on are not reserved here, every program may bind them"
    assert found.lines[1] == f"note: tcp:8080 needs no grant: {note}"
    assert [line for line in found.lines if line.startswith("note: ")] == [found.lines[1]]
    assert "tcp:8080" in (standing.grants / "user-alice.toml").read_text()


def test_allow_a_group(standing: StandingHost, trybind: Path) -> None:
    found = standing.ctl("allow", "--group", "web", "tcp:80").ok()
    assert found.lines[0] == f"written: {GRANTS}/group-web.toml"
    assert found.lines[1] == "loaded: grants for 2 users and 1 group are in force"
    assert answers(standing, "carol", trybind, 80) == answers(standing, "dave", trybind, 80) == ["ok"] * 2
    assert answers(standing, "alice", trybind, 80) == ["EACCES"] * 2
    standing.ctl("disallow", "--group=web").ok()
    assert answers(standing, "carol", trybind, 80) == ["EACCES"] * 2


def test_a_load_that_fails_puts_the_file_back(standing: StandingHost, trybind: Path) -> None:
    """There is no file as there was none, or the one that there was; what was in force is."""
    without = ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin"]
    file = standing.grants / "user-alice.toml"
    found = standing.ctl("allow", "alice", "tcp:80", prefix=without)
    assert (found.status, found.out, found.err.count("\n")) == (125, "", 1)
    assert list(standing.grants.iterdir()) == []
    standing.ctl("allow", "alice", "tcp:80").ok()
    before = file.read_bytes()
    for words in (["allow", "alice", "tcp:81"], ["disallow", "alice"]):
        assert standing.ctl(*words, prefix=without).status == 125
        assert file.read_bytes() == before
        assert list(standing.grants.iterdir()) == [file]
        assert answers(standing, "alice", trybind, 80, 81) == ["ok"] * 2 + ["EACCES"] * 2


def test_files_of_people_are_not_touched(standing: StandingHost) -> None:
    text = '[[grant]]\nuser = "alice"\nallow = "tcp:80"\n'
    standing.write(text, "user-alice.toml")
    for words in (["allow", "alice", "tcp:81"], ["disallow", "alice"], ["disallow", "alice", "tcp:80"]):
        found = standing.ctl(*words)
        assert (found.status, found.out) == (125, "")
        assert "it was not written by privbindctl allow" in found.err
    assert (standing.grants / "user-alice.toml").read_text() == text


def test_check_and_what_a_load_would_change(standing: StandingHost) -> None:
    standing.write('[[grant]]\nuser = "alice"\nallow = ["tcp:80", "udp:53"]\nsubids = true\n', "a.toml")
    standing.write('\n[[grant]]\ngroup = "web"\nallow = "tcp:443"\n', "b.toml")
    expected = [
        "3 users:",
        f"  alice (uid {ALICE}): tcp:80, udp:53  (a.toml:1)",
        f"  carol (uid {CAROL}): tcp:443  (b.toml:2, group web)",
        "  dave (uid 4004): tcp:443  (b.toml:2, group web)",
        "1 group, for whoever has it as primary group:",
        f"  web (gid {WEB}): tcp:443  (b.toml:2, group web)",
        "1 range of subordinate uids:",
        f"  uids {SUBIDS[0]}-{sum(SUBIDS) - 1} of alice: tcp:80, udp:53  (a.toml:1)",
    ]
    assert standing.ctl("check").ok().lines == expected
    assert standing.ctl("load", "--dry-run").ok().lines == expected
    assert standing.in_force() is None
    listing = standing.ctl("load", "--dry-run", "-vv").ok().lines
    assert listing[: len(expected)] == expected
    assert "# before a bind of an IPv6 socket" in listing
    assert standing.ctl("check", "--diff").ok().lines == [
        f"+ alice (uid {ALICE}): tcp:80, udp:53",
        f"+ carol (uid {CAROL}): tcp:443",
        "+ dave (uid 4004): tcp:443",
        f"+ web (gid {WEB}): tcp:443",
        f"+ uids {SUBIDS[0]}-{sum(SUBIDS) - 1} of alice: tcp:80, udp:53",
    ]
    standing.ctl("load").ok()
    assert standing.ctl("check", "--diff").ok().lines == ["a load would change nothing"]
    standing.write('[[grant]]\nuser = "alice"\nallow = ["tcp:80", "tcp:81"]\n', "a.toml")
    (standing.grants / "b.toml").unlink()
    assert standing.ctl("check", "--diff").ok().lines == [
        f"- alice (uid {ALICE}): udp:53",
        f"+ alice (uid {ALICE}): tcp:81",
        f"- carol (uid {CAROL}): tcp:443",
        "- dave (uid 4004): tcp:443",
        f"- web (gid {WEB}): tcp:443",
        f"- uids {SUBIDS[0]}-{sum(SUBIDS) - 1} of alice: tcp:80, udp:53",
    ]


def test_a_load_that_tells_more_warns_once(standing: StandingHost) -> None:
    standing.write('[[grant]]\nuser = ["alice", "mallory"]\nallow = "tcp:80"\n')
    told = standing.ctl("load", "-v").ok()
    assert told.err.count("unknown user 'mallory'") == len(told.err.splitlines()) == 1
    assert told.lines[1:] == ["1 user:", f"  alice (uid {ALICE}): tcp:80  (test.toml:1)"]
    again = standing.ctl("load", "-v").ok()
    assert again.lines == ["nothing has changed: grants for 1 user and 0 groups are in force", *told.lines[1:]]


def test_check_of_a_draft(standing: StandingHost, folder: Path) -> None:
    """Whoever wrote it may check it, without touching anything."""
    draft = folder / "draft.toml"
    draft.write_text('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    os.chown(draft, ALICE, ALICE)
    found = standing.as_user("alice", [standing.ctl_path, "check", draft])
    assert found.ok().lines == ["1 user:", f"  alice (uid {ALICE}): tcp:80  (draft.toml:1)"]
    assert "it belongs to uid" in standing.as_user("bob", [standing.ctl_path, "check", draft]).err


def test_test_asks_the_kernel_and_touches_no_port(standing: StandingHost, trybind: Path) -> None:
    """Yes is 0, no is 1; also where the port is taken, and nothing is bound by it."""
    standing.load('[[grant]]\nuser = "alice"\nallow = ["tcp:80", "udp:127.0.0.0/8:53"]\n')
    for rule, said, status in (
        ("tcp:80", "alice may bind tcp:80", 0),
        ("80", "alice may not bind udp:80", 1),
        ("tcp:79-82", "alice may not bind tcp:79, tcp:81-82", 1),
        ("udp:127.0.0.1:53", "alice may bind udp:127.0.0.1:53", 0),
        ("udp:53", "alice may not bind udp:53", 1),
        ("udp:127.0.0.0/8:53", "alice may bind udp:127.0.0.0/8:53", 0),
        ("udp:126.0.0.0/7:53", "alice may not bind udp:126.0.0.0/7:53", 1),
        ("tcp:[::]:80", "alice may bind tcp:[::]:80", 0),
        ("tcp:8080", "alice may bind tcp:8080", 0),
        ("tcp:80,tcp:81", "alice may not bind tcp:81", 1),
    ):
        found = standing.ctl("test", "alice", rule)
        assert (found.out, found.err, found.status) == (f"{said}\n", "", status)
    assert standing.ctl("test", "bob", "tcp:80").status == 1
    assert standing.ctl("test", str(ALICE), "tcp:80").status in (0, 125)
    holder = standing.popen(standing.words_as("alice", python(BIND_WHEN_TOLD)), stdin=-1, stdout=-1)
    assert read_line(holder) == "up\n"
    code = (
        "import socket, sys; s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen(); print('up', flush=True); input()"
    )
    server = standing.popen(python(code), stdin=-1, stdout=-1)
    assert read_line(server) == "up\n"
    assert tell(holder, 80) == "98", "the control: it is in use"
    assert standing.ctl("test", "alice", "tcp:80").status == 0
    server.communicate("\n")
    assert answers(standing, "alice", trybind, 80) == ["ok"] * 2


def test_import_authbind(standing: StandingHost, trybind: Path) -> None:
    """What it prints is a file of grants."""
    byport = standing.etc / "authbind/byport"
    byport.mkdir(parents=True)
    for path in (byport, byport.parent):
        path.chmod(0o755)
    (byport / "80").touch()
    os.chown(byport / "80", ALICE, 0)
    (byport / "80").chmod(0o500)
    found = standing.ctl("import-authbind").ok()
    assert answers(standing, "alice", trybind, 80) == ["EACCES"] * 2
    standing.load(found.out)
    assert answers(standing, "alice", trybind, 80) == ["ok"] * 2
    assert answers(standing, "bob", trybind, 80) == ["EACCES"] * 2


def listed(host: StandingHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.ctl("ls", "--json").ok().out)
    found["grants"] = [grant for grant in found["grants"] if grant["place"] == host.cgroup]
    found["notes"] = [note for note in found["notes"] if f"'{host.cgroup}'" in note or "on cgroup '" not in note]
    return found


def test_ls(standing: StandingHost, trybind: Path) -> None:
    """By holder, with counters, where it is written, since when; and that the files say something else by now."""
    before = int(time.time())
    standing.load(
        '[[grant]]\nuser = "alice"\nallow = "tcp:80"\nsubids = true\n\n[[grant]]\ngroup = "web"\nallow = "udp:53"\n'
    )
    assert answers(standing, "alice", trybind, 80, 81) == ["ok"] * 2 + ["EACCES"] * 2
    assert standing.binds(SUBIDS[0] + 5, trybind, Bind("tcp", "4", "127.0.0.1", 80)) == ["ok"]
    found = listed(standing)
    grants = {(grant["uid"], grant["gid"], tuple(grant["uids"] or ())): grant for grant in found["grants"]}
    assert set(grants) == {
        (ALICE, None, ()), (CAROL, None, ()), (4004, None, ()), (None, WEB, ()), (None, None, SUBIDS)
    }  # fmt: skip
    alice = grants[ALICE, None, ()]
    since = time.strptime(alice.pop("since"), "%Y-%m-%dT%H:%M:%SZ")
    assert before - 1 <= time.mktime(since) - time.timezone <= time.time() + 1
    assert alice == {
        "mechanism": "bpf", "place": standing.cgroup, "kind": "standing", "guess": False, "user": "alice",
        "uid": ALICE, "gid": None, "uids": None, "rules": ["tcp:80"], "limit": 0, "left": None, "reuse_ports": [],
        "granted": 2, "refused": None, "pid": None, "command": None, "cut": 0, "sources": [f"{GRANTS}/test.toml:1"],
    }  # fmt: skip
    assert grants[None, None, SUBIDS]["granted"] == 1
    assert grants[None, WEB, ()]["granted"] == 0
    assert found["notes"] == []
    text = standing.ctl("ls").ok()
    rows = [line.split() for line in text.lines if "test.toml" in line]
    assert [row[:4] for row in rows if row[2] == "alice"] == [["-", "standing", "alice", "2"]]
    assert any(row[2:4] == ["group", "web"] and row[-2:] == ["udp:53", "test.toml:6"] for row in rows)
    assert not [line for line in text.err.splitlines() if "note: " in line and f"'{standing.cgroup}'" in line]
    standing.write('[[grant]]\nuser = "bob"\nallow = "tcp:80"\n')
    there = f"--cgroup={standing.cgroup}"
    remedy = f"privbindctl check --diff {there} says what; privbindctl load {there} puts it in force"
    changed = f"the files grant something else by now than is in force on cgroup '{standing.cgroup}' ({remedy})"
    assert listed(standing)["notes"] == [changed]
    assert f"privbindctl: note: {changed}\n" in standing.ctl("ls").err
    standing.write("nonsense")
    (note,) = listed(standing)["notes"]
    stays = f"so what is in force on cgroup '{standing.cgroup}' stays"
    assert note.startswith(f"the files of grants have an error by now, {stays}: {GRANTS}/test.toml:1")
    standing.ctl("unload").ok()
    assert listed(standing)["grants"] == []


def test_the_doctor(standing: StandingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is at the root, which for this test is the test's own cgroup."""
    real = loading.Target.open
    monkeypatch.setattr(loading.Target, "open", lambda _: real(standing.cgroup))

    def look() -> inspected.Standing:
        return standing.inside(inspected.look)

    assert look() == inspected.Standing(False, changed=False)
    standing.write('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n\n[[grant]]\ngroup = "web"\nallow = "udp:53"\n')
    assert look() == inspected.Standing(False, changed=True)
    before = int(time.time())
    standing.ctl("load").ok()
    state = look()
    assert state.since is not None
    assert before <= state.since <= time.time()
    assert state == inspected.Standing(True, 3, 1, state.since, False)
    standing.write('[[grant]]\nuser = "bob"\nallow = "tcp:80"\n')
    assert look() == inspected.Standing(True, 3, 1, state.since, True)
    standing.write("nonsense")
    state = look()
    assert (state.in_force, state.changed) == (True, None)
    assert state.reason.startswith(f"the files of grants cannot be loaded: {GRANTS}/test.toml:1: not TOML")


# privbind without -u, by an ordinary user.


def test_a_command_that_may_bind_already(standing: StandingHost, trybind: Path) -> None:
    """It is started and may bind; where something is missing, one line says what, and how to get it."""
    standing.load('[[grant]]\nuser = "alice"\nallow = ["tcp:80", "tcp:443"]\n')
    command = [standing.privbind, "--allow", "tcp:80", "--", trybind, "tcp", "4", "127.0.0.1", "80"]
    assert standing.as_user("alice", command).ok().out == "ok 127.0.0.1 80\n"
    assert standing.as_user("alice", command).err == ""
    refused = standing.as_user("bob", command)
    assert (refused.status, refused.out) == (125, "")
    argv = f"{trybind} tcp 4 127.0.0.1 80"
    assert refused.err.splitlines() == [
        (
            "privbind: bob may not bind tcp:80 (for good: sudo privbindctl allow bob tcp:80; "
            f"once: sudo privbind -u bob --allow tcp:80 -- {argv}; why: privbindctl explain tcp:80)"
        ),
        'privbind:   or in /etc/privbind/grants.d/NAME.toml: grant = [{user = "bob", allow = ["tcp:80"]}]',
    ]
    toml = refused.err.partition("NAME.toml: ")[2]
    standing.load(toml)
    assert standing.as_user("bob", command).ok().out == "ok 127.0.0.1 80\n"


def test_what_is_missing_of_several_rules(standing: StandingHost) -> None:
    """Only that; nothing is started for the rest."""
    standing.load('[[grant]]\nuser = "alice"\nallow = ["tcp:80", "tcp:443"]\n')
    command = [standing.privbind, "-a", "tcp:80-81,tcp:443", "-a", "udp:443", "echo", "started"]
    found = standing.as_user("alice", command)
    assert (found.status, found.out) == (125, "")
    assert found.err.startswith("privbind: alice may not bind tcp:81,udp:443 (for good: ")
    assert found.err.count("\n") == 2
    unreserved = [standing.privbind, "-a", "tcp:8080", "echo", "started"]
    assert standing.as_user("bob", unreserved).ok().out == "started\n"
    everything = standing.as_user("alice", [standing.privbind, "echo", "started"])
    assert everything.err.startswith(
        "privbind: alice may not bind tcp:1-79,tcp:81-442,tcp:444-1023,udp:1-1023 (for good: "
    )


def test_verbose_and_dry_run(standing: StandingHost) -> None:
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    told = f"privbind: alice ({ALICE}:{ALICE}) may bind tcp:80 already: the command is started as it is\n"
    words = [standing.privbind, "-a", "tcp:80", "-v", "echo", "started"]
    found = standing.as_user("alice", words).ok()
    assert found.out == "started\n"
    assert re.sub(r"privbind: alice[^m]* may", "privbind: alice may", found.err) == re.sub(
        r"privbind: alice[^m]* may", "privbind: alice may", told
    )
    dry = standing.as_user("alice", [*words[:3], "--dry-run", "echo", "started"]).ok()
    assert (dry.out, dry.err) == ("", found.err)
    assert standing.as_user("bob", [*words[:3], "--dry-run", "echo", "started"]).status == 125


def test_root_says_who(standing: StandingHost) -> None:
    """Without -u it stays an error for root, and for everybody with an option that is about a launch."""
    line = "privbind: no user given (-u USER: who the command runs as)\n"
    found = standing.run([standing.privbind, "-a", "tcp:80", "echo", "started"])
    assert (found.status, found.out, found.err) == (125, "", line)
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    for option in ("-n1", "-r80", "--via=bpf", "--no-new-privs", "--set-home", "-G", "-gweb", "-lx"):
        found = standing.as_user("alice", [standing.privbind, "-a", "tcp:80", option, "echo", "started"])
        assert (found.status, found.out, found.err) == (125, "", line), option


def test_the_command_is_as_it_would_be_without_privbind(standing: StandingHost, folder: Path) -> None:
    """Environment to the byte, ids, signals, descriptors, working directory, umask, and its exit status."""
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    environment = {
        b"A": b"\xff\n=",
        b"PATH": b"/usr/bin:/bin",
        b"PYTHONPATH": b"/nonsense",
        b"": b"odd",
        b"LC_ALL": b"C",
    }
    code = (
        "import os, sys; ids = (os.getresuid(), os.getresgid(), os.getgroups())\n"
        "status = [l for l in open('/proc/self/status') if l[:3] in ('Sig', 'Shd', 'Cap', 'NoN', 'Sec')]\n"
        "mask = os.umask(0)\n"
        "print(ids, status, os.getcwd(), mask, sorted(os.listdir('/proc/self/fd')), sys.argv[1:])\n"
        "print(open('/proc/self/environ', 'rb').read())\n"
    )
    program = python(code, "a b", "")
    plain = standing.words_as("alice", program)
    through = standing.words_as("alice", [standing.privbind, "-a", "tcp:80", "--", *program])
    options: dict[str, Any] = {"env": environment, "cwd": folder}
    shell = 'umask 027; trap "" USR1; exec "$@" 9</dev/null'
    found = [standing.run(["sh", "-c", shell, "sh", *words], **options).ok().out for words in (plain, through)]
    assert found[0] == found[1]
    assert "\\xff\\n=" in found[0]
    for status in (0, 3, 125, 255):
        ended = standing.as_user("alice", [standing.privbind, "-a", "tcp:80", "sh", "-c", f"exit {status}"])
        assert ended.status == status
    killed = standing.as_user("alice", [standing.privbind, "-a", "tcp:80", "sh", "-c", "kill -TERM $$"])
    assert killed.status == -signal.SIGTERM


def test_it_is_the_same_process(standing: StandingHost) -> None:
    """No other is left beside it."""
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    words = standing.words_as("alice", [standing.privbind, "-a", "tcp:80", *python(BIND_WHEN_TOLD)])
    started = standing.popen(words, stdin=-1, stdout=-1)
    assert read_line(started) == "up\n"
    assert tell(started, 80) == "ok"
    assert tell(started, 81) == "13"
    assert BIND_WHEN_TOLD.encode() in Path(f"/proc/{started.pid}/cmdline").read_bytes()
    assert Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text() == ""
    started.communicate("")


def test_commands_of_all_kinds(standing: StandingHost, folder: Path, trybind: Path) -> None:
    """A script, one without #!, one that is missing, one that may not be executed, a folder."""
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    script = folder / "script"
    script.write_text(f"#!/bin/sh\nexec {trybind} tcp 4 127.0.0.1 80\n")
    script.chmod(0o755)
    bare = folder / "bare"
    bare.write_text(f"exec {trybind} tcp 4 127.0.0.1 80\n")
    bare.chmod(0o755)
    private = folder / "private"
    private.write_text("#!/bin/sh\n")
    private.chmod(0o700)

    def status(command: object) -> tuple[int, str]:
        words = [standing.privbind, "-a", "tcp:80", command]
        found = standing.as_user("alice", words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        assert found.err.count("\n") == (1 if found.status else 0), found
        return found.status, found.out

    assert status(script) == status(bare) == (0, "ok 127.0.0.1 80\n")
    assert status("nosuch-command") == (127, "")
    assert status(folder / "nosuch") == (127, "")
    assert status(private) == (126, "")
    assert status(folder) == (126, "")
