"""A grant's programs on a cgroup that exists: attached, replaced, detached, found again; each bind with a control."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import pytest

from privbind.errors import PrivbindError, UnsupportedError
from privbind.grant import record
from privbind.grant.grant import Grant
from privbind.linux import bpf
from privbind.linux.cgroup import Cgroup
from privbind.mechanisms.bpf import compiler, placement
from privbind.mechanisms.bpf.assembly import R0, Assembly

from ..harness.forks import become_nobody, forked, in_host, try_bind
from ..harness.host import wait_for
from ..harness.launches import Tree, a_grant, counters, here, holder, maps_of, program_exists
from ..harness.patience import fewer

pytestmark = pytest.mark.usefixtures("nothing_stays")

T = TypeVar("T")

HOOKS = tuple(compiler.NAMES)
BINDS = HOOKS[:2]
WITHOUT = ["EACCES", "EACCES", "EACCES", "ok"]
"""What `tries` gives without any grant."""


def tries() -> list[str]:
    """A bind of each family that the tests grant, one that they do not, and one of a port that is not reserved."""
    return [try_bind(80, "127.0.0.1"), try_bind(80, "::1"), try_bind(81, "127.0.0.1"), try_bind(8080, "127.0.0.1")]


def inside(tree: Tree, work: Callable[[], T]) -> T:
    """What ``work`` gives as nobody in the test's cgroup."""

    def there() -> T:
        tree.enter()
        become_nobody()
        return work()

    return forked(there)


def outside(work: Callable[[], T]) -> T:
    """What ``work`` gives as nobody where the test run is."""

    def beside() -> T:
        become_nobody()
        return work()

    return forked(beside)


@contextlib.contextmanager
def loaded(target: Cgroup, grant: Grant) -> Iterator[placement.Loaded]:
    """A grant's programs for a cgroup, in this network namespace."""
    site = here().in_cgroup(target.identity, target.depth, target.exact)
    text = record.encode(record.describe(grant, holder(), site, "bpf"))
    with placement.Loaded(grant, site, text) as programs:
        yield programs


def attach(target: Cgroup, grant: Grant) -> None:
    """Put a grant on a cgroup."""
    with loaded(target, grant) as programs:
        placement.attach(target, programs)


def replace(target: Cgroup, grant: Grant) -> None:
    """Put a grant on a cgroup in the place of what is there."""
    with loaded(target, grant) as programs:
        placement.replace(target, programs)


def there(target: Cgroup) -> dict[int, list[int]]:
    """All programs on a cgroup, by hook, whosever they are."""
    found = {hook: bpf.query(target.fd, hook)[1] for hook in HOOKS}
    return {hook: numbers for hook, numbers in found.items() if numbers}


def others_program(target: Cgroup, hook: int = bpf.INET4_BIND, name: str = "another") -> int:
    """Put a program on a cgroup that is none of ours and forbids nothing; its id."""
    asm = Assembly("another's")
    asm.move(R0, 1)
    asm.exit()
    fd = bpf.load(name, hook, asm.code({}))
    bpf.attach(target.fd, fd, hook)
    number = bpf.program_info(fd)[0]
    os.close(fd)
    return number


def test_the_control(tree: Tree) -> None:
    """In a cgroup without programs nobody binds a reserved port."""
    assert in_host(lambda: [inside(tree, tries), outside(tries)]) == [WITHOUT, WITHOUT]


class TestAttach:
    """Beside all that is there; all of it or nothing."""

    @pytest.mark.parametrize("limit", [0, 10])
    def test_inside_and_outside(self, tree: Tree, limit: int) -> None:
        """The grant is for processes in the cgroup, in this network namespace, and for what it says."""

        def host() -> list[list[str]]:
            with tree.open() as target:
                attach(target, a_grant("tcp:80", limit))
            return [inside(tree, tries), outside(tries), in_host(lambda: inside(tree, tries))]

        assert in_host(host) == [["ok", "ok", "EACCES", "ok"], WITHOUT, WITHOUT]

    def test_below(self, tree: Tree) -> None:
        """A cgroup below is inside, one beside it is not."""
        tree.make("a")
        tree.make("a/below")
        tree.make("beside")

        def host() -> list[str]:
            with tree.open("a") as target:
                attach(target, a_grant("tcp:80"))
            found = []
            for name in ("a", "a/below", "beside", "."):

                def work(name: str = name) -> str:
                    tree.enter(name)
                    become_nobody()
                    return try_bind(80)

                found.append(forked(work))
            return found

        assert in_host(host) == ["ok", "ok", "EACCES", "EACCES"]

    def test_grants_add_up(self, tree: Tree) -> None:
        """A second one takes nothing from the first."""

        def both() -> list[str]:
            return [try_bind(80), try_bind(81), try_bind(82)]

        def host() -> list[list[str]]:
            with tree.open() as target:
                found = [inside(tree, both)]
                for rule in ("tcp:80", "tcp:81"):
                    attach(target, a_grant(rule))
                    found.append(inside(tree, both))
            return found

        assert in_host(host) == [["EACCES"] * 3, ["ok", "EACCES", "EACCES"], ["ok", "ok", "EACCES"]]

    def test_it_stays_when_nobody_holds_it(self, tree: Tree) -> None:
        """With the process that attached it gone, and its descriptors."""

        def host() -> list[str]:
            def attached_by_another() -> None:
                with tree.open() as target:
                    attach(target, a_grant("tcp:80"))

            forked(attached_by_another)
            return inside(tree, tries)

        assert in_host(host) == ["ok", "ok", "EACCES", "ok"]

    @pytest.mark.parametrize("step", range(4))
    @pytest.mark.parametrize("call", ["attach", "effective"])
    def test_a_failure_leaves_what_was_there(
        self, tree: Tree, call: str, step: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At whichever hook: none of its programs stays, and another grant holds on."""
        real = getattr(bpf, call)
        seen: list[int] = []

        def failing(*of: int) -> object:
            seen.append(of[0])
            if len(seen) == 2 * step + 1 if call == "effective" else len(seen) == step + 1:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            return real(*of)

        def host() -> tuple[bool, list[str], str]:
            with tree.open() as target:
                attach(target, a_grant("tcp:81"))
                before = there(target)
                with loaded(target, a_grant("tcp:80", limit=5)) as programs, monkeypatch.context() as patch:
                    patch.setattr(bpf, call, failing)
                    told = ""
                    try:
                        placement.attach(target, programs)
                    except (PrivbindError, OSError) as error:
                        told = str(error)
                return before == there(target), inside(tree, tries), told

        same, found, told = in_host(host)
        assert same
        assert found == ["EACCES", "EACCES", "ok", "ok"]
        assert "Cannot allocate memory" in told

    def test_where_a_program_above_forbids_it(self, tree: Tree) -> None:
        """The refusal is one line that says what to do, and nothing is there."""
        tree.make("below")

        def host() -> tuple[str, dict[int, list[int]]]:
            asm = Assembly("another's")
            asm.move(R0, 1)
            asm.exit()
            fd = bpf.load("another", bpf.INET6_BIND, asm.code({}))
            # Without BPF_F_ALLOW_MULTI, which `bpf.attach` always gives.
            attributes = bpf._ATTACH.pack(tree.fd, fd, bpf.INET6_BIND, 0, 0)
            bpf._call(bpf._PROG_ATTACH, bytearray(attributes))
            with tree.open("below") as target:
                told = ""
                try:
                    attach(target, a_grant("tcp:80"))
                except UnsupportedError as error:
                    told = str(error)
                return told, there(target)

        told, left = in_host(host)
        assert "has a bind program that forbids any other below (attach that one with BPF_F_ALLOW_MULTI)" in told
        assert left == {}


class TestOurs:
    """What is found again."""

    @pytest.mark.parametrize(("limit", "hooks"), [(0, BINDS), (3, HOOKS)])
    def test_by_hook(self, tree: Tree, limit: int, hooks: tuple[int, ...]) -> None:
        """Each program is told by its hook; before and after there is none."""

        def host() -> None:
            with tree.open() as target:
                assert placement.ours(target) == {}
                attach(target, a_grant("tcp:80", limit))
                found = placement.ours(target)
                assert found == there(target)
                assert tuple(found) == hooks
                assert placement.detach(target) == len(hooks)
                assert placement.ours(target) == {}

        in_host(host)

    def test_programs_of_others_are_none_of_ours(self, tree: Tree) -> None:
        """Whatever hook they are on, and however close their names come to ours."""

        def host() -> None:
            with tree.open() as target:
                others = [others_program(target, name=name) for name in ("another", "privbind_bind", "privbind_bind6")]
                assert there(target) == {bpf.INET4_BIND: others}
                assert placement.ours(target) == {}
                attach(target, a_grant("tcp:80"))
                found = placement.ours(target)
                assert tuple(found) == BINDS
                assert all(len(numbers) == 1 for numbers in found.values())
                assert not set(found[bpf.INET4_BIND]) & set(others)

        in_host(host)

    def test_what_is_above_or_below_is_not_there(self, tree: Tree) -> None:
        tree.make("below")

        def host() -> None:
            with tree.open() as above, tree.open("below") as below:
                attach(above, a_grant("tcp:80"))
                assert placement.ours(below) == {}
                assert placement.detach(below) == 0
                assert tuple(placement.ours(above)) == BINDS

        in_host(host)


class TestDetach:
    """All of ours, and nothing else."""

    @pytest.mark.parametrize("limit", [0, 3])
    def test_binds_before_and_after(self, tree: Tree, limit: int) -> None:
        """How many programs they were; with two grants, those of both."""

        def host() -> list[object]:
            with tree.open() as target:
                attach(target, a_grant("tcp:80", limit))
                attach(target, a_grant("tcp:81"))
                before = inside(tree, tries)
                count = placement.detach(target)
                return [before, count, inside(tree, tries), there(target), placement.detach(target)]

        hooks = len(HOOKS if limit else BINDS) + len(BINDS)
        assert in_host(host) == [["ok", "ok", "ok", "ok"], hooks, WITHOUT, {}, 0]

    def test_what_is_bound_stays_bound(self, tree: Tree) -> None:
        """And serves; the same port cannot be bound anew."""

        def host() -> list[str]:
            with tree.open() as target:
                attach(target, a_grant("tcp:80"))

                def work() -> list[str]:
                    held: list[socket.socket] = []
                    first = try_bind(80, "127.0.0.1", held=held)
                    held[0].listen()
                    os.write(ready[1], b"x")
                    os.read(go[0], 1)
                    with socket.create_connection(("127.0.0.1", 80)) as client:
                        held[0].accept()[0].sendall(b"served")
                        served = client.recv(100).decode()
                    return [first, served, try_bind(80, "127.0.0.2")]

                ready, go, answer = os.pipe(), os.pipe(), os.pipe()
                pid = os.fork()
                if pid == 0:
                    os.write(answer[1], " ".join(inside(tree, work)).encode())
                    os._exit(0)
                os.read(ready[0], 1)
                placement.detach(target)
                os.write(go[1], b"x")
                os.waitpid(pid, 0)
                return os.read(answer[0], 100).decode().split()

        assert in_host(host) == ["ok", "served", "EACCES"]

    def test_programs_of_others_stay(self, tree: Tree) -> None:
        def host() -> None:
            with tree.open() as target:
                others = {hook: [others_program(target, hook)] for hook in HOOKS}
                attach(target, a_grant("tcp:80", limit=1))
                assert placement.detach(target) == len(HOOKS)
                assert there(target) == others

        in_host(host)

    def test_the_kernel_lets_the_programs_go(self, tree: Tree) -> None:
        def host() -> None:
            with tree.open() as target:
                attach(target, a_grant("tcp:80", limit=1))
                numbers = [number for numbers in placement.ours(target).values() for number in numbers]
                assert all(map(program_exists, numbers))
                placement.detach(target)
                wait_for(lambda: not any(map(program_exists, numbers)), "the end of the programs")

        in_host(host)


class Loop(NamedTuple):
    """What a process saw that binds one port over and over."""

    binds: int
    refused: list[str]


@contextlib.contextmanager
def binding(tree: Tree, port: int, outcome: list[Loop]) -> Iterator[Callable[[], int]]:
    """A process in the cgroup that binds a port all the time; what comes tells how often it has done so.

    At the end what it saw is in ``outcome``.
    """
    count = mmap.mmap(-1, mmap.PAGESIZE)
    stop, answer = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        tree.enter()
        become_nobody()
        refused = []
        binds = 0
        while not select.select([stop[0]], [], [], 0)[0]:
            found = try_bind(port, ("127.0.0.1", "::1")[binds % 2])
            if found != "ok":
                refused.append(found)
            binds += 1
            count[:8] = struct.pack("=Q", binds)
        os.write(answer[1], f"{binds} {' '.join(refused[:100])}".encode())
        os._exit(0)
    try:
        yield lambda: int(struct.unpack("=Q", count[:8])[0])
    finally:
        os.write(stop[1], b"x")
        os.waitpid(pid, 0)
        binds_text, *told = os.read(answer[0], 1 << 16).decode().split()
        outcome.append(Loop(int(binds_text), told))
        for fd in (*stop, *answer):
            os.close(fd)
        count.close()


def wait_for_bind(bound: Callable[[], int]) -> None:
    """Wait until one has been made that began after now."""
    before = bound()
    wait_for(lambda: bound() > before + 1, "another bind")


@contextlib.contextmanager
def asked(tree: Tree) -> Iterator[Callable[[int], str]]:
    """A process in the cgroup that binds what it is asked to; what comes asks it."""
    here_end, there_end = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here_end.close()
        tree.enter()
        become_nobody()
        while port := there_end.recv(2):
            there_end.send(try_bind(int.from_bytes(port, "big"), "127.0.0.1").encode())
        os._exit(0)
    there_end.close()

    def ask(port: int) -> str:
        here_end.send(port.to_bytes(2, "big"))
        return here_end.recv(100).decode()

    try:
        yield ask
    finally:
        here_end.close()
        os.waitpid(pid, 0)


class TestReplace:
    """From one grant to another without a moment in between."""

    ROUNDS = fewer(200) // 2 * 2

    @pytest.mark.parametrize(
        "limits", [(0, 0), (0, 1_000_000), (1_000_000, 900_000)], ids=["no limit", "with and without", "limits"]
    )
    def test_what_both_grant_is_never_refused(self, tree: Tree, limits: tuple[int, int]) -> None:
        """200 times, while a process binds all the time; each time what the one or the other alone grants changes."""

        def host() -> tuple[Loop, list[tuple[str, str, int]]]:
            outcome: list[Loop] = []
            seen = []
            with tree.open() as target:
                grants = [a_grant("80,tcp:81", limits[0]), a_grant("tcp:82,tcp:80", limits[1])]
                attach(target, grants[1])
                with asked(tree) as ask, binding(tree, 80, outcome) as bound:
                    for number in range(self.ROUNDS):
                        wait_for_bind(bound)
                        replace(target, grants[number % 2])
                        seen.append((ask(81), ask(82), len(placement.ours(target))))
            return outcome[0], seen

        loop, seen = in_host(host)
        hooks = [len(HOOKS if limit else BINDS) for limit in limits]
        assert seen == [("ok", "EACCES", hooks[0]), ("EACCES", "ok", hooks[1])] * (self.ROUNDS // 2)
        assert loop.binds >= self.ROUNDS
        assert loop.refused == []

    def test_the_control_of_the_loop(self, tree: Tree) -> None:
        """Detached and attached again instead, the process is refused: it would have seen a gap."""

        def host() -> Loop:
            outcome: list[Loop] = []
            with tree.open() as target:
                attach(target, a_grant("80"))
                with binding(tree, 80, outcome) as bound:
                    placement.detach(target)
                    wait_for_bind(bound)
                    attach(target, a_grant("80"))
            return outcome[0]

        assert set(in_host(host).refused) == {"EACCES"}

    @pytest.mark.parametrize("limits", [(0, 0), (0, 500), (500, 0), (500, 600)], ids=str)
    def test_a_failure_leaves_all_as_it_was(
        self, tree: Tree, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int]
    ) -> None:
        """Whichever step fails: the programs from before are there, and no others."""
        real: dict[str, Callable[..., None]] = {"replace": bpf.replace, "attach": bpf.attach}
        steps = [0]

        def failing(name: str, at: int) -> Callable[..., None]:
            def call(*arguments: int) -> None:
                steps[0] += 1
                if steps[0] == at:
                    raise OSError(errno.ENOMEM, "Cannot allocate memory")
                real[name](*arguments)

            return call

        def host() -> list[tuple[bool, bool]]:
            seen = []
            told = []
            with tree.open() as target:
                attach(target, a_grant("tcp:80", limits[0]))
                before = there(target)
                for at in range(1, 6):
                    steps[0] = 0
                    for name in real:
                        monkeypatch.setattr(bpf, name, failing(name, at))
                    try:
                        replace(target, a_grant("tcp:81", limits[1]))
                    except PrivbindError as error:
                        told.append(str(error))
                        seen.append((there(target) == before, inside(tree, tries) == ["ok", "ok", "EACCES", "ok"]))
                    else:
                        seen.append((there(target) == before, False))
                        break
            for line in told:
                assert line.startswith(("cannot replace the program on cgroup '", "cannot put a program on cgroup '"))
                assert line.endswith("Cannot allocate memory")
            return seen

        *failed, succeeded = in_host(host)
        assert failed == [(True, True)] * (4 if limits[1] else 2)
        assert succeeded == (False, False)

    def test_where_nothing_of_ours_is(self, tree: Tree) -> None:
        """Then it is attached."""

        def host() -> list[object]:
            with tree.open() as target:
                other = others_program(target)
                before = inside(tree, tries)
                replace(target, a_grant("tcp:80", limit=3))
                hooks = {hook: len(numbers) for hook, numbers in placement.ours(target).items()}
                return [before, inside(tree, tries), hooks, other in there(target)[bpf.INET4_BIND]]

        assert in_host(host) == [WITHOUT, ["ok", "ok", "EACCES", "ok"], dict.fromkeys(HOOKS, 1), True]

    def test_two_grants_become_one(self, tree: Tree) -> None:
        """All of ours are replaced, however many they are."""

        def host() -> list[object]:
            with tree.open() as target:
                attach(target, a_grant("tcp:80", limit=3))
                attach(target, a_grant("tcp:82"))
                before = inside(tree, lambda: [try_bind(80), try_bind(81), try_bind(82)])
                replace(target, a_grant("tcp:81"))
                after = inside(tree, lambda: [try_bind(80), try_bind(81), try_bind(82)])
                return [before, after, {hook: len(numbers) for hook, numbers in there(target).items()}]

        expected = [["ok", "EACCES", "ok"], ["EACCES", "ok", "EACCES"], dict.fromkeys(BINDS, 1)]
        assert in_host(host) == expected

    def test_record_and_counters_are_the_new_grants(self, tree: Tree) -> None:
        """They begin anew, and so does the limit."""

        def host() -> list[object]:
            def many() -> list[str]:
                return [try_bind(80), try_bind(80), try_bind(80)]

            found: list[object] = []
            with tree.open() as target:
                attach(target, a_grant("tcp:80", limit=2))
                for limit in (2, 1):
                    replace(target, a_grant("tcp:80", limit=limit))
                    said = dict(record.decode(maps_of(target.fd)[record.NAME]))
                    found += [counters(target.fd), said["grant"], inside(tree, many), counters(target.fd)]
            return found

        fresh = {"granted": 0, "refused": 0, "bound": 0}
        assert in_host(host) == [
            fresh,
            b"tcp:80; at most 2 binds",
            ["ok", "ok", "EACCES"],
            {"granted": 2, "refused": 1, "bound": 2},
            fresh,
            b"tcp:80; at most 1 binds",
            ["ok", "EACCES", "EACCES"],
            {"granted": 1, "refused": 2, "bound": 1},
        ]

    def test_a_limit_that_goes(self, tree: Tree) -> None:
        """Used up before, it holds nobody any more."""

        def host() -> list[list[str]]:
            def many() -> list[str]:
                return [try_bind(80), try_bind(80), try_bind(81)]

            with tree.open() as target:
                attach(target, a_grant("tcp:80", limit=1))
                limited = inside(tree, many)
                replace(target, a_grant("tcp:80"))
                return [limited, inside(tree, many)]

        assert in_host(host) == [["ok", "EACCES", "EACCES"], ["ok", "ok", "EACCES"]]
