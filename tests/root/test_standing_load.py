"""Loading standing grants: all or nothing, whatever happens meanwhile, and nothing of anybody else's is touched."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from privbind.account import Account, become
from privbind.errors import PrivbindError
from privbind.linux import bpf
from privbind.standing import load, program

from ..harness.budget import rounds
from ..harness.cases import Bind
from ..harness.forks import forked, try_bind
from ..harness.standing import ALICE, BOB, StandingHost, foreign_program, put

FAMILIES = ("127.0.0.1", "::1")
OURS = [[name] for name in program.NAMES.values()]
NOTHING: list[list[str]] = [[], []]


def may(ports: tuple[int, ...], user: int = ALICE) -> dict[int, set[str]]:
    """What binds of these ports give a user, in both families; inside only."""

    def work() -> dict[int, set[str]]:
        become(Account(user, user, ()))
        return {port: {try_bind(port, address) for address in FAMILIES} for port in ports}

    return forked(work)


OLD, NEW = {80: {"ok"}, 81: {"ok"}, 82: {"EACCES"}}, {80: {"ok"}, 81: {"EACCES"}, 82: {"ok"}}
NONE = {80: {"EACCES"}, 81: {"EACCES"}, 82: {"EACCES"}}
PORTS = (80, 81, 82)


def test_a_load_of_the_same_changes_nothing(standing: StandingHost, programs: Path) -> None:
    """And says so: what is in force was loaded when it was, and goes on counting."""
    standing.write('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    first = standing.ctl("load").ok()
    assert first.out == "loaded: grants for 1 user and 0 groups are in force\n"

    def ids() -> list[list[int]]:
        return [bpf.query(standing.tree.fd, hook)[1] for hook in program.NAMES]

    before = standing.inside(ids)
    assert standing.binds("alice", programs / "trybind", Bind("tcp", "4", "127.0.0.1", 80)) == ["ok"]
    for _ in range(2):
        again = standing.ctl("load").ok()
        assert again.out == "nothing has changed: grants for 1 user and 0 groups are in force\n"
    assert standing.inside(ids) == before
    assert standing.programs() == OURS
    standing.write('[[grant]]\nuser = "alice"\nallow = "tcp:81"\n')
    assert standing.ctl("load").ok().out.startswith("loaded: ")
    assert standing.inside(ids) == before, "the programs are the same, and stay"
    assert standing.binds("alice", programs / "trybind", Bind("tcp", "4", "127.0.0.1", 81)) == ["ok"]
    assert standing.binds("alice", programs / "trybind", Bind("tcp", "4", "127.0.0.1", 80)) == ["EACCES"]


def test_counters_survive_a_load(standing: StandingHost) -> None:
    """Of a holder who is in both sets; another one begins at 0."""

    def run() -> list[dict[bytes, int]]:
        found = []
        with standing.target() as target:
            for rules, user in (("tcp:80", ALICE), ("tcp:80-81", ALICE), ("tcp:80", BOB)):
                put(target, rules, user)
                may((80,), user)
                state = load.in_force(target)
                assert state is not None
                found.append({key: held.granted for key, held in state.holders.items()})
        return found

    assert [list(counts.values()) for counts in standing.inside(run)] == [[2], [4], [2]]


def test_only_below_the_cgroup(standing: StandingHost, programs: Path) -> None:
    """With --cgroup the grants are for sockets that are made there or below, before the load or after it."""
    standing.load('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    bind = Bind("tcp", "4", "127.0.0.1", 80)
    argv = list(map(str, standing.words_as("alice", [programs / "trybind", *bind.words()])))
    inside = standing.run(argv)
    assert inside.lines[0].startswith("ok ")
    standing.tree.make("below")
    below = standing.run(["sh", "-ec", f'echo 0 > {standing.cgroup}/below/cgroup.procs; exec "$@"', "sh", *argv])
    assert below.lines[0].startswith("ok "), below
    own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    mounted = standing.cgroup.removesuffix(standing.tree.path)
    outside = standing.run(["sh", "-ec", f'echo 0 > {mounted}{own}/cgroup.procs; exec "$@"', "sh", *argv])
    assert outside.lines == ["EACCES"]


def test_a_socket_that_was_there_before_the_load(standing: StandingHost) -> None:
    def run() -> tuple[str, str]:
        sock = socket.socket()
        with standing.target() as target:
            put(target, "tcp:80")

        def work(port: int) -> Callable[[], str]:
            def bind() -> str:
                become(Account(ALICE, ALICE, ()))
                try:
                    sock.bind(("127.0.0.1", port))
                except PermissionError:
                    return "EACCES"
                return "ok"

            return bind

        return forked(work(81)), forked(work(80))

    assert standing.inside(run) == ("EACCES", "ok")


class Killed:
    """A child that loads, and is killed before or after one of its system calls."""

    def __init__(self, target: load.Target, number: int, *, after: bool) -> None:
        """Kill it at its call with this number, from 0. ``ended``: it made fewer, and the load was done."""
        pid = os.fork()
        if pid == 0:
            real = bpf._call
            calls = itertools.count()

            def call(command: int, attributes: bytearray) -> int:
                place = next(calls)
                if place == number and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return real(command, attributes)
                finally:
                    if place == number:
                        os.kill(os.getpid(), signal.SIGKILL)

            bpf._call = call
            with contextlib.suppress(BaseException):
                put(target, "tcp:80,tcp:82")
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        self.ended = os.WIFEXITED(status)
        assert not self.ended or os.WEXITSTATUS(status) == 0


def another_version(target: load.Target) -> None:
    """Load the old set with programs and a slot as an earlier version of privbind might have made them."""

    def work() -> None:
        program.SLOT = "privbind_slot0"
        put(target, "tcp:80-81")

    forked(work)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("first", ["nothing", "the old set", "an unloaded one"])
def test_a_load_that_is_killed_at_any_system_call(standing: StandingHost, first: str, after: bool) -> None:
    """What is in force then is the old set or the new one, for both families; and the next load mends everything."""

    def run() -> list[int]:
        with standing.target() as target:
            seen = [0, 0]
            number = 0
            while True:
                if first != "nothing":
                    put(target, "tcp:80-81")
                if first != "the old set":
                    load.unload(target)
                ended = Killed(target, number, after=after).ended
                found = may(PORTS)
                assert found in (NONE if first != "the old set" else OLD, NEW), (number, found)
                seen[found == NEW] += 1
                # The next load is of something that is not in force either way.
                assert put(target, "tcp:82")
                assert may(PORTS) == NONE | {82: {"ok"}}
                assert load.unload(target)
                assert may(PORTS) == NONE
                if ended:
                    return seen
                number += 1

    before, since = standing.inside(run)
    assert before > 5
    assert since >= 1
    assert standing.programs() == NOTHING


def test_a_load_over_another_version_that_is_killed(standing: StandingHost) -> None:
    """Each family has the old set or the new one, never none; and the next load mends everything."""

    def run() -> int:
        with standing.target() as target:
            number = 0
            while True:
                another_version(target)
                assert may(PORTS) == OLD
                ended = Killed(target, number, after=False).ended
                found = may(PORTS)
                assert found[80] == {"ok"}, (number, found)
                assert put(target, "tcp:82")
                assert may(PORTS) == NONE | {82: {"ok"}}
                load.unload(target)
                if ended:
                    return number
                number += 1

    assert standing.inside(run) > 10
    assert standing.programs() == NOTHING


def test_kills_at_random_moments(standing: StandingHost) -> None:
    """Not only between system calls. What is in force is the old set or the new one."""

    def run() -> set[bool]:
        chance = random.Random(1)
        seen = set()
        with standing.target() as target:
            for number in range(rounds(20, 200)):
                put(target, "tcp:80-81")
                pid = os.fork()
                if pid == 0:
                    with contextlib.suppress(BaseException):
                        put(target, "tcp:80,tcp:82")
                    os._exit(0)
                # A pidfd becomes readable at the end of the process: the kill comes then or after that long.
                pidfd = os.pidfd_open(pid)
                select.select([pidfd], [], [], chance.random() * (0.03 if number % 2 else 0.3))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(pidfd)
                found = may(PORTS)
                assert found in (OLD, NEW), found
                seen.add(found == NEW)
                put(target, "tcp:82")
                assert may(PORTS) == NONE | {82: {"ok"}}
        return seen

    assert standing.inside(run)
    assert standing.programs() == OURS


def test_two_loads_at_once(standing: StandingHost) -> None:
    """One of them is last: what is in force is the whole of the one or of the other."""

    def run() -> set[bool]:
        seen = set()
        with standing.target() as target:
            for number in range(rounds(20, 200)):
                reader, writer = os.pipe()
                pids = []
                for rules in ("tcp:80-81", "tcp:80,tcp:82"):
                    pids.append(os.fork())
                    if pids[-1] == 0:
                        os.close(writer)
                        os.read(reader, 1)  # until all have started
                        try:
                            put(target, rules)
                        except PrivbindError:
                            os._exit(1)
                        os._exit(0)
                os.close(reader)
                os.close(writer)
                assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
                found = may(PORTS)
                assert found in (OLD, NEW), found
                seen.add(found == NEW)
                if number % 2:
                    load.unload(target)
        return seen

    assert standing.inside(run)
    assert standing.ctl("unload").status == 0
    assert standing.programs() == NOTHING


def test_binds_during_loads(standing: StandingHost) -> None:
    """One that both sets grant is never refused, however often one takes the place of the other."""

    def run() -> tuple[int, set[str]]:
        with standing.target() as target:
            put(target, "tcp:80-81")
            ready, ours = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                try:
                    become(Account(ALICE, ALICE, ()))
                    count, seen = 0, set()
                    while not select.select([ready], [], [], 0)[0]:
                        seen |= {try_bind(80, address) for address in FAMILIES}
                        count += 1
                    ready.send(f"{count} {' '.join(seen)}".encode())
                finally:
                    os._exit(0)
            for number in range(rounds(100, 1000)):
                assert put(target, "tcp:80,tcp:82" if number % 2 == 0 else "tcp:80-81")
            ours.send(b"x")
            number_told, *told = ours.recv(100).decode().split()
            os.waitpid(pid, 0)
            assert may((80,), BOB) == {80: {"EACCES"}}
            return int(number_told), set(told)

    count, seen = standing.inside(run)
    assert seen == {"ok"}
    assert count > 100


def test_another_program_on_the_same_cgroup_stays(standing: StandingHost) -> None:
    """Beside ours, after a load and after unload; it runs as well."""

    def run() -> None:
        fd = foreign_program()
        bpf.attach(standing.tree.fd, fd, bpf.INET4_BIND)
        with standing.target() as target:
            put(target, "tcp:80-81")
            assert standing.programs() == [["somebody_elses", "privbind_user4"], ["privbind_user6"]]
            assert may(PORTS) == OLD
            assert load.unload(target)
            assert standing.programs() == [["somebody_elses"], []]
            assert may(PORTS) == NONE
            assert not load.unload(target)
        assert standing.programs() == [["somebody_elses"], []]

    standing.inside(run)


def test_programs_of_another_version_are_replaced(standing: StandingHost) -> None:
    """In their place, with what is loaded; of the same version they are let be."""

    def run() -> None:
        with standing.target() as target:
            another_version(target)
            assert may(PORTS) == OLD
            assert standing.programs() == OURS
            assert put(target, "tcp:80,tcp:82")
            assert may(PORTS) == NEW
            assert standing.programs() == OURS
            state = load.in_force(target)
            assert state is not None
            assert not put(target, "tcp:80,tcp:82")

    standing.inside(run)


def test_a_family_that_lost_its_program_gets_it_back(standing: StandingHost) -> None:
    """Somebody took one of them off: the same load, which would change nothing, mends it."""

    def run() -> None:
        with standing.target() as target:
            put(target, "tcp:80-81")
            (number,) = bpf.query(standing.tree.fd, bpf.INET6_BIND)[1]
            fd = bpf.open_program(number)
            bpf.detach(standing.tree.fd, fd, bpf.INET6_BIND)
            os.close(fd)
            assert may((80,)) == {80: {"ok", "EACCES"}}
            state = load.in_force(target)
            assert state is not None
            assert not state.complete
            assert put(target, "tcp:80-81")
            assert may(PORTS) == OLD

    standing.inside(run)
