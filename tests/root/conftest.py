"""Fixtures of the tests that need root: a host of one's own, and the programs that run on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Host, world_readable_folder

MATRIX: dict[str, dict[str, str]] = {}
"""What the servers × mechanisms test saw, printed at the end of a run."""

PROGRAMS = Path(__file__).parent.parent / "programs"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root, to make network namespaces."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root, to make network namespaces"))


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """The compiled test programs, in a folder that every user may enter."""
    with world_readable_folder() as folder:
        make = ["make", "--silent", f"--jobs={os.cpu_count()}", "-C", str(PROGRAMS), "all", "static", f"OUT={folder}"]
        if shutil.which("musl-gcc"):
            make.append("musl")
        subprocess.run(make, check=True)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def host(installed: Path) -> Iterator[Host]:
    """A network namespace of the test's own, with the installed privbind."""
    host = Host(installed)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter and write to."""
    with world_readable_folder() as found:
        yield found


def need(*commands: str) -> None:
    """Skip when a program that the test is about is not there; CI allows no such skip."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of servers and mechanisms, where it was tested."""
    if not MATRIX:
        return
    terminalreporter.section("servers × mechanisms")
    for name, cells in MATRIX.items():
        short = (f"{mechanism}: {told if told == 'pass' else 'not possible'}" for mechanism, told in cells.items())
        terminalreporter.line(f"{name:24} {'   '.join(short)}")
    for told in sorted({told for cells in MATRIX.values() for told in cells.values()} - {"pass"}):
        terminalreporter.line(f"not possible: {told}")
