"""privbindctl watch: every bind of a reserved port below a cgroup, with the right by which it was done."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from privbind.commands.watch import MESSAGE_ID
from privbind.grant.grant import Grant
from privbind.grant.policy import Policy
from privbind.inspect.rights import Reader
from privbind.linux import bpf
from privbind.placed import grants
from privbind.placed.place import of_directory

from ..harness.budget import LONG
from ..harness.host import python, wait_for
from ..harness.install import PYTHON
from ..harness.patience import PATIENCE
from ..harness.situations import (
    BINDER,
    BOUND,
    BY_NONE,
    CAPABLE,
    EXPLAINED,
    FAILED,
    GRANTS,
    REFUSED,
    SITUATIONS,
    TCP80,
    Situation,
    started,
    take,
    tell,
    user,
)
from ..harness.standing import ALICE, StandingHost, name_of

HOOKS = (bpf.INET4_BIND, bpf.INET6_BIND, bpf.INET4_POST_BIND, bpf.INET6_POST_BIND)


class Watcher:
    """A running `privbindctl watch --json` below a host's cgroup, and what it has said."""

    def __init__(self, host: StandingHost, *options: str, prefix: list[str] | None = None) -> None:
        command = [*(prefix or []), host.ctl_path, "watch", "--json", f"--cgroup={host.cgroup}", *options]
        self.process = host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.said: list[dict[str, Any]] = []
        self.told = self.lost = 0  # binds
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for(lambda: self.said or self.process.poll() is not None, "the start")
        assert self.said, self.process.communicate()
        assert self.said[0]["type"] == "start"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            self.said.append(said)
            self.told += said["type"] == "bind"
            self.lost += said["binds"] if said["type"] == "lost" else 0

    @property
    def binds(self) -> list[dict[str, Any]]:
        return [said for said in list(self.said) if said["type"] == "bind"]

    def wait(self, condition: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        """The binds that are meant, once there are so many."""

        def enough() -> list[dict[str, Any]]:
            found = [bind for bind in self.binds if condition(bind)]
            return found if len(found) >= count else []

        return wait_for(enough, f"{count} binds, among {self.said}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Have it end; its exit status."""
        self.process.send_signal(number)
        self.process.wait(60)
        self._thread.join(60)
        return self.process.returncode


@pytest.fixture(scope="module")
def place(installed: Path) -> Iterator[StandingHost]:
    """One host for all tests here, with standing grants loaded."""
    with contextlib.closing(StandingHost(installed)) as host:
        host.load(GRANTS)
        yield host


@pytest.fixture
def watcher(place: StandingHost) -> Iterator[Watcher]:
    watcher = Watcher(place)
    yield watcher
    assert watcher.end() == 0


def attached(host: StandingHost) -> list[str]:
    """The names of watch's programs on the host's cgroup."""
    return host.inside(
        lambda: [
            name
            for hook in HOOKS
            for number in bpf.query(host.tree.fd, hook)[1]
            if (name := name_of(number)).startswith(("privbind_asked", "privbind_bound"))
        ]
    )


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_a_situation(place: StandingHost, watcher: Watcher, situation: Situation) -> None:
    """Explain says before what watch says afterwards, and what the process gets is what both say."""
    process = situation.start(place)
    if situation.before:
        assert tell(process, situation.before) == "ok"
    taker = take(place) if situation.taken else None
    found = json.loads(place.ctl("explain", situation.rule, f"--pid={process.pid}", "--json").ok().out)
    before = len(watcher.binds)
    assert tell(process, situation.bind) == situation.answer
    # Explain.
    assert found["verdict"] == EXPLAINED[situation.verdict], found
    permitting = {(grant["kind"], grant["mechanism"]) for grant in found["grants"] if grant["permits"]}
    if situation.right == "capability":
        assert found["right"] == ["the capability CAP_NET_BIND_SERVICE"]
    elif situation.right:
        assert permitting == {(situation.right, situation.mechanism)}
        assert found["right"]
    else:
        assert (permitting, found["right"]) == (set(), [])
    if situation.why_not:
        assert situation.why_not in {grant["why_not"] for grant in found["grants"]}, found
    assert bool(found["remedies"]) == (situation.answer != "ok")
    # Watch.
    (bind,) = watcher.wait(lambda bind: bind["number"] > before and bind["pid"] == process.pid)[-1:]
    if situation.before:
        (bind,) = watcher.wait(lambda bind: bind["pid"] == process.pid, 2)[1:]
    protocol, address, port = situation.bind.split()
    assert (bind["protocol"], bind["address"].strip("[]"), bind["port"]) == (protocol, address, int(port))
    assert bind["verdict"] == situation.verdict, bind
    assert bind["bound"] == (situation.answer == "ok")
    told = {(right["kind"], right["mechanism"]) for right in bind["right"]}
    assert told == ({(situation.right, situation.mechanism)} if situation.mechanism else set())
    assert bind["capability"] == (True if situation.right == "capability" else None if situation.helper else False)
    if situation.why_not and situation.verdict == REFUSED:
        assert bind["why_not"] == situation.why_not
    assert (bind["helper"] is not None) == situation.helper
    assert bind["program"] == os.path.realpath(PYTHON)
    assert bind["arguments"] is None
    # A host with nothing of this: what was asked of a helper is told once, as the command's.
    assert not [other for other in watcher.binds if other["name"] == "privbind-helper"]
    process.communicate("")
    if taker is not None:
        taker.communicate("")


MANY_BINDS = """
import os, socket, sys
processes, binds = int(sys.argv[1]), int(sys.argv[2])
print("up", flush=True); sys.stdin.readline()
children = []
for number in range(processes):
    child = os.fork()
    if child == 0:
        for turn in range(binds):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind((f"127.0.1.{number + 1}", turn % 500 + 1))
            s.close()
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * processes
print("done", flush=True)
"""
"""So many processes bind so often: each its own address, and port after port, from 1 to 500."""


def bind_many(host: StandingHost, processes: int, binds: int) -> None:
    process = started(host, python(MANY_BINDS, str(processes), str(binds)))
    out, _ = process.communicate("\n", timeout=600)
    assert out == "done\n"


def all_told(watcher: Watcher, processes: int, binds: int) -> None:
    """Each bind was reported once, or is counted as lost."""
    wait_for(lambda: watcher.told + watcher.lost >= processes * binds, "the last")
    assert watcher.told + watcher.lost == processes * binds
    found = watcher.binds
    numbers = [bind["number"] for bind in found]
    assert len(set(numbers)) == len(numbers)
    times = Counter((bind["address"], bind["port"]) for bind in found)
    assert max(times.values()) <= -(-binds // 500)
    assert {address for address, _ in times} <= {f"127.0.1.{number + 1}" for number in range(processes)}
    # They are root's, and done; where the ring was full right then, what became of one may not be known.
    assert {bind["verdict"] for bind in found} <= {BY_NONE, "not-bound"}
    assert any(bind["verdict"] == BY_NONE for bind in found)


def test_100000_binds_by_8_processes(place: StandingHost, watcher: Watcher) -> None:
    """A tenth of that on a machine that is emulated."""
    binds = 12_500 if PATIENCE == 1 else 1_250
    bind_many(place, 8, binds)
    all_told(watcher, 8, binds)
    assert watcher.binds


def test_a_reader_that_is_stopped(place: StandingHost, watcher: Watcher) -> None:
    """Binds go on, and what did not fit is counted as lost when it goes on."""
    os.kill(watcher.process.pid, signal.SIGSTOP)
    try:
        bind_many(place, 4, 5_000)
    finally:
        os.kill(watcher.process.pid, signal.SIGCONT)
    all_told(watcher, 4, 5_000)
    assert watcher.lost > 0


def test_nobody_reads_the_output(place: StandingHost) -> None:
    """A full pipe stops the watcher and nothing else; SIGTERM ends it all the same."""
    command = [place.ctl_path, "watch", "--json", f"--cgroup={place.cgroup}"]
    process = place.popen(command, stdout=subprocess.PIPE)
    wait_for(lambda: len(attached(place)) == 4, "the start")
    bind_many(place, 4, 2_500)
    process.terminate()
    assert process.wait(60) == 0
    assert attached(place) == []


def test_1000_binds_a_second_for_a_minute(place: StandingHost, watcher: Watcher) -> None:
    """None is lost; in the short form it is two seconds, or less on a machine that is emulated."""
    binds = 60_000 if LONG else 2_000 if PATIENCE == 1 else 200
    code = (
        f"import socket, time\nend = time.monotonic()\nfor number in range({binds}):\n"
        "  s = socket.socket(); s.bind(('127.0.0.1', number % 1000 + 1)); s.close(); end += 0.001\n"
        "  time.sleep(max(0, end - time.monotonic()))\n"
    )
    process = started(place, python(f"print('up', flush=True)\n{code}"))
    assert process.wait(600) == 0
    wait_for(lambda: watcher.told + watcher.lost >= binds, "the last")
    assert (watcher.told, watcher.lost) == (binds, 0)


def test_sigkill_leaves_nothing(place: StandingHost) -> None:
    """The kernel takes the programs off with the process; a bind is as before."""
    watcher = Watcher(place)
    assert len(attached(place)) == 4
    assert watcher.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: attached(place) == [], "the end of the links")
    assert tell(user("alice")(place), TCP80) == "ok"


def test_two_at_once(place: StandingHost, watcher: Watcher) -> None:
    """Both see all, with the same verdicts; one that ends takes nothing from the other."""
    other = Watcher(place)
    process = user("alice")(place)
    for bind in (TCP80, "tcp 127.0.0.1 81"):
        tell(process, bind)
    same = [
        [(bind["port"], bind["verdict"], bind["pid"]) for bind in one.wait(lambda bind: bind["pid"] == process.pid, 2)]
        for one in (watcher, other)
    ]
    assert same[0] == same[1] == [(80, BOUND, process.pid), (81, REFUSED, process.pid)]
    assert other.end() == 0
    assert len(attached(place)) == 4
    tell(process, TCP80)
    watcher.wait(lambda bind: bind["pid"] == process.pid, 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_ends_cleanly(place: StandingHost, number: int) -> None:
    watcher = Watcher(place)
    assert watcher.end(number) == 0
    assert attached(place) == []


def test_a_closed_pipe(place: StandingHost) -> None:
    """It ends when nobody can read any more, without waiting for a bind."""
    process = place.popen(
        [place.ctl_path, "watch", f"--cgroup={place.cgroup}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert "watching" in process.stderr.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == "privbindctl: 0 binds seen, 0 lost\n"
    assert attached(place) == []


def test_output_that_takes_nothing_more(place: StandingHost) -> None:
    """One line says so, and nothing stays attached."""
    found = place.run(
        ["sh", "-c", 'exec "$@" > /dev/full', "sh", place.ctl_path, "watch", "--json", f"--cgroup={place.cgroup}"]
    )
    assert found.status == 125
    assert found.err == "privbindctl: cannot write to standard output: No space left on device\n"
    assert attached(place) == []


CAPABILITIES = ("sys_admin", "net_admin", "sys_ptrace", "dac_read_search")


def only(*names: str) -> list[str]:
    """Before a command line: root with no other capabilities than these."""
    more = "".join(f",+{name}" for name in names)
    return ["setpriv", "--no-new-privs", f"--bounding-set=-all{more}", "--inh-caps=-all"]


def test_the_listed_capabilities_are_enough(place: StandingHost) -> None:
    """Each verdict, and all that is told of a process, a launch and a helper. The service's unit has the same."""
    unit = (Path(__file__).parents[2] / "packaging/systemd/privbind-audit.service").read_text()
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert line.split() == [f"CAP_{name.upper()}" for name in CAPABILITIES]
    watcher = Watcher(place, prefix=only(*CAPABILITIES))
    chosen = ("a standing grant of the user", "a launch by bpf", "a launch by seccomp", "an own capability")
    for situation in (one for one in SITUATIONS if one.name in chosen):
        process = situation.start(place)
        assert tell(process, situation.bind) == situation.answer
        (bind,) = watcher.wait(lambda bind, pid=process.pid: bind["pid"] == pid)  # type: ignore[misc]
        assert (bind["verdict"], bind["program"]) == (situation.verdict, os.path.realpath(PYTHON))
        assert bind["cgroup"]
        process.communicate("")
    assert watcher.end() == 0


@pytest.mark.parametrize("missing", CAPABILITIES[:2])
def test_a_capability_is_missing(place: StandingHost, missing: str) -> None:
    """It is named, and what an ordinary user can ask instead."""
    prefix = only(*(name for name in CAPABILITIES if name != missing))
    found = place.run([*prefix, place.ctl_path, "watch", f"--cgroup={place.cgroup}"])
    assert (found.status, found.out) == (125, "")
    assert found.err == (
        f"privbindctl: cannot watch: CAP_{missing.upper()} is missing (run as root; about your own binds ask: "
        "privbindctl explain tcp:80)\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--port=nothing-like-it",),
            "ports 'nothing-like-it': 'nothing-like-it' is neither a port from 1 to 65535 nor",
        ),
        (("--port=",), "ports '': nothing between the commas"),
        (("--user=nobody-at-all",), "--user: unknown user 'nobody-at-all'"),
        (("--json", "--journal"), "watch: --json and --journal are two ways to say it (choose one)"),
        (("--refused=yes",), "option --refused takes no value"),
        (("tcp:80",), "watch: takes no argument, but got 'tcp:80'"),
        (("--cgroup=/nonexistent",), "cannot open '/nonexistent': No such file or directory"),
        (("--cgroup=/tmp",), "'/tmp' is no cgroup"),
        (("--journal",), "--journal: cannot reach systemd's journal at '/run/systemd/journal/socket': No such file"),
    ],
)
def test_bad_input(place: StandingHost, words: tuple[str, ...], message: str) -> None:
    """One line, before anything is attached."""
    more = [] if "--cgroup" in words[0] else [f"--cgroup={place.cgroup}"]
    found = place.run([place.ctl_path, "watch", *more, *words])
    assert (found.status, found.out, found.err.count("\n")) == (125, "", 1)
    assert found.err.startswith(f"privbindctl: {message}")
    assert attached(place) == []


def test_filters(place: StandingHost) -> None:
    """By port, by user, and what was refused only; ports and users by name, too."""
    watchers = {
        "port": Watcher(place, "--port=http,100-110"),
        "user": Watcher(place, "--user=alice"),
        "refused": Watcher(place, "--refused"),
    }
    alice, bob = user("alice")(place), user("bob")(place)
    for process in (alice, bob):
        for bind in (TCP80, "tcp 127.0.0.1 105", "udp 127.0.0.1 54"):
            tell(process, bind)
    wanted = {
        "port": [(alice.pid, 80), (alice.pid, 105), (bob.pid, 80), (bob.pid, 105)],
        "user": [(alice.pid, 80), (alice.pid, 105), (alice.pid, 54)],
        "refused": [(alice.pid, 105), (alice.pid, 54), (bob.pid, 80), (bob.pid, 105), (bob.pid, 54)],
    }
    for name, watcher in watchers.items():
        found = watcher.wait(lambda _: True, len(wanted[name]))
        assert sorted((bind["pid"], bind["port"]) for bind in found) == sorted(wanted[name]), name
        watcher.end()


def test_arguments_only_when_asked_for(place: StandingHost, watcher: Watcher) -> None:
    with_them = Watcher(place, "--arguments")
    process = user("alice")(place)
    tell(process, TCP80)
    (bind,) = watcher.wait(lambda bind: bind["pid"] == process.pid)
    assert bind["arguments"] is None
    (bind,) = with_them.wait(lambda bind: bind["pid"] == process.pid)
    assert bind["arguments"][1:3] == ["-I", "-c"]
    with_them.end()


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_the_table_in_a_terminal(place: StandingHost, columns: int) -> None:
    """It fits, and only there it has colours; what matters most is there in 40 columns, too."""
    command = f"stty cols {columns}; exec '{place.ctl_path}' watch --port=80,81 --cgroup={place.cgroup}"
    shown = place.popen(["script", "-qec", command, "/dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(lambda: len(attached(place)) == 4, "the start")
    process = user("alice")(place)
    for bind in (TCP80, "tcp 127.0.0.1 81"):
        tell(process, bind)
    assert shown.stdout is not None
    rows = [shown.stdout.readline().rstrip("\r\n") for _ in range(4)]
    plain = [re.sub(r"\x1b\[\d+m", "", row) for row in rows]
    assert all(len(row) <= columns for row in plain[1:]), plain
    assert "VERDICT" in plain[1]
    assert ("PID" in plain[1]) == (columns > 40)
    assert "\x1b[32mbound" in rows[2]
    assert "\x1b[31mrefused" in rows[3]
    assert "tcp:127.0.0.1:80" in plain[2]
    assert ("/etc/privbind/grants.d/test.toml:2" in plain[2]) == (columns == 300)
    assert shown.stdin is not None
    shown.stdin.write("\x03")
    shown.stdin.flush()
    assert shown.wait(60) == 0


HOSTILE = "\x1b[2J\n\x07evil verdict=bound \udc80"
NAME_ITSELF = """
import socket, sys
with open("/proc/self/comm", "wb") as file:
    file.write(sys.argv[1].encode("utf-8", "surrogateescape")[:15])
s = socket.socket()
try: s.bind(("127.0.0.1", 81))
except OSError: print("refused", flush=True)
sys.stdin.read()
"""


def test_hostile_names(place: StandingHost, watcher: Watcher) -> None:
    """Of a process, its program and its cgroup: each bind is one line, and nothing of them reaches the terminal."""
    folder = os.fsencode(place.tree.make("\x1b[31m\x07 unit.service"))
    lines = place.popen(
        [place.ctl_path, "watch", "--port=81", f"--cgroup={place.cgroup}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert lines.stderr is not None
    lines.stderr.readline()
    shown = place.popen(
        [
            "script",
            "-qec",
            f"stty cols 300; exec '{place.ctl_path}' watch --port=81 --cgroup={place.cgroup}",
            "/dev/null",
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    wait_for(lambda: len(attached(place)) == 12, "the start of all three")
    enter = ["sh", "-ec", 'echo 0 > "$0/cgroup.procs"; exec "$@"', os.fsencode(place.cgroup) + b"/" + folder]
    argv = [os.fsdecode(word) if isinstance(word, bytes) else word for word in enter]
    process = place.popen(
        [*argv, *place.words_as("bob", python(NAME_ITSELF, HOSTILE))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "refused\n"
    (bind,) = watcher.wait(lambda bind: bind["pid"] == process.pid)
    assert bind["name"].startswith("\x1b[2J\n\x07evil")
    assert bind["unit"] == "\x1b[31m\x07 unit.service"
    assert bind["verdict"] == REFUSED
    assert lines.stdout is not None
    line = lines.stdout.readline()
    assert line.rstrip("\n").isprintable()
    assert f"pid={process.pid} " in line
    assert "unit='\\x1b[31m\\x07 unit.service'" in line
    lines.terminate()
    assert lines.stdout.read() == ""
    assert shown.stdout is not None
    rows = [shown.stdout.readline() for _ in range(3)]
    plain = [re.sub(r"\x1b\[\d+m", "", row.rstrip("\r\n")) for row in rows]
    assert all(row.isprintable() for row in plain), rows
    assert any(str(process.pid) in row and "\x1b[31mrefused" in rows[place_] for place_, row in enumerate(plain)), rows
    assert shown.stdin is not None
    shown.stdin.write("\x03")
    shown.stdin.flush()
    shown.wait(60)
    process.communicate("")


def test_a_process_that_calls_itself_a_helper(place: StandingHost, watcher: Watcher) -> None:
    """It is told of as what it is, and hides nobody's bind."""
    alice = user("alice")(place)
    assert tell(alice, "tcp 127.0.0.1 81") == "13"
    process = place.popen(
        place.words_as("bob", python(NAME_ITSELF, "privbind-helper")), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "refused\n"
    for pid, name in ((alice.pid, "alice"), (process.pid, "bob")):
        (bind,) = watcher.wait(lambda bind, pid=pid: bind["pid"] == pid)  # type: ignore[misc]
        assert (bind["user"], bind["verdict"], bind["helper"]) == (name, REFUSED, None)
    process.communicate("")


# A process that looks like a helper but for its uid, and binds. Its arguments: for which process it says it did that;
# "apart" for user and network namespaces of its own, with a uid of helpers there.
PRETENDER = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
said = "mechanism preload|grant any reserved port|holder command|user root|uid 0|gid 0|since 1000000000000"
file = os.memfd_create("privbind_grant")
os.write(file, bytes(24) + f"privbind grant 1|{said}|pid {sys.argv[1]}|".replace("|", chr(10)).encode())
if sys.argv[2] == "apart":
    uid = os.getuid()
    assert libc.unshare(0x50000000) == 0  # CLONE_NEWUSER | CLONE_NEWNET
    with open("/proc/self/uid_map", "w") as map: map.write(f"65533 {uid} 1")
class Program(ctypes.Structure):
    _fields_ = [("size", ctypes.c_ushort), ("code", ctypes.c_void_p)]
code = ctypes.create_string_buffer(b"\\x06\\0\\0\\0\\0\\0\\xff\\x7f")  # return SECCOMP_RET_ALLOW
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.addressof(code))), 0, 0) == 0
libc.prctl(15, b"privbind-helper", 0, 0, 0)
s = socket.socket()
try: s.bind(("0.0.0.0", 85)); print("ok", flush=True)
except OSError as error: print(error.errno, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("where", ["here", "apart"])
def test_a_helper_that_is_none_blames_nobody(place: StandingHost, watcher: Watcher, where: str) -> None:
    """Neither with the capability, nor as root of a user namespace of its own; explain believes it as little."""
    alice = user("alice")(place)
    options = CAPABLE if where == "here" else ()
    argv = place.words_as("bob", python(PRETENDER, str(alice.pid), where), *options)
    process = place.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ok\n"
    (bind,) = watcher.wait(lambda bind: bind["port"] == 85)
    assert (bind["pid"], bind["user"]) == (process.pid, "bob")
    if where == "here":
        assert (bind["verdict"], bind["right"], bind["helper"], bind["capability"]) == (BY_NONE, [], None, True)
    found = json.loads(place.ctl("explain", "tcp:85", f"--pid={alice.pid}", "--json").ok().out)
    assert (found["verdict"], found["right"]) == (EXPLAINED[REFUSED], [])
    process.communicate("")


def test_a_launch_whose_helper_ends_with_its_last_bind(place: StandingHost, watcher: Watcher) -> None:
    """It is gone when it is looked at; the bind is still the command's, and told once."""
    process = started(place, place.command(python(BINDER), "--via=preload", "-n1", "--allow=tcp:80", user="bob"))
    assert tell(process, TCP80) == "ok"
    (bind,) = watcher.wait(lambda bind: bind["pid"] == process.pid)
    assert (bind["verdict"], bind["user"]) == (BOUND, "bob")
    assert bind["helper"] is not None
    assert tell(process, TCP80) == "13"
    assert [one["verdict"] for one in watcher.wait(lambda bind: bind["pid"] == process.pid, 2)] == [BOUND, REFUSED]


JOURNALD = "/lib/systemd/systemd-journald"


@pytest.fixture(scope="module")
def journald(place: StandingHost) -> Iterator[None]:
    """One for all tests here: a second one would find the socket of the first, and a journal that it may not open."""
    daemon = place.popen([JOURNALD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: place.run(["test", "-S", "/run/systemd/journal/socket"]).status == 0, "journald's socket")
    yield
    daemon.terminate()
    daemon.wait(60)


@pytest.mark.usefixtures("journald")
def test_the_journal(place: StandingHost) -> None:
    """A real journald receives it, and finds it by the fields that docs/audit.md names."""
    watch = place.popen([place.ctl_path, "watch", "--journal", f"--cgroup={place.cgroup}"], stderr=subprocess.PIPE)

    def query(*matches: str) -> list[dict[str, Any]]:
        ask = ["journalctl", "--quiet", "--output=json", "--directory=/run/log/journal", f"MESSAGE_ID={MESSAGE_ID}"]
        return [json.loads(line) for line in place.run([*ask, *matches]).lines]

    (entry,) = wait_for(lambda: query("PRIVBIND_VERDICT=start"), "the first entry")
    assert entry["SYSLOG_IDENTIFIER"] == "privbind-audit"
    alice, bob = user("alice")(place), user("bob")(place)
    tell(alice, TCP80)
    tell(bob, TCP80)
    (entry,) = wait_for(lambda: query("PRIVBIND_VERDICT=refused"), "the refusal")
    assert (entry["PRIVBIND_PID"], entry["PRIVBIND_USER"], entry["PRIORITY"]) == (str(bob.pid), "bob", "4")
    (entry,) = query("PRIVBIND_VERDICT=bound", "PRIVBIND_PORT=80", "PRIVBIND_USER=alice")
    assert entry["PRIVBIND_RIGHT_SOURCE"] == "/etc/privbind/grants.d/test.toml:2"
    assert entry["MESSAGE"].startswith(
        f"tcp:127.0.0.1:80 bound: {os.path.realpath(PYTHON)}, process {alice.pid} of alice"
    )
    assert query("PRIVBIND_PORT=443") == []
    assert not any("ARGUMENT" in name or "CMDLINE" in name for name in entry if name != "_CMDLINE")
    watch.terminate()
    assert watch.wait(60) == 0


HIDE = """
import ctypes, errno, os, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
nowhere = bytes(16)  # AF_UNSPEC: takes the port off that connecting has put on
somewhere = struct.pack("=HH4s8x", 2, 0x0900, bytes([127, 0, 0, 1]))
for port in range(100, 400):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.1", 9))
    child = os.fork()
    if child == 0:
        while True:
            libc.connect(s.fileno(), somewhere, 16)
            libc.connect(s.fileno(), nowhere, 16)
    wanted = struct.pack("=H", 2) + port.to_bytes(2, "big") + bytes(12)
    while libc.bind(s.fileno(), wanted, 16):
        assert ctypes.get_errno() == errno.EINVAL
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    s.close()
print("done")
"""


def test_who_hides_a_bind_shows(place: StandingHost, watcher: Watcher) -> None:
    """A socket that has a port when it asks, and none any more when it is bound: counted as lost, at least."""
    assert place.run(python(HIDE)).ok().out == "done\n"

    def known() -> int:
        return len([bind for bind in watcher.binds if bind["bound"]]) + watcher.lost

    wait_for(lambda: known() >= 300, "the last")
    assert known() == 300


BIND_IN_CGROUPS = """
import os, socket, sys
def refused(name):
    with open(f"{name}/cgroup.procs", "w") as procs: procs.write("0")
    s = socket.socket()
    try: s.bind(("127.0.0.1", 81))
    except PermissionError: return
    sys.exit("bound")
top, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    os.mkdir(f"{top}/{number}")
    refused(f"{top}/{number}")
refused(top)
print("up", flush=True)
sys.stdin.read()
for number in range(count): os.rmdir(f"{top}/{number}")
"""


def test_a_user_with_many_cgroups(place: StandingHost) -> None:
    """Who has cgroups delegated may make as many as he likes: watch runs out of no descriptors, and goes on seeing."""
    os.chown(place.tree.make("delegated"), ALICE, ALICE, dir_fd=place.tree.fd)
    for file in ("delegated/cgroup.procs", "cgroup.procs"):
        os.chown(file, ALICE, ALICE, dir_fd=place.tree.fd)
    watcher = Watcher(place, prefix=["prlimit", "--nofile=350:350"])
    many = started(place, place.words_as("alice", python(BIND_IN_CGROUPS, f"{place.cgroup}/delegated", "400")))
    watcher.wait(lambda bind: bind["port"] == 81, 401)
    process = user("bob", *CAPABLE)(place)
    assert tell(process, "tcp 127.0.0.1 82") == "ok"
    (bind,) = watcher.wait(lambda bind: bind["port"] == 82)
    assert (bind["verdict"], bind["right"], bind["program"]) == (BY_NONE, [], os.path.realpath(PYTHON))
    process.communicate("")
    many.communicate("", 60)
    os.rmdir("delegated", dir_fd=place.tree.fd)
    assert watcher.end() == 0


def test_a_reader_of_many_grants(place: StandingHost) -> None:
    """Every launch has programs of its own; those of ended ones are not held open for ever."""

    def read() -> int:
        reader = Reader()
        with of_directory(place.cgroup) as where:
            for _ in range(300):
                grants.grant(where, Grant(Policy.parse(["tcp:80"])))
                assert "placed" in [right.kind for right in reader.of_cgroup(where.cgroup.fd, "").rights]
            grants.revoke(where)
            return len(os.listdir("/proc/self/fd"))

    assert place.inside(read) < 300


LONG_ONES = {"few": ["x" * 100_000] * 5, "many": ["x", ""] * 2000}


@pytest.mark.usefixtures("journald")
def test_command_lines_that_fit_no_entry(place: StandingHost) -> None:
    """Their beginnings are recorded, and so is what comes after them."""
    command = [place.ctl_path, "watch", "--journal", "--arguments", f"--cgroup={place.cgroup}"]
    watch = place.popen(command, stderr=subprocess.PIPE)
    wait_for(lambda: len(attached(place)) == 4, "the start")

    def entry(pid: int) -> Any:
        ask = ["journalctl", "--quiet", "--all", "--output=json", "--directory=/run/log/journal"]
        return [json.loads(line) for line in place.run([*ask, f"PRIVBIND_PID={pid}"]).lines]

    for words in LONG_ONES.values():
        process = started(place, place.words_as("bob", python(BINDER, *words)))
        tell(process, TCP80)
        (found,) = wait_for(lambda pid=process.pid: entry(pid), "its entry")  # type: ignore[misc]
        arguments = found["PRIVBIND_ARGUMENT"]
        assert len(arguments) <= 256
        assert sum(map(len, arguments)) <= 4096
        process.communicate("")
    watch.terminate()
    assert watch.wait(60) == 0


def test_a_process_that_is_gone_and_a_cgroup_that_is_gone(place: StandingHost, watcher: Watcher) -> None:
    """What is left is told: the name, and that no grant could be seen; so nobody passes for granted by leaving."""
    name = place.tree.make("short")
    enter = ["sh", "-ec", 'echo 0 > "$0/cgroup.procs"; exec "$@"', f"{place.cgroup}/{name}"]
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 83))"
    os.kill(watcher.process.pid, signal.SIGSTOP)
    place.run([*enter, *python(code)]).ok()
    os.rmdir(name, dir_fd=place.tree.fd)
    os.kill(watcher.process.pid, signal.SIGCONT)
    (bind,) = watcher.wait(lambda bind: bind["port"] == 83)
    assert (bind["verdict"], bind["right"], bind["program"], bind["cgroup"]) == ("bound-by-unknown", None, None, None)
    assert bind["name"].startswith("python")


def test_a_port_that_is_in_use_is_failed_for_root_too(place: StandingHost, watcher: Watcher) -> None:
    """A right, though none of ours: the capability."""
    taker = take(place)
    root = started(place, python(BINDER))
    assert tell(root, TCP80) == "98"
    (bind,) = watcher.wait(lambda bind: bind["pid"] == root.pid)
    assert (bind["verdict"], bind["capability"], bind["inferred"]) == (FAILED, True, True)
    taker.communicate("")
