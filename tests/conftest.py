# SPDX-License-Identifier: MIT
"""What all tests share: the installed privbind, and the rule that CI skips nothing unseen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534


def world_python() -> str:
    """A Python that every user can run, which one in somebody's home is not. PRIVBIND_TEST_PYTHON names another."""
    if wanted := os.environ.get("PRIVBIND_TEST_PYTHON"):
        return wanted
    for python in ("/usr/bin/python3", os.path.realpath(sys.executable)):
        new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
        if os.path.exists(python) and subprocess.run([python, "-c", new_enough], check=False).returncode == 0:
            return python
    raise RuntimeError("no Python from 3.11 on: name one with PRIVBIND_TEST_PYTHON")


def world_readable_folder(name: str) -> Path:
    """A new folder under /tmp that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"privbind-{name}-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


def install(wheel: Path, venv: Path, python: str | None = None) -> Path:
    """Install a wheel into a new virtual environment and return its `privbind`."""
    subprocess.run([python or world_python(), "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin/python3"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return venv / "bin/privbind"


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel under test: what PRIVBIND_WHEEL names, or one built now."""
    if given := os.environ.get("PRIVBIND_WHEEL"):
        return Path(given).resolve()
    subprocess.run(["make", "--silent", "-C", ROOT, "wheel"], check=True, stdout=subprocess.DEVNULL)
    (built,) = (ROOT / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The installed command: what PRIVBIND_COMMAND names, or `privbind` in a new virtual environment for all users."""
    if given := os.environ.get("PRIVBIND_COMMAND"):
        yield Path(given)
        return
    folder = world_readable_folder("installed")
    yield install(request.getfixturevalue("wheel"), folder / "venv")
    shutil.rmtree(folder)


def pytest_configure(config: pytest.Config) -> None:
    """In CI (CI or PRIVBIND_NO_SKIPS set), a skip whose reason is not in allowed-skips.txt fails the run."""
    strict = any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "PRIVBIND_NO_SKIPS"))
    if strict and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_NoSkips(), "privbind-no-skips")


class _NoSkips:
    def __init__(self) -> None:
        lines = (Path(__file__).parent / "allowed-skips.txt").read_text().splitlines()
        self._allowed = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
        self._refused: list[str] = []

    def _look_at(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            assert isinstance(report.longrepr, tuple)
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if reason not in self._allowed:
                self._refused.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look_at(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look_at(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._refused:
            terminalreporter.section("skipped, which this run does not allow (tests/allowed-skips.txt)", red=True)
            for line in self._refused:
                terminalreporter.line(line)
