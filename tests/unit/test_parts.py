"""What runs the parts of the tests: what it counts, and what makes it fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness.install import ROOT

Run = Callable[..., tuple[int, list[str]]]
PARTS = ROOT / "tools/parts.py"
TESTS = """
import pytest
def test_passes(): pass
@pytest.mark.parametrize("number", range(2))
def test_skipped(number): pytest.skip("no reason")
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A checkout with tests of one's own, and what its last lines are and how it ends."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/parts.py").write_bytes(PARTS.read_bytes())

    def run_parts(*arguments: str, **files: str) -> tuple[int, list[str]]:
        for name, text in files.items():
            file = tmp_path / "tests" / name / "test_it.py"
            file.parent.mkdir(parents=True)
            file.write_text(text)
        argv = [sys.executable, str(tmp_path / "tools/parts.py"), *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PRIVBIND"))}
        done = subprocess.run(argv, env=kept, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines() + done.stderr.splitlines()

    return run_parts


def test_the_sum_is_the_last_line(run: Run) -> None:
    """Over all parts, with the reasons of what was skipped before it; parts without tests are left out."""
    status, lines = run("unit", "standing", "root", unit=TESTS, root=TESTS)
    assert status == 0
    assert lines[-2:] == ["skipped, 4 of them: no reason", "2 passed, 0 failed, 4 skipped"]
    assert [line.split()[0] for line in lines[-5:-2]] == ["part", "unit", "root"]


@pytest.mark.parametrize(
    ("text", "counts", "told"),
    [
        ("def test_it(): assert False", "1 passed, 1 failed, 0 skipped", "test_it::test_it"),
        ("1 / 0", "1 passed, 1 failed, 0 skipped", ""),
        ("import os; os._exit(3)", "1 passed, 1 failed, 0 skipped", "status 3"),
        ("", "1 passed, 1 failed, 0 skipped", "status 5"),
    ],
)
def test_every_part_counts(run: Run, text: str, counts: str, told: str) -> None:
    """A test that fails, a file that cannot be read, a run that dies, and one that finds nothing."""
    status, lines = run("unit", "root", unit=text, root="def test_passes(): pass")
    assert (status, lines[-1]) == (1, counts)
    assert lines[-2].startswith("failed: unit: ")
    assert told in lines[-2]


def test_a_selection_may_leave_a_part_empty(run: Run) -> None:
    """With arguments for pytest, not every part has such a test."""
    status, lines = run("unit", "root", "--", "-k", "passes", unit=TESTS, root="def test_other(): pass")
    assert (status, lines[-1]) == (0, "1 passed, 0 failed, 0 skipped")


def test_a_part_has_its_time(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In CI it is interrupted when that is over, and has failed; the others are run all the same."""
    parts = tmp_path / "tools/parts.py"
    parts.write_text(parts.read_text().replace('"unit": Part(3', '"unit": Part(0.05'))
    endless = "import signal\ndef test_passes(): pass\ndef test_endless(): signal.pause()"
    monkeypatch.setenv("CI", "true")
    status, lines = run("unit", "root", unit=endless, root=TESTS)
    assert status == 1
    assert lines[-2] == "failed: unit: took too long"
    assert lines[-1].endswith(" 1 failed, 2 skipped")


def test_unknown_parts_are_refused(run: Run) -> None:
    """Least of all is one left out without a word."""
    status, lines = run("units")
    assert status == 2
    assert "The parts are: lint, c, unit, " in lines[-1]


def test_each_folder_of_tests_is_in_a_part() -> None:
    """Else it would never be run."""
    text = PARTS.read_text()
    for folder in {
        path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")
    }:
        assert f'"{folder}"' in text, folder
