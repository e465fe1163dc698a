"""A run of tests fails when a seccomp filter kills a process of it, but for tests that say that they do so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ..harness.forks import forked
from ..harness.inner import run_inner
from ..harness.seccomp_kills import MARKER, Reports, become_own_session, provoke

pytestmark = pytest.mark.provokes_sigsys

PLAIN = "def test_plain():\n    pass\n"
HEADING = f"killed by a seccomp filter, in tests that are not marked {MARKER}"


@pytest.fixture(autouse=True)
def hears() -> None:
    """Skip where this process may not hear of kills."""
    try:
        Reports().close()
    except OSError as error:
        pytest.skip(f"the kernel's reports of seccomp kills cannot be had: {error.strerror}")


def run(folder: Path, body: str, marker: str = "") -> subprocess.CompletedProcess[str]:
    """Run a test with this body, and another one before and after it."""
    lines = ["import os", "import pytest", "from tests.harness import seccomp_kills", "", marker, "def test_it():"]
    text = "\n".join([*lines, *(f"    {line}" for line in body.splitlines())]) + "\n"
    return run_inner(folder, {"test_before": PLAIN, "test_it": text, "test_that_follows": PLAIN})


ORPHAN = """
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        seccomp_kills.provoke()
        os.write(writer, b"x")
    os._exit(0)
os.wait()
assert os.read(reader, 1) == b"x"
"""
"""As a helper is started: nobody of the run is its parent when it dies."""

OF_OTHERS = """
child = os.fork()
if child == 0:
    before = open("/proc/self/sessionid").read()
    if seccomp_kills.become_own_session() != before:
        seccomp_kills.provoke()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("body", ["seccomp_kills.provoke()", ORPHAN], ids=["child", "orphan"])
def test_a_kill_fails_the_run_and_is_named(tmp_path: Path, body: str) -> None:
    done = run(tmp_path, body)
    assert "3 passed" in done.stdout, done
    assert HEADING in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if " sig=31 " in line)
    assert "tests/test_it.py::test_it" in line.partition(": audit(")[0]
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("body", ["seccomp_kills.provoke()", ORPHAN], ids=["child", "orphan"])
def test_one_that_is_provoked_on_purpose_does_not(tmp_path: Path, body: str) -> None:
    done = run(tmp_path, body, f"@pytest.mark.{MARKER}")
    assert "3 passed" in done.stdout, done
    assert HEADING not in done.stdout
    assert done.returncode == pytest.ExitCode.OK


def test_only_the_tests_that_are_marked_may_do_it(tmp_path: Path) -> None:
    """What comes right before or after one of them is told apart."""
    imports = "import pytest\nfrom tests.harness.seccomp_kills import provoke\n\n"
    unmarked = f"{imports}def test_it():\n    provoke()\n"
    marked = unmarked.replace("def", f"@pytest.mark.{MARKER}\ndef")
    done = run_inner(tmp_path, {"test_1": unmarked, "test_2": marked, "test_3": unmarked, "test_4": marked})
    assert "4 passed" in done.stdout, done
    assert len([line for line in done.stdout.splitlines() if " sig=31 " in line]) == 2
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_no_kill_no_failure(tmp_path: Path) -> None:
    done = run(tmp_path, "pass")
    assert "3 passed" in done.stdout, done
    assert done.returncode == pytest.ExitCode.OK


def test_processes_of_others_do_not_count(tmp_path: Path) -> None:
    """What has another audit session is none of the run's."""
    reports = Reports()
    done = run(tmp_path, OF_OTHERS)
    kills = reports.up_to_now()
    reports.close()
    assert done.returncode == pytest.ExitCode.OK, done
    own = {kill.value("ses") for kill in kills}
    assert len(own) >= 2, "there was no kill of another session that could have counted"


def test_a_failed_run_stays_failed(tmp_path: Path) -> None:
    done = run(tmp_path, "seccomp_kills.provoke()\nassert False")
    assert "1 failed" in done.stdout, done
    assert HEADING in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_more_of_them_than_the_log_prints_are_all_heard() -> None:
    """The log prints ten in five seconds. These are of another session than this run's."""
    reports = Reports()

    def kills() -> tuple[str, list[str]]:
        return become_own_session(), [provoke() for _ in range(40)]

    session, names = forked(kills)
    heard = [kill.value("comm") for kill in reports.up_to_now() if kill.value("ses") == session]
    reports.close()
    assert heard == names
