"""What other users, and owners of delegated cgroups, try against a launch that is being made ready, and against ls."""

from __future__ import annotations

import json
import os
import posix
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from privbind.account import Account
from privbind.errors import PrivbindError
from privbind.grant.site import Site
from privbind.helper import process as helper_process
from privbind.helper.process import Job, Starting
from privbind.inspect import grants
from privbind.linux import cgroup, process, procfs, target
from privbind.mechanisms.bpf import own_cgroup

from ..harness.forks import forked, unified_mount
from ..harness.host import MANY, TIMEOUT_S, Host, Result, gone, helper_of, python, read_line, status_of, wait_for
from ..harness.install import bare_venv, run, world_readable_folder
from ..harness.launches import Tree
from ..harness.patience import fewer

HELPERS = ("preload", "seccomp")
ROUNDS = fewer(20)

# Runs in a pid namespace of its own, since kill(-1) is for everybody in it. An attacker harms all of its uid, time and
# again; the launches are for another user.
AMONG_ATTACKERS = """
import os, resource, signal, subprocess, sys
privbind, mechanism, how, rounds, *uids = sys.argv[1:]
reader, writer = os.pipe()
attackers = []
for uid in map(int, uids):
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.close(writer)
        while True:
            if how == "limit":
                for name in os.listdir("/proc"):
                    if name.isdigit() and int(name) not in (os.getpid(), 1):
                        try:
                            resource.prlimit(int(name), resource.RLIMIT_NOFILE, (0, 0))
                        except (OSError, ValueError):
                            pass
            else:
                try:
                    os.kill(-1, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
                except OSError:
                    pass
    attackers.append(pid)
os.close(writer)
os.read(reader, 1)  # all of them have begun
code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print('bound')"
for _ in range(int(rounds)):
    argv = [privbind, "-u", "daemon", f"--via={mechanism}", "-a", "tcp:80", "--", "/usr/bin/python3", "-I", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True)
    print(done.stdout.strip() or done.stderr.strip())
for pid in attackers:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("how", ["kill", "stop", "limit"])
@pytest.mark.parametrize("mechanism", HELPERS)
def test_no_process_of_another_user_harms_a_helper_that_starts(host: Host, mechanism: str, how: str) -> None:
    """A helper takes no uid that a process has, not even for a moment, and never comes by nobody's."""
    uids = ["65534", "65533", "65532"]
    isolated = ["unshare", "--pid", "--fork", "--mount-proc"]
    argv = [*isolated, *python(AMONG_ATTACKERS, host.privbind, mechanism, how, str(ROUNDS), *uids)]
    assert host.run(argv).ok().lines == ["bound"] * ROUNDS


def ids_of(pid: int) -> set[tuple[str, str]]:
    """All uids and gids that a process has, groups included."""
    status = status_of(pid)
    gids = [*status["Gid"].split(), *status["Groups"].split()]
    return {("uid", word) for word in status["Uid"].split()} | {("gid", word) for word in gids}


@pytest.mark.parametrize("hidden", [False, True], ids=["all visible", "hidepid"])
@pytest.mark.parametrize("order", [("nobody", "daemon"), ("daemon", "nobody")], ids="-then-".join)
@pytest.mark.parametrize("mechanism", HELPERS)
def test_no_helper_shares_an_id_with_a_command_or_another_helper(
    host: Host, mechanism: str, order: tuple[str, str], hidden: bool
) -> None:
    """Whoever comes first, and whatever can be seen in /proc, as far as a helper starts there."""
    prefix = ["unshare", "--mount", "sh", "-ec", 'mount -t proc -o hidepid=2 proc /proc; exec "$@"', "sh"]
    if hidden and mechanism == "seccomp" and not target.opens_threads():
        refused = host.run([*prefix, *host.command(["/bin/cat"], f"--via={mechanism}")])
        assert refused.status == 125
        assert "before Linux 6.9 threads are looked up in /proc" in refused.err
        return
    found = []
    for user in order:
        argv = host.command(["/bin/cat"], f"--via={mechanism}", "-v", user=user)
        started = host.popen([*(prefix if hidden else []), *argv], stdin=-1, stdout=-1, stderr=-1)
        helper = helper_of(started)
        found += [ids_of(helper), ids_of(started.pid)]
    helpers, commands = found[::2], found[1::2]
    assert not helpers[0] & helpers[1]
    assert not any(one & other for one in helpers for other in commands)
    assert not any(("uid", "65534") in one or ("gid", "65534") in one for one in helpers)


def test_two_processes_of_a_uid_are_told_from_one() -> None:
    """The second look at a uid: only a process that is alone with it keeps it. These are none that helpers take."""

    def alone(*others: int) -> bool:
        pids = []
        try:
            for uid in others:
                reader, writer = os.pipe()
                pids.append(os.fork())
                if pids[-1] == 0:
                    os.setresuid(uid, uid, uid)
                    os.write(writer, b"x")
                    signal.pause()
                os.read(reader, 1)
            return forked(become_and_look)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def become_and_look() -> bool:
        assert process.can_tell_alone()
        os.setresuid(59000, 59000, 59000)
        return process.is_alone()

    assert not process.user_has_processes(59000)
    assert process.user_has_processes(0)
    assert forked(alone)
    assert forked(lambda: alone(59001))
    assert not forked(lambda: alone(59000))
    assert not forked(lambda: alone(59001, 59000))


def test_a_launch_does_not_wait_for_ever_for_a_stopped_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what happened, and nothing of the helper stays."""
    monkeypatch.setattr(helper_process, "_PATIENCE_S", 1)
    reader, writer = os.pipe()

    def stop() -> None:
        os.write(writer, str(os.getpid()).encode())
        os.kill(os.getpid(), signal.SIGSTOP)

    job = Job(lambda: None, None, (writer,), Account(1, 1, ()), Site(0, 1024), (), confine=stop)
    starting = Starting(job)
    pid = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    with pytest.raises(PrivbindError, match=r"^cannot start privbind-helper: it did not get ready within .* \(was it"):
        starting.wait()
    wait_for(lambda: gone(pid), "the end of the stopped helper")


@pytest.mark.parametrize("umask", [0o000, 0o777])
@pytest.mark.parametrize("program", ["privbind", "privbindctl"])
def test_a_launch_writes_no_bytecode(wheel: Path, program: str, umask: int) -> None:
    """Whatever root's umask: what others could write to would be run as root at the next launch."""
    with world_readable_folder(writable=False) as folder:
        run(*bare_venv(folder), "--quiet", "--no-index", "--no-compile", wheel)
        before = sorted(folder.rglob("*"))
        argv: list[object] = [folder / "bin" / program]
        argv += ["doctor"] if program == "privbindctl" else ["-u", "nobody", "--", "/bin/true"]
        subprocess.run(list(map(str, argv)), check=True, umask=umask, stdout=subprocess.DEVNULL)
        assert sorted(folder.rglob("*")) == before
        assert not [path for path in before if "privbind/" in str(path) and path.suffix == ".pyc"]


# Runs as the owner of a delegated cgroup: removes what a launch has made there, and puts its own in the place.
SWAP = """
import os, sys
folder, how = sys.argv[1:]
os.chdir(folder)
print("ready", flush=True)
removed = 0
while os.path.exists(f"{folder}/attack"):
    for name in os.listdir("."):
        if name.startswith("privbind."):
            try:
                os.rmdir(name)
                removed += 1
                if how == "swap":
                    os.mkdir(name)
            except OSError:
                pass
print(removed)
"""


@pytest.fixture
def delegated(tree: Tree) -> Iterator[Path]:
    """A cgroup that belongs to a user, as systemd delegates it; who attacks while it holds one called "attack"."""
    tree.make("theirs")
    path = Path(unified_mount() + tree.path) / "theirs"
    for name in (".", "cgroup.procs", "cgroup.subtree_control"):
        os.chown(path / name, 1000, 1000)
    (path / "attack").mkdir()
    yield path
    if (path / "attack").exists():
        (path / "attack").rmdir()


@pytest.mark.parametrize("how", ["remove", "swap"])
def test_the_owner_of_a_delegated_cgroup_cannot_spoil_a_launch(host: Host, delegated: Path, how: str) -> None:
    """What was made is checked, and made again when it was removed: each launch is granted its port."""
    count = fewer(100)
    owner = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    attacker = host.popen([*owner, *python(SWAP, str(delegated), how)], stdout=-1)
    assert read_line(attacker) == "ready\n"
    script = f"""
    echo 0 > {delegated}/cgroup.procs
    for round in $(seq {count}); do "$@" || echo failed; done
    """
    # The control: the same launch may not bind another port.
    launch = host.command(python(MANY, "80", "81"), "--via=bpf", "--allow=tcp:80")
    assert host.run(["sh", "-c", script, "sh", *launch]).lines == ["ok EACCES"] * count
    (delegated / "attack").rmdir()
    assert int(read_line(attacker)) > 0, "the attacker never came in time"


def test_only_cgroups_of_launches_are_swept(tree: Tree) -> None:
    """Those with exactly such a name, owned by this user, and not just being made."""
    names = ["privbind.slice", "privbind.mine", "privbind.1", "privbind.1.2.3", "privbind.1.x", "privbind.", "x.1.2"]
    for name in [*names, "privbind.11.0", "privbind.12.0", "privbind.13.0"]:
        tree.make(name)
    os.chown("privbind.12.0", 1000, 1000, dir_fd=tree.fd)
    os.chmod("privbind.13.0", 0o700, dir_fd=tree.fd)  # as one that is being made
    assert own_cgroup.sweep(tree.fd) == 1
    left = {name for name in os.listdir(tree.fd) if name.startswith(("privbind.", "x."))}
    assert left == {*names, "privbind.12.0", "privbind.13.0"}


def test_a_launch_looks_at_a_bounded_number_of_others(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; what one launch leaves, later ones find."""
    for number in range(200):
        tree.make(f"privbind.{number}.0")
    looked: list[str] = []
    real = own_cgroup._remove

    def remove(fd: int, name: str, looks: list[int]) -> int:
        looked.append(name)
        return real(fd, name, looks)

    monkeypatch.setattr(own_cgroup, "_remove", remove)
    pids = iter(range(1, 10_000, 7))
    monkeypatch.setattr(posix, "getpid", lambda: next(pids))
    rounds = 0
    while any(map(own_cgroup.is_name, os.listdir(tree.fd))):
        del looked[:]
        own_cgroup.sweep(tree.fd)
        assert 0 < len(looked) <= own_cgroup._MAX_LOOKS
        rounds += 1
    assert rounds <= 20


@pytest.mark.parametrize("identified", [True, False], ids=["kernel tells the id", "path alone"])
@pytest.mark.parametrize("name", ["a\fb", "a\vb", "a\x1cb", "a\x85b", "a b", "a\\b", "é"])
def test_the_own_cgroup_is_found_whatever_its_name(tree: Tree, name: str, identified: bool) -> None:
    """/proc's lines end at line breaks and nowhere else."""

    def find() -> str:
        tree.enter(tree.make(name))
        if not identified:
            cgroup._own_identity = lambda: 0
        with cgroup.own() as own:
            return own.path

    assert forked(find) == f"{tree.path}/{name}"


# A process that looks like a helper, with a grant's record in memory that it holds a lease on.
FAKE = """
import ctypes, fcntl, os, signal, sys
libc = ctypes.CDLL(None)
signal.signal(signal.SIGIO, signal.SIG_IGN)
libc.prctl(15, b"privbind-helper", 0, 0, 0)
libc.prctl(38, 1, 0, 0, 0)
fd = os.memfd_create("privbind_grant")
os.write(fd, bytes(24) + b"privbind grant 1\\n")
# A descriptor of memfd_create(2)'s own takes no lease, one that was opened does.
leased = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
class Program(ctypes.Structure):
    _fields_ = [("size", ctypes.c_ushort), ("code", ctypes.c_void_p)]
code = ctypes.create_string_buffer(b"\\x06\\0\\0\\0\\0\\0\\xff\\x7f")  # return SECCOMP_RET_ALLOW
assert libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.addressof(code))), 0, 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""


def listed(host: Host) -> tuple[list[dict[str, object]], Result]:
    """The grants that ls shows, and how it ended."""
    found = host.run([Path(host.privbind).with_name("privbindctl"), "ls", "--json"])
    return json.loads(found.ok().out)["grants"], found


def test_a_lease_does_not_hold_up_ls(host: Host) -> None:
    """open(2) would wait for its owner: 45 seconds for each fake, as the kernel is set up."""
    break_time = int(Path("/proc/sys/fs/lease-break-time").read_text())
    fake = host.popen(["setpriv", "--reuid=65533", "--clear-groups", *python(FAKE)], stdin=-1, stdout=-1)
    assert read_line(fake) == "ready\n"
    program = host.popen([Path(host.privbind).with_name("privbindctl"), "ls"], stdout=-1, stderr=-1)
    _, said = program.communicate(timeout=break_time - 5)
    assert program.returncode == 0
    assert f"helper {fake.pid}" in said


# A process like FAKE whose "file in memory" is served by its child, over FUSE, which does not tell what it is like. Its
# mount is one that all may use, as fusermount makes them with user_allow_other in fuse.conf.
FUSE = (
    """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
top = b"/mnt"
device = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % device
assert libc.mount(b"fuse", top, b"fuse", 6, options) == 0
# Requests and answers are in linux/fuse.h. FORGET, GETATTR, INTERRUPT and BATCH_FORGET get none.
INIT, LOOKUP, OPEN = 26, 1, 14
ANSWERS = {
    INIT: struct.pack("=4I2H2I2H2I24x", 7, 31, 4096, 0, 16, 12, 4096, 1, 1, 0, 0, 0),
    LOOKUP: struct.pack("=4Q2I6Q10I", 2, 1, *[0] * 4, 2, 100, 1, *[0] * 6, 0o100644, 1, 0, 0, 0, 4096, 0),
    OPEN: struct.pack("=Q2I", 1, 0, 0),
}
if os.fork() == 0:
    while True:
        _, kind, unique = struct.unpack_from("=IIQ", os.read(device, 1 << 17))
        if kind not in (2, 3, 36, 42):
            answer = ANSWERS.get(kind, b"")
            os.write(device, struct.pack("=IiQ", 16 + len(answer), 0 if answer else -38, unique) + answer)
os.close(device)
file = os.open(top + b"/memfd:privbind_grant (deleted)", os.O_RDONLY)
assert libc.umount2(top, 2) == 0  # MNT_DETACH
assert os.readlink(f"/proc/self/fd/{file}") == "/memfd:privbind_grant (deleted)"
os.setresuid(65533, 65533, 65533)
"""
    + FAKE[FAKE.index("libc.prctl(15") : FAKE.index("fd = ")]
    + FAKE[FAKE.index("class Program") :]
)


def test_a_file_that_gives_no_answer_does_not_hold_up_ls(host: Host) -> None:
    """Even fstat(2) would wait for who serves it, and SIGTERM does not end that."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    fake = host.popen(["unshare", "--mount", *python(FUSE)], stdin=-1, stdout=-1)
    assert read_line(fake) == "ready\n"
    program = host.popen([Path(host.privbind).with_name("privbindctl"), "ls"], stdout=-1, stderr=-1)
    _, said = program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == 0
    assert f"helper {fake.pid}: not a file in memory" in said


def test_ls_finds_grants_among_deeply_nested_cgroups(host: Host, tree: Tree) -> None:
    """1,100 cgroups, each inside the one before: more than Python recurses."""
    top = os.open(".", os.O_RDONLY)
    started = host.start(["/bin/cat"], "--via=bpf", "--allow=tcp:80", "-v", stdin=-1, stderr=-1)
    assert started.stderr is not None
    for line in started.stderr:
        if "run: " in line:
            break
    try:
        os.fchdir(tree.fd)
        for _ in range(1100):
            os.mkdir("n")
            os.chdir("n")
        pids = [grant["pid"] for grant in listed(host)[0]]
        assert started.pid in pids
    finally:
        os.fchdir(tree.fd)
        depth = 0
        while os.path.isdir("n"):
            os.chdir("n")
            depth += 1
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("n")
        os.fchdir(top)
        os.close(top)


def test_ls_looks_once_at_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many helpers, real or not, are in other pid namespaces."""
    real = procfs.processes
    asked = []

    def processes() -> list[int]:
        asked.append(real())
        return asked[-1]

    monkeypatch.setattr(procfs, "processes", processes)
    known = grants._Processes()
    own = procfs.namespace(os.getpid(), "pid"), procfs.own_ids(os.getpid())[-1]
    for _ in range(100):
        assert known.find(*own) == [os.getpid()]
        assert known.find("pid:[1]", 7) == []
    assert len(asked) == 1


ASK = """
import array, os, socket, struct, sys
kind = getattr(socket, sys.argv[1])
channel = socket.socket(fileno=int(os.environ["PRIVBIND_CHANNEL"].split(":")[0]))
sock = socket.socket()
ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", int(sys.argv[2]), socket.inet_aton("127.0.0.1"))
channel.sendmsg(
    [struct.pack("=II", 0x31766270, len(address)) + address],
    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno(), theirs.fileno()]))],
)
theirs.close()
ours.settimeout(60)
try:
    answer = ours.recv(100)
except ConnectionResetError:
    answer = b""
print(struct.unpack("=Ii", answer)[1] if answer else "no answer", sock.getsockname()[1])
"""


@pytest.mark.parametrize(
    ("kind", "port", "answer"),
    [
        ("SOCK_SEQPACKET", 80, "0 80"),
        ("SOCK_SEQPACKET", 81, "13 0"),
        ("SOCK_STREAM", 80, "no answer 0"),
        ("SOCK_STREAM", 81, "no answer 0"),
    ],
)
def test_the_helper_answers_on_seqpacket_sockets_only(host: Host, kind: str, port: int, answer: str) -> None:
    """By another kind of socket it could be made to speak to somebody else's service."""
    assert host.granted(python(ASK, kind, str(port)), "--via=preload", "--allow=tcp:80").ok().out == f"{answer}\n"


def test_the_helper_sends_nothing_by_a_datagram_socket(host: Host, folder: Path) -> None:
    """As a log daemon's is: what arrives there would be the helper's word."""
    code = ASK.replace(
        "ours, theirs = socket.socketpair(socket.AF_UNIX, kind)",
        "ours = socket.socket(socket.AF_UNIX, kind); ours.bind(sys.argv[3])\n"
        "theirs = socket.socket(socket.AF_UNIX, kind); theirs.connect(sys.argv[3])",
    ).replace("theirs.close()\n", "theirs.close()\nsocket.socket().bind(('127.0.0.1', 82))\nours.setblocking(False)\n")
    code = code.replace("ours.settimeout(60)\n", "").replace("ConnectionResetError", "BlockingIOError")
    # The bind of port 82 is answered after the request before it, so nothing more can come.
    argv = python(code, "SOCK_DGRAM", "80", str(folder / "log"))
    assert host.granted(argv, "--via=preload", "--allow=tcp:80,tcp:82").ok().out == "no answer 0\n"


# The command is a subreaper, so that helper and backup stay its children; whoever waits here sees how each ends.
REAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    libc.prctl(36, 1, 0, 0, 0)
    os.execv(sys.argv[1], sys.argv[1:])
ends = []
while True:
    try:
        _, status = os.waitpid(-1, 0x40000000)
    except ChildProcessError:
        break
    ends.append(os.waitstatus_to_exitcode(status))
print(sorted(ends))
"""


@pytest.mark.parametrize("limit", [[], ["-n1"]], ids=["no limit", "limit"])
@pytest.mark.parametrize(("mechanism", "processes"), [("seccomp", 3), ("preload", 2)])
def test_helpers_end_by_themselves_under_a_subreaper(
    host: Host, mechanism: str, processes: int, limit: list[str]
) -> None:
    """None of them is killed for a system call that it gave up before.

    Where threads cannot be opened, a backup is tried out first, which is one more.
    """
    processes += mechanism == "seccomp" and not target.opens_threads()
    launch = host.command(python(MANY, "80", "8080"), f"--via={mechanism}", "--allow=tcp:80", *limit)
    found = host.run(python(REAP, *launch)).ok()
    assert found.lines == ["ok ok", str([0] * processes)]


AGAIN = """
import errno, socket, threading
def bind(sock, port):
    try:
        sock.bind(("127.0.0.1", port))
        told.append("ok")
    except OSError as error:
        told.append(errno.errorcode[error.errno])
told = []
first, second = socket.socket(), socket.socket()
bind(first, 80)
bind(first, 80)
bind(first, 81)
bind(second, 80)
other = threading.Thread(target=bind, args=(first, 80))
other.start()
other.join()
print(*told)
"""


@pytest.mark.parametrize(
    ("mechanism", "answer"), [("bpf", "EINVAL"), ("seccomp", "ok"), ("preload", "EINVAL")], ids=lambda word: word
)
def test_a_bind_that_a_thread_makes_again(host: Host, mechanism: str, answer: str) -> None:
    """seccomp takes it for a call that a signal interrupted; everything that differs has the kernel's own answer."""
    found = host.granted(python(AGAIN), f"--via={mechanism}", "--allow=tcp:80-81")
    assert found.ok().out == f"ok {answer} EINVAL EADDRINUSE EINVAL\n"
