"""Fixtures of the tests that need root: a host of one's own, and the programs that run on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from privbind.linux import cgroup
from privbind.mechanisms.bpf import own_cgroup

from ..harness.host import Host, wait_for
from ..harness.install import PROGRAMS, world_readable_folder
from ..harness.launches import Tree, leftover
from ..harness.matrix import MATRIX
from ..harness.needs import skip_without_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root."""
    skip_without_root(items, Path(__file__).parent, "to make network namespaces")


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """The compiled test programs, in a folder that every user may enter."""
    with world_readable_folder(writable=False) as folder:
        make = ["make", "--silent", f"--jobs={os.cpu_count()}", "-C", str(PROGRAMS), "all", "static", f"OUT={folder}"]
        if shutil.which("musl-gcc"):
            make.append("musl")
        subprocess.run(make, check=True)
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


@pytest.fixture
def tree() -> Iterator[Tree]:
    """A cgroup of the test's own."""
    tree = Tree()
    yield tree
    tree.remove()


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """No descriptor of ours is left open by a test, and no cgroup once it has been swept."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before

    def swept() -> bool:
        own_cgroup.sweep(own.fd)  # zombies of grandchildren may still be in one
        return not leftover(own)

    with cgroup.own() as own:
        wait_for(swept, "the end of all cgroups of ended launches")


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
