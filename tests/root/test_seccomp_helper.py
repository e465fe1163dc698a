"""seccomp's helper and its backup: what they can do, the death of either, and kernels without thread pidfds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from privbind.linux import target

from ..harness.host import (
    BIND_WHEN_TOLD,
    HELPER_IDS,
    TIMEOUT_S,
    Host,
    Result,
    gone,
    python,
    read_line,
    status_of,
    table,
    tell,
    wait_for,
)
from ..harness.install import PYTHON
from ..harness.patience import fewer, period_us

VIA = "--via=seccomp"
DRIVER = Path(__file__).parent / "seccomp_driver.py"
HELPER_CAPABILITIES = 1 << 10 | 1 << 19

OPENS_THREADS = target.opens_threads()
"""Since Linux 6.9; before it the helper asks its backup what process a thread is in."""


def drive(host: Host, *words: str | Path) -> Result:
    """Run the driver."""
    return host.run([PYTHON, "-I", DRIVER, *words]).ok()


def both_of(process: subprocess.Popen[Any]) -> tuple[int, int]:
    """The helper and its backup, as `-v` names them."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"helper is process (\d+), its backup process (\d+)", line)
        if found:
            return int(found[1]), int(found[2])
    raise AssertionError("no helper was told of")


def begin(host: Host, argv: list[str], *options: str) -> tuple[subprocess.Popen[Any], int, int]:
    """A command that has started, its helper and its backup."""
    process = host.start(argv, VIA, "-v", *options, stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    return process, *both_of(process)


def end(*pids: int) -> None:
    """Kill these."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        wait_for(partial(gone, pid), "its end")


@pytest.mark.provokes_sigsys
@pytest.mark.parametrize("who", ["helper", "backup", "looker"])
def test_what_a_process_that_was_taken_over_cannot_do(host: Host, who: str) -> None:
    """Open a file, make a socket or a process, signal anybody, and more: it is killed when it tries.

    The backup that looks in /proc may read there, and only there.
    """
    found = dict(line.split(": ") for line in drive(host, "sandbox", who).lines)
    assert len(found) > 20
    if who == "looker":
        assert found.pop("look in /proc") == "did it"
        assert found.pop("open a file") == "errno 13"
        assert found.pop("write in /proc") == "errno 13"
        assert found.pop("make a file") == "errno 13"
    assert set(found.values()) == {"SIGSYS"}, found


def test_a_process_under_landlock_could_not_be_the_helper(host: Host) -> None:
    """Why looking in /proc is the backup's: Landlock lets nobody under it read a process that is not."""
    told = drive(host, "landlocked").lines
    if told == ["missing"]:
        pytest.skip("the kernel has no Landlock")
    assert told == ["1"]


def test_what_a_backup_is(host: Host) -> None:
    """Its ids, capabilities, flags and descriptors, as /proc tells them."""
    process, helper, backup = begin(host, python("print('up', flush=True); input()"))
    ours, helpers = status_of(backup), status_of(helper)
    assert ours["Name"].strip() == "privbind-backup"
    (number,) = {*ours["Uid"].split(), *ours["Gid"].split()}
    assert int(number) in HELPER_IDS
    assert set(ours["Uid"].split()).isdisjoint(helpers["Uid"].split())
    assert [int(ours[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")] == [0] * 5
    assert (ours["NoNewPrivs"].strip(), ours["Seccomp"].strip()) == ("1", "2")
    ignored = int(ours["SigIgn"], 16)
    assert all(ignored >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    descriptors = sorted(os.readlink(entry) for entry in Path(f"/proc/{backup}/fd").iterdir())
    assert descriptors[:4] == ["/dev/null"] * 3 + ["anon_inode:seccomp notify"]
    # Whose other end the helper holds; by a second one it is asked.
    assert [name.partition(":")[0] for name in descriptors[4:]] == ["socket"] * (1 if OPENS_THREADS else 2)
    process.communicate("\n")
    wait_for(lambda: gone(helper) and gone(backup), "the end of both")


def test_the_command_holds_nothing_of_it(host: Host) -> None:
    """Neither the listener nor what it was handed over by."""
    process, _, _ = begin(host, python("print('up', flush=True); input()"))
    descriptors = {int(entry.name) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
    assert descriptors == {0, 1, 2}
    process.communicate("\n")


class TestDeath:
    """Of the helper, of its backup, of both."""

    def test_of_the_helper_idle(self, host: Host) -> None:
        """Its backup goes on: reserved binds get EACCES, others work."""
        process, helper, backup = begin(host, python(BIND_WHEN_TOLD))
        assert tell(process, 80) == "ok"
        end(helper)
        assert [tell(process, port) for port in (80, 8080, 80, 8080)] == ["13", "ok", "13", "ok"]
        process.communicate("")
        wait_for(lambda: gone(backup), "the backup's end")

    def test_of_the_backup(self, host: Host) -> None:
        """The helper goes on alone, as far as it opens threads without asking, and ends with the command."""
        process, helper, backup = begin(host, python(BIND_WHEN_TOLD))
        end(backup)
        assert [tell(process, port) for port in (80, 8080)] == ["ok" if OPENS_THREADS else "13", "ok"]
        process.communicate("")
        wait_for(lambda: gone(helper), "the helper's end")

    def test_of_both(self, host: Host) -> None:
        """What is left then is the kernel's own answer, ENOSYS."""
        process, helper, backup = begin(host, python(BIND_WHEN_TOLD))
        end(backup, helper)
        assert [tell(process, port) for port in (80, 8080)] == ["38", "38"]
        process.communicate("")

    @pytest.mark.parametrize(
        ("when", "answers"),
        [("received", "13 ok 13"), ("decided", "98 ok 13"), ("answered", "98 ok 13"), ("asking", "13 ok 13")],
    )
    def test_with_a_request_in_its_hands(self, host: Host, when: str, answers: str) -> None:
        """The backup finds the request, and the answer where there was one: that bind ends, and so do later ones.

        Even where it was about to answer a question of the helper's.
        """
        assert drive(host, "dying", when).lines == [answers]

    @pytest.mark.parametrize("round_", range(10))
    @pytest.mark.parametrize("port", [80, 8080])
    def test_under_load(self, host: Host, programs: Path, port: int, round_: int) -> None:
        """Of 8 binding threads none hangs, no unreserved bind fails, and a reserved one gets EACCES at worst."""
        binds = fewer(1500)
        process = host.start(
            [programs / "threads", "8", str(binds), str(port)],
            VIA,
            "-v",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        helper, _ = both_of(process)
        before = worked(helper)
        wait_for(lambda: worked(helper) > before + round_ * STEP_NS, "some requests")
        os.kill(helper, signal.SIGKILL)
        out, _ = process.communicate(timeout=TIMEOUT_S)
        found = {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}
        refused = found.pop("EACCES", 0) if port < 1024 else 0
        assert found.pop("ok", 0) + refused == 8 * binds
        assert found == {}


STEP_NS = 1_500_000
"""How much longer the helper works from round to round: the last one ends it well before it has served all binds."""


def worked(pid: int) -> int:
    """How long a process has been running on a CPU, in nanoseconds (clock_getcpuclockid(3)). Raises OSError."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def test_after_the_last_bind_it_stays_without_capabilities(host: Host) -> None:
    """It has to answer the other binds; the backup has none anyway."""
    process, helper, backup = begin(host, python(BIND_WHEN_TOLD), "-n1")
    assert int(status_of(helper)["CapPrm"], 16) == HELPER_CAPABILITIES
    assert tell(process, 80) == "ok"
    wait_for(lambda: int(status_of(helper)["CapPrm"], 16) == 0, "the end of its capabilities")
    assert int(status_of(helper)["CapEff"], 16) == 0
    assert [tell(process, port) for port in (80, 8080)] == ["13", "ok"]
    end(helper)
    assert [tell(process, port) for port in (80, 8080)] == ["13", "ok"]
    process.communicate("")
    wait_for(lambda: gone(backup), "the backup's end")


def test_descriptors_do_not_pile_up(host: Host, programs: Path) -> None:
    """After binds by more processes than it remembers it holds a bounded number."""
    code = f"{programs}/procs 200 2 >&2; echo up; read x"
    process, helper, backup = begin(host, ["sh", "-c", code])
    assert len(list(Path(f"/proc/{helper}/fd").iterdir())) < 80
    assert len(list(Path(f"/proc/{backup}/fd").iterdir())) == (5 if OPENS_THREADS else 6)
    process.communicate("\n")


def test_with_few_descriptors(host: Host, programs: Path) -> None:
    """The helper inherits the command's limit of open files and lives within it."""
    argv = host.command([programs / "procs", "16", "50"], VIA)
    assert host.run(["sh", "-c", 'ulimit -n 12; exec "$@"', "sh", *argv]).ok().lines == ["ok 800"]


class TestWithoutThreadPidfds:
    """As on kernels before 6.9, where a thread that is not the first of its process cannot be opened."""

    def start(self, host: Host, *argv: str | Path) -> tuple[subprocess.Popen[Any], int, int]:
        """Start a command that way."""
        command = [PYTHON, "-I", DRIVER, "without-threads", *argv]
        process = host.popen(command, stdin=-1, stdout=-1, stderr=-1)
        return process, *both_of(process)

    @pytest.mark.parametrize(
        ("proc", "answer"),
        [
            ("true", "fits"),
            ("mount -t proc -o hidepid=1 proc /proc", "hidepid"),
            ("mount -t proc -o hidepid=2 proc /proc", "hidepid"),
            ("mount -t tmpfs none /proc", "hidepid"),
        ],
    )
    def test_refused_where_no_thread_can_be_looked_up(self, host: Host, proc: str, answer: str) -> None:
        """The backup is tried as it will be: without privileges, under ids of its own; the doctor says it."""
        prefix = ["unshare", "--mount", "sh", "-ec", f'{proc}; exec "$@"', "sh"]
        found = host.run([*prefix, PYTHON, "-I", DRIVER, "refused-without-threads"]).ok()
        said, doctor = found.lines
        assert said == doctor
        assert (said == "fits") is (answer == "fits")
        if answer != "fits":
            assert said.startswith("seccomp: cannot start privbind-backup: before Linux 6.9 threads are looked up")
            assert answer in said

    def test_threads_and_processes(self, host: Host, programs: Path) -> None:
        """Each bind is granted all the same, and the helper opens no file for it."""
        for program in ("threads", "procs"):
            process, helper, backup = self.start(host, programs / program, "8", "50")
            out, _ = process.communicate(timeout=TIMEOUT_S)
            assert out == "ok 400\n"
            wait_for(partial(gone, helper), "the helper's end")
            wait_for(partial(gone, backup), "its backup's end")

    def test_without_the_backup(self, host: Host) -> None:
        """Then nobody knows a thread's process: reserved binds get EACCES, others work."""
        process, _, backup = self.start(host, *python(BIND_WHEN_TOLD))
        assert read_line(process) == "up\n"
        assert tell(process, 80) == "ok"
        end(backup)
        assert [tell(process, port) for port in (80, 8080)] == ["13", "ok"]
        process.communicate("")

    def test_without_the_helper(self, host: Host) -> None:
        """The backup goes on."""
        process, helper, _ = self.start(host, *python(BIND_WHEN_TOLD))
        assert read_line(process) == "up\n"
        end(helper)
        assert [tell(process, port) for port in (80, 8080)] == ["13", "ok"]
        process.communicate("")


@pytest.mark.parametrize("kernel", ["repeating", "lying"])
def test_signals_where_binds_are_made_again(host: Host, programs: Path, kernel: str) -> None:
    """A bind that the helper is at is interrupted by a signal, comes a second time, and gets the same answer.

    As before Linux 5.19; and as after it, where the kernel says that there are no such signals, and then there are.
    """
    count = fewer(20000)
    found = table(drive(host, kernel, programs / "seccomp_signals", str(count), period_us(100)))
    assert int(found.pop("ticks")) > count // 100
    assert found == {"ok": str(count)}
