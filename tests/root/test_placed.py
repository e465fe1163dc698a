"""privbindctl grant and revoke: a grant on a cgroup that is there already. Each bind has a control."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from privbind.errors import PrivbindError
from privbind.linux import bpf
from privbind.linux.cgroup import Cgroup
from privbind.mechanisms.bpf import placement
from privbind.mechanisms.bpf.assembly import R0, Assembly
from privbind.placed import grants, place

from ..harness.cases import CASES, OCCUPIED, Bind
from ..harness.forks import CLONE_NEWNET, become_nobody, bind_to, forked, in_host, try_bind, unified_mount, unshare
from ..harness.host import AS_NOBODY, BIND_WHEN_TOLD, MANY, Host, Result, gone, kill, python, read_line, tell, wait_for
from ..harness.launches import Tree, a_grant

pytestmark = pytest.mark.usefixtures("nothing_stays")

T = TypeVar("T")

WAYS = ("pid", "cgroup by its directory", "cgroup by its path", "self")
"""How a cgroup is named; units are in test_recipes.py, under a systemd of their own."""

JOIN = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
ASKED = "13"  # what BIND_WHEN_TOLD says of EACCES

OCCUPY = """
import socket, sys
held = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        held.append(socket.socket(family, kind))
        if family == socket.AF_INET6:
            held[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held[-1].bind((address, int(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""

LOOP = """
import socket, sys
bound = 0
while True:
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as for try_bind
            s.bind(("127.0.0.1", 80))
        bound += 1
        if bound == 100:
            print("busy", flush=True)
    except PermissionError:
        print(bound, flush=True)
        break
"""
"""Binds all the time, until it is refused; then tells how often it had been granted."""

REUSE = """
import errno, socket
held = []
def bind(port):
    held.append(socket.socket())
    try:
        held[-1].bind(("127.0.0.1", port))
        return held[-1].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    except OSError as error:
        return errno.errorcode[error.errno]
print(*(bind(port) for port in (80, 80, 81, 81)))
"""


class Place:
    """A cgroup of the test's own on a host of the test's own, and what is done with it by the command line."""

    def __init__(self, host: Host, tree: Tree, name: str = ".") -> None:
        self.host = host
        self.tree = tree
        self.path = tree.path if name == "." else f"{tree.path}/{name}"
        self.directory = unified_mount().rstrip("/") + self.path

    def ctl(self, *words: object, before: tuple[str, ...] = ()) -> Result:
        """Run privbindctl."""
        ctl = Path(self.host.privbind).parent / "privbindctl"
        found = self.host.run([*before, ctl, *words])
        assert "Traceback" not in found.err, found
        assert found.status == 0 or len(found.err.splitlines()) == 1, found
        return found

    def join(self, argv: list[Any]) -> list[str]:
        """A command line that runs another one inside."""
        return ["sh", "-ec", JOIN, self.directory, *map(str, argv)]

    def nobody(self, argv: list[Any]) -> list[str]:
        """The same, as nobody."""
        return self.join([*AS_NOBODY, *argv])

    def start(self, code: str = BIND_WHEN_TOLD) -> subprocess.Popen[Any]:
        """Start a program as nobody inside; it has said that it is up."""
        process = self.host.popen(self.nobody(python(code)), stdin=-1, stdout=-1)
        if code == BIND_WHEN_TOLD:
            assert read_line(process) == "up\n"
        return process

    def end(self, process: subprocess.Popen[Any]) -> None:
        """End a program that was started here."""
        process.kill()
        process.wait()

    def many(self, *ports: int) -> list[str]:
        """What binds as nobody give inside."""
        return self.host.run(self.nobody(python(MANY, *map(str, ports)))).ok().out.split()

    def grants(self) -> list[dict[str, Any]]:
        """Those that ls shows on it."""
        found = json.loads(self.ctl("ls", "--json").ok().out)["grants"]
        return [grant for grant in found if grant["place"].endswith(self.path)]

    def named(self, way: str, command: str, *options: str, pid: int) -> Result:
        """Run grant or revoke, with the cgroup named in one of the ways."""
        if way == "self":
            return self.ctl(command, "--self", *options, before=("sh", "-ec", JOIN, self.directory))
        where = {
            "pid": f"--pid={pid}",
            "cgroup by its directory": f"--cgroup={self.directory}",
            "cgroup by its path": f"--cgroup={self.path}",
        }
        return self.ctl(command, where[way], *options)


@pytest.fixture
def there(host: Host, tree: Tree) -> Iterator[Place]:
    """A cgroup of the test's own."""
    yield Place(host, tree)
    host.close()  # what is in it must end before it can be removed


@pytest.mark.parametrize("way", WAYS)
def test_grant_and_revoke(there: Place, way: str) -> None:
    """From refused to granted and back, for the process that was there before."""
    process = there.start()
    assert [tell(process, port) for port in (80, 81, 8080)] == [ASKED, ASKED, "ok"]
    assert there.named(way, "grant", "--allow=tcp:80", pid=process.pid).ok().out == (
        f"granted: cgroup '{there.path}' may bind tcp:80\n"
    )
    assert [tell(process, port) for port in (80, 81, 8080)] == ["ok", ASKED, "ok"]
    assert there.host.plain(python(MANY, "80")).out == "EACCES\n"
    assert there.named(way, "grant", "--allow=tcp:81", pid=process.pid).ok().out.startswith("changed: ")
    assert [tell(process, port) for port in (80, 81)] == [ASKED, "ok"]
    told = there.named(way, "revoke", pid=process.pid).ok().out
    assert told == f"revoked: cgroup '{there.path}' has no grant any more; what is bound stays bound\n"
    assert tell(process, 81) == ASKED
    assert there.named(way, "revoke", pid=process.pid).ok().out.startswith("nothing to revoke: ")
    there.end(process)


@pytest.mark.parametrize("way", WAYS)
def test_the_table_of_binds(there: Place, programs: Path, way: str) -> None:
    """A granted bind gives what root gets, any other what nobody gets."""
    occupier = there.host.popen(python(OCCUPY, str(OCCUPIED)), stdin=-1, stdout=-1)
    assert read_line(occupier) == "held\n"
    process = there.start()
    policies = list(dict.fromkeys(case.rules for case in CASES if case.rules))
    for rules in policies:
        cases = [case for case in CASES if case.rules == rules]
        argv = [programs / "trybind", *(word for case in cases for word in case.bind.words())]

        def results(found: Result, cases: list[Any] = cases) -> dict[Bind, str]:
            assert len(found.lines) == len(cases), found
            return {case.bind: line.split()[0] for case, line in zip(cases, found.lines, strict=True)}

        there.named(way, "grant", f"--allow={rules}", pid=process.pid).ok()
        root, nobody = results(there.host.run(argv)), results(there.host.plain(argv))
        placed = results(there.host.run(there.nobody(argv)))
        assert placed == {case.bind: (root if case.granted else nobody)[case.bind] for case in cases}, rules
        for case in cases:
            if 0 < case.bind.port < 1024 and root[case.bind] == "ok":
                assert nobody[case.bind] == "EACCES"
    there.end(process)


def inside(tree: Tree, work: Callable[[], T], name: str = ".") -> T:
    """What ``work`` gives as nobody in a cgroup of the test's."""

    def there() -> T:
        tree.enter(name)
        become_nobody()
        return work()

    return forked(there)


def granted(target: str, rules: str = "tcp:80", limit: int = 0) -> bool:
    """Grant on a cgroup; whether there was a grant."""
    with place.of_directory(target) as found:
        return grants.grant(found, a_grant(rules, limit))


class TestSockets:
    """Which sockets are covered, and for whom."""

    def test_made_before_and_after(self, tree: Tree) -> None:
        """Both, since it is the cgroup that has the grant."""

        def work() -> list[str]:
            before = [socket.socket() for _ in range(2)]
            first = bind_to(before[0], 80)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            return [first, bind_to(before[1], 80), try_bind(80, "127.0.0.2"), try_bind(81, "127.0.0.2")]

        ready, go, answer = os.pipe(), os.pipe(), os.pipe()

        def host() -> list[str]:
            pid = os.fork()
            if pid == 0:
                os.write(answer[1], " ".join(inside(tree, work)).encode())
                os._exit(0)
            os.read(ready[0], 1)
            granted(tree.path)
            os.write(go[1], b"x")
            os.waitpid(pid, 0)
            return os.read(answer[0], 100).decode().split()

        try:
            assert in_host(host) == ["EACCES", "ok", "ok", "EACCES"]
        finally:
            for fd in (*ready, *go, *answer):
                os.close(fd)

    def test_processes_that_come_later_and_cgroups_below(self, there: Place) -> None:
        """As `exec` into a container does; one beside it has nothing."""
        process = there.start()
        there.tree.make("below")
        there.ctl("grant", f"--pid={process.pid}", "--allow=tcp:80").ok()
        below = Place(there.host, there.tree, "below")
        assert there.many(80, 81) == ["ok", "EACCES"]
        assert below.many(80, 81) == ["ok", "EACCES"]
        assert there.host.plain(python(MANY, "80", "81")).out.split() == ["EACCES", "EACCES"]
        there.end(process)

    def test_a_stranger_with_a_passed_socket(self, tree: Tree) -> None:
        """The socket was made inside; who binds it is not, and is refused."""

        def host() -> list[str]:
            near, far = socket.socketpair()

            def work() -> str:
                with socket.socket() as passed, socket.socket() as own:
                    # Before the socket goes out: the grant was asked for meanwhile.
                    near.send(b"x")
                    near.recv(1)
                    socket.send_fds(near, [b"x"], [passed.fileno()])
                    near.recv(1)
                    return bind_to(own, 80)

            def stranger() -> str:
                become_nobody()
                _, (fd,), _, _ = socket.recv_fds(far, 1, 1)
                with socket.socket(fileno=fd) as found:
                    return bind_to(found, 80)

            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(writer, inside(tree, work).encode())
                os._exit(0)
            far.recv(1)
            granted(tree.path)
            far.send(b"x")
            refused = forked(stranger)
            far.send(b"x")
            os.waitpid(pid, 0)
            return [refused, os.read(reader, 100).decode()]

        assert in_host(host) == ["EACCES", "ok"]

    def test_another_network_namespace(self, tree: Tree) -> None:
        """The grant is for the one that the cgroup's processes were in."""

        def elsewhere() -> str:
            tree.enter()
            unshare(CLONE_NEWNET)
            become_nobody()
            return try_bind(80)

        def host() -> list[str]:
            def placed() -> list[str]:
                tree.enter()
                granted(tree.path)
                return [inside(tree, lambda: try_bind(80)), forked(elsewhere)]

            return forked(placed)

        assert in_host(host) == ["ok", "EACCES"]


class TestLimit:
    """-n counts over all that is in the cgroup."""

    def test_exact_over_8_processes_and_anew_when_granted_again(self, there: Place, programs: Path) -> None:
        process = there.start()
        procs = there.nobody([programs / "procs", "8", "50"])
        assert there.host.run(procs).lines == ["EACCES 400"]
        for limit in (7, 30):
            there.ctl("grant", f"--pid={process.pid}", "--allow=tcp:80", "-n", str(limit)).ok()
            found = there.host.run(procs)
            assert sorted(found.lines) == sorted([f"ok {limit}", f"EACCES {400 - limit}"]), found
            assert there.host.run(procs).lines == ["EACCES 400"]
        there.end(process)

    def test_granted_again_while_8_processes_bind(self, tree: Tree) -> None:
        """No bind slips through between one limit and the next: all together are no more than the limits' sum."""
        rounds, limit = 30, 20

        def host() -> tuple[int, int]:
            ready, answer = os.pipe(), os.pipe()
            stop = os.pipe()
            pids = []
            for number in range(8):
                pid = os.fork()
                if pid == 0:
                    os.close(stop[1])
                    tree.enter()
                    become_nobody()
                    os.write(ready[1], b"x")
                    done = 0
                    os.set_blocking(stop[0], False)
                    while True:
                        done += try_bind(80, f"127.0.{number}.1") == "ok"
                        try:
                            if os.read(stop[0], 1) == b"":
                                break
                        except BlockingIOError:
                            continue
                    os.write(answer[1], f"{done}\n".encode())
                    os._exit(0)
                pids.append(pid)
            for _ in pids:
                os.read(ready[0], 1)
            for _ in range(rounds):
                granted(tree.path, limit=limit)
            with place.of_directory(tree.path) as found:
                wait_for(lambda: grants_left(found.cgroup) == 0, "the last limit's end")
            os.close(stop[1])
            os.close(stop[0])
            for pid in pids:
                os.waitpid(pid, 0)
            os.close(answer[1])
            with os.fdopen(answer[0]) as file:
                return sum(map(int, file)), rounds * limit

        bound, most = in_host(host)
        assert limit <= bound <= most


def grants_left(target: Cgroup) -> int:
    """How many binds the limit on a cgroup leaves."""
    from privbind.inspect.grants import find

    (found,) = (grant for grant in find().grants if grant.place.endswith(target.path))
    assert found.left is not None
    return found.left


def test_revoke_under_load(there: Place) -> None:
    """A process that binds all the time is granted each one before, none after; what is bound stays, and serves."""
    keeper = there.start("import socket\nwith socket.socket() as s:\n" + "  print('up', flush=True)\n  input()\n"
                         "  s.bind(('127.0.0.1', 443))\n  s.listen()\n  print('bound', flush=True)\n"
                         "  s.accept()[0].sendall(b'served')\n")  # fmt: skip
    assert read_line(keeper) == "up\n"
    there.ctl("grant", f"--cgroup={there.path}", "--allow=tcp:80,tcp:443").ok()
    assert keeper.stdin is not None
    keeper.stdin.write("\n")
    keeper.stdin.flush()
    assert read_line(keeper) == "bound\n"
    loop = there.start(LOOP)
    assert read_line(loop) == "busy\n"
    there.ctl("revoke", f"--cgroup={there.path}").ok()
    assert int(read_line(loop)) >= 100
    ask = "import socket\nprint(socket.create_connection(('127.0.0.1', 443)).recv(10).decode())"
    assert there.host.plain(python(ask)).ok().out == "served\n"
    assert there.many(80, 443) == ["EACCES", "EACCES"]
    keeper.wait()
    loop.wait()


def test_reuse_port(there: Place) -> None:
    """Set on the ports named, on no others."""
    process = there.start()
    there.ctl("grant", f"--pid={process.pid}", "--allow=tcp:80-81", "-r", "80").ok()
    assert there.host.run(there.nobody(python(REUSE))).out.split() == ["1", "1", "0", "EADDRINUSE"]
    there.ctl("grant", f"--cgroup={there.path}", "--allow=tcp:80-81").ok()
    assert there.host.run(there.nobody(python(REUSE))).out.split() == ["0", "EADDRINUSE"] * 2
    there.end(process)


def test_ls_shows_it_and_its_path_revokes_it(there: Place) -> None:
    process = there.start()
    there.ctl("grant", f"--pid={process.pid}", "--allow=tcp:80", "--allow=udp:53", "-n5").ok()
    assert [tell(process, port) for port in (80, 81)] == ["ok", ASKED]
    (found,) = there.grants()
    assert found["since"]
    assert {name: found[name] for name in ("mechanism", "kind", "user", "pid", "command", "granted", "refused")} == {
        "mechanism": "bpf",
        "kind": "placed",
        "user": None,
        "pid": None,
        "command": None,
        "granted": 1,
        "refused": 1,
    }
    assert (found["rules"], found["limit"], found["left"]) == (["tcp:80", "udp:53"], 5, 4)
    (row,) = (line for line in there.ctl("ls").out.splitlines() if there.path in line)
    pid, via, user, *_, path = row.split()
    assert (pid, via, user, path) == ("-", "placed", "-", found["place"])
    there.ctl("revoke", "--cgroup", path).ok()
    assert there.grants() == []
    assert tell(process, 80) == ASKED
    there.end(process)


class TestControl:
    """systemd runs a unit's commands in UNIT/.control where the unit has Delegate=."""

    @pytest.mark.parametrize("way", ["self", "pid"])
    def test_its_parent_is_meant(self, there: Place, way: str) -> None:
        there.tree.make(".control")
        control = Place(there.host, there.tree, ".control")
        if way == "pid":
            process = control.start()
            there.ctl("grant", f"--pid={process.pid}", "--allow=tcp:80").ok()
            there.end(process)
        else:
            told = control.named("self", "grant", "--allow=tcp:80", pid=0).ok().out
            assert told == f"granted: cgroup '{there.path}' may bind tcp:80\n"
        assert there.many(80, 81) == ["ok", "EACCES"]
        assert control.grants() == []


class TestRefused:
    """Each with one line, the status 125, and nothing changed."""

    def refused(self, there: Place, *words: object, before: tuple[str, ...] = ()) -> str:
        found = there.ctl(*words, before=before)
        assert found.status == 125, found
        assert found.out == ""
        assert there.grants() == []
        return found.err

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("grant --self", "no rule says what may be bound"),
            ("grant --allow=tcp:80", "on which cgroup? none is named"),
            ("grant --self --pid=1 --allow=80", "on which cgroup? --pid and --self name two"),
            ("revoke", "on which cgroup? none is named"),
            ("grant --cgroup=/ --allow=80", "it is the root, which all processes share"),
            ("revoke --cgroup=/", "it is the root, which all processes share"),
            ("grant --cgroup=/nonexistent --allow=80", "cgroup '/nonexistent': there is no such cgroup"),
            ("grant --cgroup=/etc --allow=80", "cgroup '/etc': there is no such cgroup"),
            ("grant --cgroup=relative --allow=80", "cgroup 'relative': it is not named by a full path"),
            ("grant --cgroup=/../.. --allow=80", "it is not named by a full path"),
            ("grant --cgroup= --allow=80", "it is not named by a full path"),
            ("grant --pid=0 --allow=80", "--pid:"),
            ("grant --pid=-1 --allow=80", "--pid:"),
            ("grant --pid=one --allow=80", "--pid:"),
            ("grant --pid=99999999999999999999 --allow=80", "--pid:"),
            ("grant --pid=4194304 --allow=80", "process 4194304: there is no such process"),
            ("grant --self --allow=tcp:", "tcp:"),
            ("grant --self --allow=tcp:80 --allow=tcp:nosuch", "nosuch"),
            ("grant --self --allow=tcp:80 -n-1", "-n:"),
            ("grant --self --allow=tcp:80 -n", "option --binds needs a value"),
            ("grant --self --allow=tcp:80 -r x", "x"),
            ("grant --self --allow=tcp:80 word", "takes no argument, but got 'word'"),
            ("grant --self=yes --allow=tcp:80", "option --self takes no value"),
            ("revoke --self --allow=tcp:80", "revoke: unknown option --allow"),
        ],
    )
    def test_bad_input(self, there: Place, line: str, reason: str) -> None:
        assert reason in self.refused(there, *line.split())

    def test_a_cgroup_that_others_share(self, there: Place) -> None:
        """The line names the cgroup, which means all of them."""
        processes = [there.start() for _ in range(2)]
        told = self.refused(there, "grant", f"--pid={processes[0].pid}", "--allow=tcp:80")
        assert f"shares cgroup '{there.path}' with 1 other, {processes[1].pid} among them" in told
        (meant,) = re.findall(r"--cgroup (\S+)\)", told)
        there.ctl("grant", "--cgroup", meant, "--allow=tcp:80").ok()
        assert [tell(process, 80) for process in processes] == ["ok", "ok"]
        for process in processes:
            there.end(process)

    def test_an_empty_cgroup(self, there: Place) -> None:
        assert "has no process" in self.refused(there, "grant", f"--cgroup={there.path}", "--allow=tcp:80")

    def test_processes_in_two_network_namespaces(self, there: Place) -> None:
        first = there.start()
        second = there.host.popen(
            there.join(["unshare", "--net", *AS_NOBODY, *python(BIND_WHEN_TOLD)]), stdin=-1, stdout=-1
        )
        assert read_line(second) == "up\n"
        told = self.refused(there, "grant", f"--cgroup={there.path}", "--allow=tcp:80")
        assert "are in 2 network namespaces" in told
        for process in (first, second):
            there.end(process)

    def test_a_threaded_cgroup(self, there: Place) -> None:
        """And the one above, whose processes' threads are spread."""
        there.tree.make("threads")
        there.tree.write("threads/cgroup.type", "threaded")
        for path, kind in ((f"{there.path}/threads", "threaded"), (there.path, "domain threaded")):
            told = self.refused(there, "grant", f"--cgroup={path}", "--allow=tcp:80")
            assert f"cgroup '{path}': it is {kind}, so" in told

    def test_a_program_above_that_forbids(self, there: Place) -> None:
        there.tree.make("below")
        asm = Assembly("another's")
        asm.move(R0, 1)
        asm.exit()
        fd = bpf.load("another", bpf.INET6_BIND, asm.code({}))
        try:
            # Without BPF_F_ALLOW_MULTI, which `bpf.attach` always gives.
            bpf._call(bpf._PROG_ATTACH, bytearray(bpf._ATTACH.pack(there.tree.fd, fd, bpf.INET6_BIND, 0, 0)))
        finally:
            os.close(fd)
        below = Place(there.host, there.tree, "below")
        process = below.start()
        told = self.refused(below, "grant", f"--pid={process.pid}", "--allow=tcp:80")
        assert "has a bind program that forbids any other below (attach that one with BPF_F_ALLOW_MULTI)" in told
        below.end(process)

    def test_without_privileges(self, there: Place) -> None:
        process = there.start()
        told = self.refused(there, "grant", f"--pid={process.pid}", "--allow=tcp:80", before=tuple(AS_NOBODY))
        assert "CAP_" in told
        there.end(process)


class TestRaces:
    """A process that ends or moves between the steps: refused, or granted where it is in the end; never elsewhere."""

    def in_tree(self, tree: Tree, name: str = ".") -> int:
        """A process there; it ends when it is killed."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            tree.enter(name)
            os.write(writer, b"x")
            os.close(writer)
            while True:
                os.read(os.pipe()[0], 1)
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        os.close(reader)
        return pid

    def outcome(self, pid: int, target: Tree) -> tuple[str, dict[int, list[int]]]:
        """What granting for a process says, and what is on the cgroup then."""
        told = ""
        try:
            with place.of_process(pid) as found:
                grants.grant(found, a_grant("tcp:80"))
        except PrivbindError as error:
            told = str(error)
        with target.open() as opened:
            return told, placement.ours(opened)

    def end(self, pid: int) -> None:
        kill(pid)
        os.waitpid(pid, 0)

    @pytest.mark.parametrize("step", ["members", "_of_pid", "_site_in"])
    def test_it_ends(self, tree: Tree, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even where its number were another's at once, the pidfd tells."""
        pid = self.in_tree(tree)
        real = getattr(place, step)
        ended: list[bool] = []

        def ending(*given: Any) -> Any:
            found = real(*given)
            if not ended:
                ended.append(True)
                self.end(pid)
            return found

        monkeypatch.setattr(place, step, ending)
        told, there = self.outcome(pid, tree)
        assert ended
        assert re.search("has (just )?ended|there is no such process|cannot read /proc", told), told
        assert there == {}

    def test_its_number_is_another_processes(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pidfd is that of a process that has ended; the number leads to one in the same cgroup."""
        ended = self.in_tree(tree)
        pidfd = os.pidfd_open(ended)
        self.end(ended)
        other = self.in_tree(tree)
        monkeypatch.setattr(place, "_open_process", lambda _: os.dup(pidfd))
        told, there = self.outcome(other, tree)
        assert told == f"process {other} has ended"
        assert there == {}
        os.close(pidfd)
        self.end(other)

    def test_it_moves(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where it is found twice is where the grant goes."""
        tree.make("first")
        tree.make("second")
        pid = self.in_tree(tree, "first")
        real = place._of_pid
        moved: list[bool] = []

        def moving(number: int) -> Cgroup:
            found = real(number)
            if not moved:
                moved.append(True)
                tree.write("second/cgroup.procs", str(pid))
            return found

        monkeypatch.setattr(place, "_of_pid", moving)
        told, _ = self.outcome(pid, tree)
        assert told == ""
        with tree.open("first") as first, tree.open("second") as second:
            assert placement.ours(first) == {}
            assert placement.ours(second) != {}
        self.end(pid)

    def test_it_moves_late(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        """After its cgroup was found, it is refused."""
        pid = self.in_tree(tree)
        real = place._site_in

        def moving(number: int) -> Any:
            leave_for_top(pid, tree)
            return real(number)

        monkeypatch.setattr(place, "_site_in", moving)
        told, there = self.outcome(pid, tree)
        assert "has just ended or left cgroup" in told
        assert there == {}
        self.end(pid)

    def test_it_never_stops_moving(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        tree.make("first")
        tree.make("second")
        pid = self.in_tree(tree, "first")
        real = place._of_pid
        calls = []

        def moving(number: int) -> Cgroup:
            calls.append(number)
            tree.write(f"{('first', 'second')[len(calls) % 2]}/cgroup.procs", str(pid))
            return real(number)

        monkeypatch.setattr(place, "_of_pid", moving)
        told, _ = self.outcome(pid, tree)
        assert "moves from cgroup to cgroup (stop that, or name a cgroup with --cgroup)" in told
        self.end(pid)


def leave_for_top(pid: int, tree: Tree) -> None:
    """Move a process to where the test run is."""
    fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=tree._own.fd)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)


class TestLaunches:
    """A launch's grant is changed and revoked the same way, where a cgroup carries it."""

    def test_under_bpf(self, there: Place) -> None:
        """It stays that command's."""
        host = there.host
        process = host.start(python(BIND_WHEN_TOLD), "--via=bpf", "--allow=tcp:80", stdin=-1, stdout=-1)
        assert read_line(process) == "up\n"
        assert [tell(process, port) for port in (80, 81)] == ["ok", ASKED]
        there.ctl("grant", f"--pid={process.pid}", "--allow=tcp:81").ok()
        assert [tell(process, port) for port in (80, 81)] == [ASKED, "ok"]
        (found,) = (
            grant for grant in json.loads(there.ctl("ls", "--json").out)["grants"] if grant["pid"] == process.pid
        )
        assert (found["kind"], found["user"], found["rules"]) == ("launch", "nobody", ["tcp:81"])
        there.ctl("revoke", "--cgroup", found["place"]).ok()
        assert [tell(process, port) for port in (80, 81)] == [ASKED, ASKED]
        there.end(process)

    @pytest.mark.parametrize("command", ["grant", "revoke"])
    @pytest.mark.parametrize("mechanism", ["seccomp", "preload", "ambient"])
    def test_under_others(self, there: Place, mechanism: str, command: str) -> None:
        """One line says why not, and the grant stays as it was."""
        options = [] if mechanism == "ambient" else ["--allow=tcp:80"]
        process = there.host.start(python(BIND_WHEN_TOLD), f"--via={mechanism}", *options, stdin=-1, stdout=-1)
        assert read_line(process) == "up\n"
        found = there.ctl(command, f"--pid={process.pid}", *(["--allow=tcp:81"] if command == "grant" else []))
        assert found.status == 125
        assert f"process {process.pid} has its grant by {mechanism}, which keeps it in" in found.err
        assert tell(process, 80) == "ok"
        if mechanism != "ambient":
            assert tell(process, 81) == ASKED
        there.end(process)


def test_it_ends_with_the_cgroup(there: Place) -> None:
    """Nothing has to be revoked first."""
    there.tree.make("short")
    short = Place(there.host, there.tree, "short")
    process = short.start()
    short.ctl("grant", f"--pid={process.pid}", "--allow=tcp:80").ok()
    (found,) = short.grants()
    there.end(process)
    assert gone(process.pid)
    wait_for(lambda: "populated 0" in Path(short.directory, "cgroup.events").read_text(), "the end of the process")
    os.rmdir("short", dir_fd=there.tree.fd)
    there.tree.make("short")
    assert short.grants() == []
    process = short.start()
    assert tell(process, 80) == ASKED
    there.end(process)
    assert found["kind"] == "placed"
