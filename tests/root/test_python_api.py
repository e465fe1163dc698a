"""privbind.become, command and may_bind in real processes: what they give, and what they refuse untouched."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privbind.errors import UsageError
from privbind.linux import cgroup, target
from privbind.request import resolve

from ..harness.budget import rounds
from ..harness.cases import CASES, OCCUPIED, OCCUPY, Bind, Case
from ..harness.host import NOBODY, TIMEOUT_S, Host, Result, python, read_line, status_of, wait_for
from ..harness.launches import launches_in, leftover
from ..harness.pythons import packages_of, pythons, reachable

MECHANISMS = ("bpf", "seccomp", "ambient")
"""What a process that runs already can have."""

PRELUDE = """
import errno, json, os, socket, sys, threading
sys.path.append(sys.argv.pop(1))
import privbind

def bind(port, address="127.0.0.1", kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((address, port))
            return "ok"
        except OSError as error:
            return errno.errorcode[error.errno]

def state():
    # All that become() may change, but for what only the kernel's own tables tell.
    lines = open("/proc/self/status").read().splitlines()
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
             "SigBlk")
    found = {name: value.split() for name, _, value in (line.partition(":") for line in lines) if name in names}
    found["cgroup"] = open("/proc/self/cgroup").read()
    found["descriptors"] = sorted(os.listdir("/proc/self/fd"))
    found["children"] = [open(f"/proc/self/task/{tid}/children").read() for tid in os.listdir("/proc/self/task")]
    found["environment"] = dict(os.environ)
    return found

def refused(**options):
    before = state()
    try:
        became = privbind.become(options.pop("user", "nobody"), **options)
    except Exception as error:
        told = " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    else:
        told = f"done: {became}"
    after = state()
    if before != after:
        told += f" CHANGED {[(name, before[name], after[name]) for name in before if before[name] != after[name]]}"
    print(told, flush=True)
"""
"""What the programs of these tests begin with; their first argument is where the package is."""

BIND_ALL = """
via, rules, *words = sys.argv[1:]
became = privbind.become("nobody", allow=rules or None, via=via)
assert became.mechanism == via
kinds = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "mptcp": (socket.SOCK_STREAM, 262),
         "udplite": (socket.SOCK_DGRAM, 136)}
for protocol, family, address, port in zip(*[iter(words)] * 4):
    try:
        s = socket.socket(socket.AF_INET if family == "4" else socket.AF_INET6, *kinds[protocol])
        if family == "6only":
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, int(port)))
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
    s.close()
"""


class Api(Host):
    """A network namespace in which programs use the installed package."""

    def argv(self, code: str, *words: object, interpreter: str = "/usr/bin/python3") -> list[str]:
        """The command line that runs a program."""
        packages = packages_of(Path(self.privbind))
        return [interpreter, "-I", "-c", PRELUDE + code, str(packages), *map(str, words)]

    def api(self, code: str, *words: object, **options: Any) -> Result:
        """Run a program as root."""
        return self.run(self.argv(code, *words), **options)

    def begin(self, code: str, *words: object, **options: Any) -> subprocess.Popen[Any]:
        """Start a program as root that is told what to do line by line."""
        return self.popen(self.argv(code, *words), stdin=-1, stdout=-1, **options)


@pytest.fixture
def host(installed: Path) -> Iterator[Api]:
    made = Api(installed)
    try:
        yield made
    finally:
        made.close()


# What it gives --------------------------------------------------------------------------------------------------------


class Table:
    """Binds of one policy and mechanism at once, and what they gave."""

    def __init__(self, host: Api, programs: Path) -> None:
        """A host where one port is taken."""
        self.host = host
        self.program = programs / "trybind"
        self._known: dict[tuple[str, str], dict[Bind, str]] = {}
        self._holder = host.popen(python(OCCUPY, str(OCCUPIED)), stdin=-1, stdout=-1)
        assert read_line(self._holder) == "held\n"

    def result(self, who: str, rules: str, bind: Bind) -> str:
        """What a bind gives: "ok" or the errno's name."""
        if (who, rules) not in self._known:
            binds = [case.bind for case in CASES if case.rules == rules]
            words = [word for bind in binds for word in bind.words()]
            if who in MECHANISMS:
                found = self.host.api(BIND_ALL, who, rules, *words)
            else:
                found = (self.host.run if who == "root" else self.host.plain)([self.program, *words])
            assert len(found.lines) == len(binds), found
            self._known[who, rules] = {bind: line.split()[0] for bind, line in zip(binds, found.lines, strict=True)}
        return self._known[who, rules][bind]


@pytest.fixture(scope="module")
def table(installed: Path, programs: Path) -> Iterator[Table]:
    """One host for the whole table; nothing stays bound between rows."""
    host = Api(installed)
    try:
        yield Table(host, programs)
    finally:
        host.close()


ROWS = [(mechanism, case) for mechanism in MECHANISMS for case in CASES if mechanism != "ambient" or not case.rules]


@pytest.mark.parametrize(("mechanism", "case"), ROWS, ids=str)
def test_bind(table: Table, mechanism: str, case: Case) -> None:
    """A granted bind of the process itself gives what root gets, any other what nobody gets."""
    native = table.result("nobody", case.rules, case.bind)
    root = table.result("root", case.rules, case.bind)
    if 0 < case.bind.port < 1024 and root == "ok":
        assert native == "EACCES", "the control: without privbind the port must be out of reach"
    assert table.result(mechanism, case.rules, case.bind) == (root if case.granted else native)


THREADS = """
import ctypes
via, rules, early = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
calls = {"x86_64": (105, 106, 117, 116), "aarch64": (146, 144, 147, 159)}[os.uname().machine]
ask, one, told = threading.Barrier(4), threading.Lock(), []

def attack():
    # By raw system calls, which are the thread's own affair: setuid, setgid, setresuid, setgroups.
    setuid, setgid, setresuid, setgroups = calls
    made = [(setuid, 0), (setgid, 0), (setresuid, 0, 0, 0), (setgroups, 0, None)]
    with one:  # at a time has the port
        return [libc.syscall(*call) for call in made] + [bind(80), bind(81)]

def work():
    ask.wait()
    told.append(attack())

threads = [threading.Thread(target=work) for _ in range(3)]
if early == "before":
    for thread in threads: thread.start()
privbind.become("nobody", allow=rules or None, via=via)
if early == "after":
    for thread in threads: thread.start()
print("ready", flush=True)
sys.stdin.readline()
ask.wait()
for thread in threads: thread.join()
print(json.dumps([*told, attack()]))
"""


@pytest.mark.parametrize(
    ("mechanism", "when"), [("bpf", "before"), ("bpf", "after"), ("seccomp", "after"), ("ambient", "after")]
)
def test_every_thread(host: Api, mechanism: str, when: str) -> None:
    """Seen from outside: ids, groups and capabilities of each; none gets anything back, and each may bind the port."""
    process = host.begin(THREADS, mechanism, "" if mechanism == "ambient" else "tcp:80", when)
    assert read_line(process) == "ready\n"
    tasks = os.listdir(f"/proc/{process.pid}/task")
    assert len(tasks) == 4
    for tid in tasks:
        text = Path(f"/proc/{process.pid}/task/{tid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
        assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
        assert status["Groups"].split() == [str(NOBODY.pw_gid)]
        kept = 1 << 10 if mechanism == "ambient" else 0
        assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [kept] * 4
        assert status["NoNewPrivs"] == "0"
        assert status["Seccomp"] == ("2" if mechanism == "seccomp" else "0")
    out, _ = process.communicate("go\n", timeout=TIMEOUT_S)
    other = "ok" if mechanism == "ambient" else "EACCES"
    assert json.loads(out) == [[-1, -1, -1, -1, "ok", other]] * 4
    assert process.returncode == 0


OPTIONS = """
became = privbind.become("daemon", group="nogroup", groups=False, allow=["tcp:80", "udp:1-2"], limit=2,
                         reuse_port=[8080], set_home=True, no_new_privs=True, via=sys.argv[1])
again = [socket.socket() for _ in range(2)]
for s in again:
    s.bind(("127.0.0.1", 8080)); s.listen()
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "status": [became.user, became.uid, became.gid, became.groups, str(became.grant), became.mechanism, became.exact],
    "ids": [os.getresuid(), os.getresgid(), os.getgroups(), status["NoNewPrivs"]],
    "home": [os.environ[name] for name in ("HOME", "USER", "LOGNAME", "SHELL")],
    "binds": [bind(80), bind(81), bind(1, kind=socket.SOCK_DGRAM), bind(80)],
}))
"""


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp"])
def test_options(host: Api, mechanism: str) -> None:
    """Each does what the command line's does."""
    found = json.loads(host.api(OPTIONS, mechanism).ok().out)
    gid = 65534
    assert found["ids"] == [[1, 1, 1], [gid, gid, gid], [], "1"]
    assert found["status"] == [
        *("daemon", 1, gid, [], "tcp:80,udp:1-2; at most 2 binds; SO_REUSEPORT on 8080", mechanism, True),
    ]
    assert found["home"] == ["/usr/sbin", "daemon", "daemon", "/usr/sbin/nologin"]
    assert found["binds"] == ["ok", "EACCES", "ok", "EACCES"]


CHILDREN = """
import multiprocessing, subprocess
became = privbind.become("nobody", allow=None if sys.argv[1] == "ambient" else "tcp:80", via=sys.argv[1])
def child(queue):
    queue.put([bind(80), bind(81), os.getuid()])
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
    code = "import errno, socket\\nfor port in (80, 81):"
    code += "\\n try: socket.socket().bind(('127.0.0.1', port)); print('ok')"
    code += "\\n except OSError as error: print(errno.errorcode[error.errno])"
    print(subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True).stdout.split())
"""


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_children(host: Api, mechanism: str) -> None:
    """Forked and executed ones have it, and no more."""
    other = "ok" if mechanism == "ambient" else "EACCES"
    assert host.api(CHILDREN, mechanism).ok().lines == [
        str(["ok", other, NOBODY.pw_uid]),
        str(["ok", other]),
    ]


def test_auto_says_what_it_took_and_why(host: Api) -> None:
    """bpf where it fits; ambient where it is all that fits, which is not exact and warns; none where none is needed."""
    show = (
        "became = privbind.become('nobody', allow=(sys.argv[1:] or [None])[0])\n"
        "print(became.mechanism, became.exact, [str(r) for r in became.passed_over], became.warnings)"
    )
    assert host.api(show, "tcp:80").ok().out == "bpf True [] ()\n"
    few = ["setpriv", "--bounding-set=-all,+setuid,+setgid,+net_bind_service", "--inh-caps=-all"]
    found = host.run(["sh", "-c", f'exec {" ".join(few)} "$@"', "sh", *host.argv(show)]).ok().out
    assert found.startswith("ambient False ['bpf: "), found
    assert "its shim is loaded when a program starts" in found
    assert "the command holds CAP_NET_BIND_SERVICE itself" in found
    refused = host.run(["sh", "-c", f'exec {" ".join(few)} "$@"', "sh", *host.argv("refused(allow='tcp:80')")]).ok().out
    assert refused.startswith("NoMechanismError: no mechanism fits this request on this host ")
    assert "  bpf: " in refused
    assert "ambient: the capability opens every reserved port" in refused
    host.run(["sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=0"]).ok()
    assert host.api(show, "tcp:80").ok().out.startswith("none True [] ('no port is reserved here")


def test_may_bind_asks_without_touching_the_port(host: Api) -> None:
    """The same as doing it, for each mechanism; a port in use, and a network's ends."""
    code = (
        "import socket\n"
        "held = socket.socket(); held.bind(('127.0.0.1', 443)); held.listen()\n"
        "print(privbind.may_bind('tcp:80'))\n"
        "privbind.become('nobody', allow=['tcp:80', 'tcp:443', 'udp:127.0.0.0/8:53'], limit=1, via=sys.argv[1])\n"
        "rules = ['tcp:80', 'tcp:443', 'tcp:81', 'udp:80', '80', 'tcp:80-81', 'udp:127.0.0.0/8:53', 'udp:53',\n"
        "         'tcp:8080', 'tcp:any', ['tcp:80', 'tcp:443'], privbind.Policy.parse(['tcp:80']),\n"
        "         privbind.Rule('tcp', None, 0, privbind.Ports(80, 80))]\n"
        "before = os.listdir('/proc/self/fd')\n"
        "print(*(int(privbind.may_bind(rule)) for rule in rules))\n"
        "assert os.listdir('/proc/self/fd') == before\n"
        "print(bind(80), privbind.may_bind('tcp:80'), bind(443))\n"
    )
    for mechanism in ("bpf", "seccomp"):
        found = host.api(code, mechanism).ok()
        assert found.lines == ["True", "1 1 0 0 0 0 1 0 1 0 1 1 1", "ok False EACCES"], mechanism
    question = "print(privbind.may_bind('tcp:80'), privbind.may_bind('tcp:8080'))"
    assert host.plain(host.argv(question)).ok().out == "False True\n"


def test_may_bind_under_a_launch(host: Api) -> None:
    """It is asked of whatever the program has, the preloaded shim as well."""
    question = "print(privbind.may_bind('tcp:80'), privbind.may_bind('tcp:81'))"
    for mechanism in ("bpf", "seccomp", "preload"):
        found = host.granted(host.argv(question), f"--via={mechanism}", "--allow=tcp:80").ok()
        assert found.out == "True False\n", mechanism


EXPLAIN = """
privbind.become("nobody", allow="tcp:80", via=sys.argv[1])
for rule in ("tcp:80", "tcp:81", "tcp:8080"):
    found = privbind.explain(rule)
    assert found.text().splitlines()[0].startswith(f"process {os.getpid()} (") or rule == "tcp:8080", found.text()
    print(rule, found.verdict, found.values()["pid"] == os.getpid(), found.checked)
print(privbind.explain("tcp:80", user="daemon").who)
"""


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp"])
def test_explain(host: Api, mechanism: str) -> None:
    """Of this process unless another is named; the verdict is may_bind's, and the text privbindctl's."""
    assert host.api(EXPLAIN, mechanism).ok().lines == [
        "tcp:80 permitted True True",
        "tcp:81 refused True True",
        "tcp:8080 not-reserved True True",
        "daemon",
    ]
    ctl = Path(host.privbind).with_name("privbindctl")
    ours = "print(privbind.explain('tcp:80', user='daemon').text(), end='')"
    assert host.api(ours).ok().out == host.run([ctl, "explain", "tcp:80", "--user", "daemon"]).ok().out


COMMAND = """
import asyncio, subprocess
options = {"user": "nobody", "allow": ["tcp:80"], "via": sys.argv[2]}
argv = privbind.command([sys.argv[1], "tcp", "4", "127.0.0.1", "80", "tcp", "4", "127.0.0.1", "81"], **options)
os.environ["KEPT"] = "1"
print(subprocess.run(argv, capture_output=True, text=True))
async def main():
    argv = privbind.command(["sh", "-c", "id -u; echo $KEPT; exit 7"], **options)
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    print(await process.stdout.read(), await process.wait())
asyncio.run(main())
print(argv[0])
"""


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload"])
def test_command(host: Api, programs: Path, mechanism: str) -> None:
    """Under subprocess and asyncio, with the command that belongs to the package."""
    bound, awaited, command = host.api(COMMAND, programs / "trybind", mechanism).ok().lines
    assert "stdout='ok 127.0.0.1 80\\nEACCES\\n'" in bound
    assert awaited == f"b'{NOBODY.pw_uid}\\n1\\n' 7"
    assert command == os.path.realpath(host.privbind)


# What it refuses ------------------------------------------------------------------------------------------------------


def test_without_privilege(host: Api) -> None:
    found = host.plain(host.argv("refused(user='daemon', allow='tcp:80')")).ok()
    said = host.plain([host.privbind, "-u", "daemon", "--allow", "tcp:80", "true"]).err
    assert "CAP_SETUID and CAP_SETGID are missing" in said
    kind, _, told = found.out.partition(": ")
    assert issubclass(getattr(resolve, kind), UsageError)
    assert told.split(" (")[0] == said.removeprefix("privbind: ").split(" (")[0]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_second_time(host: Api, mechanism: str) -> None:
    """Also in a child of the process."""
    code = (
        "privbind.become('nobody', via=sys.argv[1])\nrefused()\nrefused(user='daemon')\n"
        "if os.fork() == 0:\n refused()\n os._exit(0)\nos.wait()\n"
    )
    said = "UsageError: this process has become nobody already, which is for good"
    assert host.api(code, mechanism).ok().lines == [said] * 3


def test_the_sentences_are_the_command_lines(host: Api) -> None:
    """Of arguments, of the host and of the mechanism."""
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"user": "nosuchuser"}, ["-u", "nosuchuser"]),
        ({"user": "root"}, ["-u", "root"]),
        ({"allow": "tcp:0"}, ["-u", "nobody", "-a", "tcp:0"]),
        ({"limit": -1}, ["-u", "nobody", "-n", "-1"]),
        ({"reuse_port": "x"}, ["-u", "nobody", "-r", "x"]),
        ({"via": "magic"}, ["-u", "nobody", "--via", "magic"]),
        ({"via": "ambient", "allow": "tcp:80"}, ["-u", "nobody", "--via", "ambient", "-a", "tcp:80"]),
        ({"via": "ambient", "limit": 1}, ["-u", "nobody", "--via", "ambient", "-n", "1"]),
    ]
    for options, words in cases:
        said = host.run([host.privbind, *words, "true"])
        assert said.status == 125
        found = host.api(f"refused(**{options!r})").ok().out
        # What to do about it may be told of the options there.
        ours, theirs = (text.partition(": ")[2].partition(" (")[0].strip() for text in (found, said.err))
        assert ours == theirs


def test_preload_is_for_programs_that_start(host: Api) -> None:
    found = host.api("refused(allow='tcp:80', via='preload')").ok()
    assert found.out == (
        "UnsupportedError: preload: its shim is loaded when a program starts, and this one runs already "
        "(privbind.command starts one with it)\n"
    )


SLEEPERS = "stop = threading.Event()\nfor _ in range(2): threading.Thread(target=stop.wait, daemon=True).start()\n"


@pytest.mark.parametrize("mechanism", ["seccomp", "ambient"])
def test_other_threads_where_they_cannot_be_taken_along(host: Api, mechanism: str) -> None:
    """Before anything changes; without them it works (the control)."""
    code = "refused(via=sys.argv[1])\n"
    assert host.api(SLEEPERS + code, mechanism).ok().out == (
        f"UnsupportedError: {mechanism}: it holds for one thread, and 2 others run here "
        "(call become before threads start)\n"
    )
    assert host.api(code, mechanism).ok().out.startswith("done: nobody may bind any reserved port")


INHERITABLE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def keep():
    # capset(2): CAP_NET_BIND_SERVICE inheritable, the rest as it is.
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[2] |= 1 << 10
    assert libc.capset(header, data) == 0
    ready.set()
    stop.wait()
ready, stop = threading.Event(), threading.Event()
threading.Thread(target=keep, daemon=True).start()
ready.wait()
"""

KEY = """
import ctypes
numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(numbers[1], 1, None) > 0  # KEYCTL_JOIN_SESSION_KEYRING
if sys.argv[1] == "key":
    assert libc.syscall(numbers[0], b"user", b"privbind-test", b"secret", 6, -3) > 0  # add_key(2)
"""


def test_threads_that_would_keep_something(host: Api) -> None:
    """Inheritable capabilities, keys, capabilities of a caller who is not root, or the lack of no_new_privs."""
    begin = "UsageError: 1 other thread of this process cannot be taken along: "
    end = " (call become before threads start)\n"
    go = "refused(allow='tcp:80', via='bpf')\n"
    assert host.api(INHERITABLE + go).ok().out == f"{begin}they would keep capabilities{end}"
    one = SLEEPERS.replace("range(2)", "range(1)")
    keys = host.api(KEY + one + go, "key").ok().out
    assert keys == f"{begin}they would keep the keys of this session's keyring{end}"
    assert host.api(KEY + one + go, "none").ok().out.startswith("done: ")
    nnp = one + "refused(allow='tcp:80', via='bpf', no_new_privs=True)\n"
    assert host.api(nnp).ok().out == f"{begin}no_new_privs is for the calling thread alone{end}"
    assert host.run(["setpriv", "--no-new-privs", *host.argv(nnp)]).ok().out.startswith("done: ")
    caps = "+setuid,+setgid,+bpf,+net_admin,+dac_override"
    other = [
        "setpriv",
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        f"--inh-caps={caps}",
        f"--ambient-caps={caps}",
    ]
    assert host.run([*other, *host.argv(one + go)]).ok().out == f"{begin}they would keep capabilities{end}"


RING = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
parameters = ctypes.create_string_buffer(120)
struct.pack_into("=II", parameters, 8, int(sys.argv[1]), 0)  # struct io_uring_params: flags
ring = libc.syscall(425, 4, parameters)  # io_uring_setup(2)
print(ring if ring < 0 else "ring", flush=True)
libc.mmap.restype = ctypes.c_long
refused(allow="tcp:80")
"""


RINGS = {
    "its descriptor": (0, "", r"descriptor \d+"),
    "its descriptor, and a thread": (2, "", r"descriptor \d+"),
    "its mapping": (0, "assert libc.mmap(None, 4096, 3, 1, ring, 0) != -1\nos.close(ring)\n", "a mapping"),
}


@pytest.mark.parametrize("seen", RINGS)
def test_a_ring_that_is_there(host: Api, seen: str) -> None:
    """Its thread in the kernel (SQPOLL) has root's ids and capabilities for as long as the ring is there."""
    flags, more, what = RINGS[seen]
    ring, told = host.api(RING.replace("refused(", f"{more}refused("), flags).ok().lines
    assert ring == "ring"
    said = (
        rf"UsageError: this process has an io_uring ring \({what}\), whose thread in the kernel would keep every "
        r"privilege \(call become before the ring is made\)"
    )
    assert re.fullmatch(said, told)


def test_a_thread_that_does_not_come_along(host: Api) -> None:
    """One that the C library does not know, such as a ring's if nobody had looked for rings: it is found afterwards."""
    code = RING.replace("refused(", "from privbind.linux import procfs\nprocfs.rings = lambda: []\nrefused(")
    ring, told = host.api(code, 2).ok().lines
    assert ring == "ring"
    said = (
        r"NotUndoneError: became nobody .*, but thread \d+ did not: Uid, .*CapPrm, CapEff.* \(there is no way back: .*"
    )
    assert re.match(said, told), told


def test_without_proc(host: Api) -> None:
    """Threads and rings could not be seen."""
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /proc; exec "$@"', "sh"]
    code = "try: privbind.become('nobody')\nexcept privbind.UsageError as error: print(error, os.getuid())"
    said = "cannot see the threads of this process in /proc: No such file or directory (mount /proc) 0\n"
    assert host.run([*hide, *host.argv(code)]).ok().out == said


# Where it is called ---------------------------------------------------------------------------------------------------

PLACES = {
    "a thread": """
def call():
    print(privbind.become("nobody", allow="tcp:80", via="bpf").mechanism, bind(80), bind(81))
thread = threading.Thread(target=call); thread.start(); thread.join()
print(os.getuid(), bind(80), bind(81))
""",
    "a child of a process with threads": SLEEPERS
    + """
import warnings; warnings.simplefilter("ignore")
if os.fork() == 0:
    print(privbind.become("nobody", allow="tcp:80", via="seccomp").mechanism, bind(80), bind(81))
    print(os.getuid(), bind(80), bind(81), flush=True)
    os._exit(0)
os.wait()
""",
    "a running asyncio loop": """
import asyncio
async def main():
    print(privbind.become("nobody", allow="tcp:80", via="seccomp").mechanism, bind(80), bind(81))
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 80)
    reader, writer = await asyncio.open_connection("127.0.0.1", 80)
    assert await reader.read() == b""
    writer.close()
    server.close()
    try:
        await asyncio.start_server(print, "127.0.0.1", 81)
    except PermissionError:
        print(os.getuid(), "ok EACCES")
asyncio.run(main())
""",
}


@pytest.mark.parametrize("place", PLACES)
def test_places_to_call_it(host: Api, place: str) -> None:
    """It works there."""
    mechanism, there = host.api(PLACES[place]).ok().lines
    assert mechanism in ("bpf ok EACCES", "seccomp ok EACCES")
    assert there == f"{NOBODY.pw_uid} ok EACCES"


SOCKETS = """
bound, early = socket.socket(), socket.socket()
bound.bind(("127.0.0.1", 80)); bound.listen()
privbind.become("nobody", allow="tcp:443", via=sys.argv[1])
socket.create_connection(("127.0.0.1", 80)).close()
bound.accept()[0].close()
try:
    early.bind(("127.0.0.1", 443))
    print("ok")
except OSError as error:
    print(errno.errorcode[error.errno])
early.close()
print(bind(443))
"""


def test_sockets_that_are_there_already(host: Api) -> None:
    """What is bound stays; one that was made before is refused under bpf, as documented, and granted under seccomp."""
    assert host.api(SOCKETS, "bpf").ok().lines == ["EACCES", "ok"]
    assert host.api(SOCKETS, "seccomp").ok().lines == ["ok", "ok"]


def test_it_says_nothing_and_ends_nothing(host: Api) -> None:
    """Whatever happens: no output, no log, no exit, signals and their handlers as they were."""
    code = (
        "import logging, signal\n"
        "logging.basicConfig(level=1, stream=sys.stdout)\n"
        "handler = signal.signal(signal.SIGTERM, lambda *_: print('term'))\n"
        "before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), [signal.getsignal(n) for n in signal.valid_signals()]\n"
        "try: privbind.become('nobody', via='preload')\nexcept privbind.UnsupportedError: pass\n"
        "privbind.become('nobody', via=sys.argv[1])\n"
        "after = signal.pthread_sigmask(signal.SIG_BLOCK, ()), [signal.getsignal(n) for n in signal.valid_signals()]\n"
        "assert before == after\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    for mechanism in MECHANISMS:
        found = host.api(code, mechanism).ok()
        assert (found.out, found.err) == ("term\n", "")


# Steps that fail ------------------------------------------------------------------------------------------------------

FAIL = """
import gc, posix
from privbind import account
from privbind.helper import process as helper
from privbind.linux import prctl, seccomp, sockets
from privbind.mechanisms.bpf import own_cgroup, placement

# What fails is in this process, but for the helper's beginning, which is in the helper.
own = os.getpid()

def broken(error, real, there):
    def fail(*arguments, **options):
        if (os.getpid() == own) == there:
            raise error
        return real(*arguments, **options)
    return fail

step, via = sys.argv[1:]
places = {
    "mkdir": (posix, "mkdir"), "entering the cgroup": (own_cgroup.Cgroup, "enter"), "loading": (placement, "Loaded"),
    "attaching": (placement, "attach"), "starting the helper": (helper, "_strip"),
    "the filter": (seccomp, "install_listener"), "the listener": (sockets, "send_descriptor"),
    "no_new_privs": (prctl, "set_no_new_privileges"), "groups": (posix, "setgroups"), "gid": (posix, "setresgid"),
    "uid": (posix, "setresuid"), "capabilities": (prctl, "clear_ambient"), "ambient": (prctl, "raise_ambient"),
    "the keyring": (account, "leave_session_keyring"), "the check": (posix, "getresgid"),
}
before = state()
gc.disable() if via == "seccomp" else gc.enable()
collects = gc.isenabled()
what, name = places[step]
real = getattr(what, name)
interrupted = step.startswith("gid")
error = KeyboardInterrupt() if via == "ambient" and interrupted else OSError(errno.EIO, "injected")
if step in ("gid", "groups"):
    # Only the first call fails, so that it can be taken back.
    def once(*arguments):
        if os.getpid() != own:
            return real(*arguments)
        setattr(what, name, real)
        raise error
    setattr(what, name, once)
elif step == "the check":
    calls = []
    def wrong():
        calls.append(1)
        return real() if len(calls) == 1 or os.getpid() != own else (0, 0, 0)
    setattr(what, name, wrong)
else:
    setattr(what, name, broken(error, real, step != "starting the helper"))
options = {} if via == "ambient" else {"allow": "tcp:80"}
try:
    privbind.become("nobody", via=via, no_new_privs=step == "no_new_privs", **options)
    told = "done"
except BaseException as error:
    told = f"{type(error).__name__}: {error}"
setattr(what, name, real)
assert gc.isenabled() == collects
after = state()
changed = {name: after[name] for name in before if before[name] != after[name]}
print(json.dumps([told, sorted(changed), os.getuid(), bind(80), bind(81), bind(8080)]))
"""

# Where the kernel opens no threads (before Linux 6.9), a backup is tried before the helper is started.
NO_HELPER = (
    "PrivbindError: cannot start privbind-helper: injected"
    if target.opens_threads()
    else "UnsupportedError: seccomp: cannot start privbind-backup: injected"
)

AS_IT_WAS: list[tuple[str, str, str]] = [
    ("mkdir", "bpf", "UnsupportedError: bpf: cannot make a cgroup below "),
    ("entering the cgroup", "bpf", "UnsupportedError: bpf: cannot enter cgroup "),
    ("loading", "bpf", "PrivbindError: cannot become nobody uid=65534 gid=65534 groups=65534: injected"),
    ("attaching", "bpf", "PrivbindError: cannot become nobody uid=65534 gid=65534 groups=65534: injected"),
    ("starting the helper", "seccomp", NO_HELPER),
    ("the filter", "seccomp", "PrivbindError: cannot install the seccomp filter: injected"),
    *[("no_new_privs", via, "PrivbindError: cannot become nobody ") for via in ("bpf", "ambient")],
    *[(step, via, f"PrivbindError: cannot become nobody uid=65534 gid=65534 groups=65534: {said}: injected")
      for via in ("bpf", "ambient")
      for step, said in (("groups", "supplementary groups"), ("uid", "uid 65534"))],
    ("gid", "bpf", "PrivbindError: cannot become nobody uid=65534 gid=65534 groups=65534: gid 65534: injected"),
    ("gid", "ambient", "KeyboardInterrupt: "),
]  # fmt: skip


@pytest.mark.parametrize(("step", "mechanism", "said"), AS_IT_WAS, ids=lambda text: str(text)[:20])
def test_a_step_that_fails_leaves_the_process_as_it_was(host: Api, step: str, mechanism: str, said: str) -> None:
    """Ids, groups, capabilities, cgroup, descriptors, children, environment; root binds as root."""
    told, changed, *rest = json.loads(host.api(FAIL, step, mechanism).ok().out)
    assert told.startswith(said)
    assert (changed, rest) == ([], [0, "ok", "ok", "ok"])


@pytest.mark.parametrize("step", ["groups", "gid", "uid"])
def test_a_filter_stays_and_keeps_root_from_nothing(host: Api, step: str) -> None:
    """What cannot be undone of seccomp: the filter and its helper, as documented."""
    told, changed, *rest = json.loads(host.api(FAIL, step, "seccomp").ok().out)
    assert told.startswith("PrivbindError: cannot become nobody ")
    assert (changed, rest) == (["Seccomp"], [0, "ok", "ok", "ok"])


LATE = [
    *[(step, via) for via in MECHANISMS for step in ("capabilities", "the keyring", "the check")],
    ("ambient", "ambient"),
]


@pytest.mark.parametrize(("step", "mechanism"), LATE)
def test_a_step_that_fails_too_late(host: Api, step: str, mechanism: str) -> None:
    """The error says that the process must end; it is not root any more."""
    told, changed, uid, *_ = json.loads(host.api(FAIL, step, mechanism).ok().out)
    assert told.startswith("NotUndoneError: ")
    assert told.endswith(" (there is no way back: end this process)")
    assert uid == NOBODY.pw_uid
    assert {"Uid", "Gid", "Groups"} <= {*changed}


def test_a_listener_that_nobody_took(host: Api) -> None:
    """The kernel answers every bind then: this process must end, as the error says."""
    told, changed, uid, *binds = json.loads(host.api(FAIL, "the listener", "seccomp").ok().out)
    assert told.startswith(
        "NotUndoneError: cannot hand the seccomp filter to its helper: injected (there is no way back"
    )
    assert changed == ["Seccomp"]
    assert (uid, binds) == (0, ["ENOSYS"] * 3)


# Many, and everywhere -------------------------------------------------------------------------------------------------

MANY = """
via, count = sys.argv[1], int(sys.argv[2])
options = {} if via == "ambient" else {"allow": "tcp:80"}
before = sorted(os.listdir("/proc/self/fd"))
import privbind.api, privbind.inprocess, privbind.inspect.may_bind
from privbind import mechanisms
mechanisms.load(via)
for number in range(count):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            privbind.become("nobody", via=via, **options)
            assert sorted(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
            assert open(f"/proc/self/task/{os.getpid()}/children").read() == ""
            assert (bind(80), bind(81) if options else "EACCES") == ("ok", "EACCES")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, number
assert sorted(os.listdir("/proc/self/fd")) == before
print("done", open("/proc/self/cgroup").read().split("0::")[1].split()[0])
"""


@pytest.mark.parametrize(
    ("mechanism", "count"), [("bpf", 200), ("ambient", rounds(20, 200)), ("seccomp", rounds(20, 200))]
)
def test_many_leave_nothing(host: Api, mechanism: str, count: int) -> None:
    """No descriptor and no child in any of them; afterwards no helper, and few cgroups, which the next launch takes."""
    with cgroup.own() as own:
        there = {*launches_in(own.fd)}
        assert host.api(MANY, mechanism, count).ok().out.startswith("done")
        left = {*launches_in(own.fd)} - there
        assert len(left) <= (3 if mechanism == "bpf" else 0), left
        host.api("privbind.become('nobody', allow='tcp:80', via='bpf')").ok()
        assert not left & {*leftover(own)}
    space = os.readlink(f"/proc/{host.pid}/ns/net")

    def in_namespace() -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and int(name) != host.pid and os.readlink(f"/proc/{name}/ns/net") == space:
                    found.append(int(name))
            except OSError:
                continue
        return [pid for pid in found if not status_of(pid)["State"].startswith("Z")]

    wait_for(lambda: not in_namespace(), "the end of all helpers")


@pytest.mark.parametrize("interpreter", pythons(), ids=lambda path: path.name)
def test_each_python(host: Api, interpreter: Path) -> None:
    """From 3.11 to the newest that this machine has, by each mechanism, with threads where that is possible."""
    before, program = reachable(interpreter)
    code = (
        "via = sys.argv[1]\n"
        "stop = threading.Event()\n"
        "if via == 'bpf': threading.Thread(target=stop.wait, daemon=True).start()\n"
        "privbind.become('nobody', allow=None if via == 'ambient' else 'tcp:80', via=via)\n"
        "print('%d.%d' % sys.version_info[:2], os.getuid(), bind(80), bind(81), privbind.may_bind('tcp:80'))"
    )
    for mechanism in MECHANISMS:
        argv = host.argv(code, mechanism, interpreter=program)
        found = host.run([*before, *argv]).ok()
        other = "ok" if mechanism == "ambient" else "EACCES"
        version = interpreter.name.removeprefix("python")
        assert found.out.split() in (
            [version, str(NOBODY.pw_uid), "ok", other, "True"],
            ["3.11", str(NOBODY.pw_uid), "ok", other, "True"],
        )
