"""In CI a skipped test is a failed one, unless its reason is in the list."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ..harness.inner import run_inner

SKIPPED = "import pytest\n\n\ndef test_skipped():\n    pytest.skip('no such thing here')\n"
MODULE_SKIPPED = "import pytest\n\npytest.skip('no such thing here', allow_module_level=True)\n"
EXPECTED_FAILURE = "import pytest\n\n\n@pytest.mark.xfail\ndef test_fails():\n    assert False\n"
PASSED = "\n\ndef test_passed():\n    pass\n"


def run(folder: Path, test: str, allowed: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a test beside another one that passes."""
    return run_inner(folder, {"test_it": test, "test_other": PASSED}, allowed, **changes)


@pytest.mark.parametrize("test", [SKIPPED, MODULE_SKIPPED])
@pytest.mark.parametrize("variable", ["CI", "PRIVBIND_NO_SKIPS"])
def test_a_skip_fails_the_run_and_is_named(tmp_path: Path, test: str, variable: str) -> None:
    done = run(tmp_path, test, **{variable: "true"})
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "no such thing here" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_a_listed_reason_is_allowed(tmp_path: Path) -> None:
    assert run(tmp_path, SKIPPED, "no such thing here", CI="true").returncode == 0


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert run(tmp_path, EXPECTED_FAILURE, CI="true").returncode == 0


def test_elsewhere_a_skip_is_a_skip(tmp_path: Path) -> None:
    assert run(tmp_path, SKIPPED).returncode == 0


def test_a_variable_that_says_no_is_as_good_as_none(tmp_path: Path) -> None:
    assert run(tmp_path, SKIPPED, CI="false").returncode == 0
