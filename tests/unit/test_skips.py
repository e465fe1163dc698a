"""In CI a skipped test is a failed one, unless its reason is in the list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
SKIPPED = "import pytest\n\n\ndef test_skipped():\n    pytest.skip('no such thing here')\n"
MODULE_SKIPPED = "import pytest\n\npytest.skip('no such thing here', allow_module_level=True)\n"
EXPECTED_FAILURE = "import pytest\n\n\n@pytest.mark.xfail\ndef test_fails():\n    assert False\n"
PASSED = "\n\ndef test_passed():\n    pass\n"


def run(folder: Path, test: str, allowed: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a test with our conftest."""
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (folder / "allowed-skips.txt").write_text(f"# comment\n{allowed}\n")
    (folder / "test_it.py").write_text(test)
    (folder / "test_other.py").write_text(PASSED)
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "PRIVBIND_NO_SKIPS"}}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(
        command, cwd=folder, env=environment | changes, capture_output=True, text=True, timeout=60, check=False
    )


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
    assert run(tmp_path, SKIPPED, CI="false").returncode == 0
