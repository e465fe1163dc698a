"""Fixtures of the tests that need root: a host of one's own, and the programs that run on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from privbind.linux import cgroup
from privbind.mechanisms.bpf import own_cgroup

from ..harness.containers import RAN
from ..harness.host import wait_for
from ..harness.install import PYTHON, world_readable_folder
from ..harness.launches import Tree, leftover
from ..harness.machine import MACHINE, Granted, a_site
from ..harness.matrix import MATRIX
from ..harness.needs import need, skip_without_root
from ..harness.standing import StandingHost

# In the long form only: PRIVBIND_TEST_LONG=1.
collect_ignore = [] if os.environ.get("PRIVBIND_TEST_LONG") else ["test_oci_long.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root."""
    skip_without_root(items, Path(__file__).parent, "to make network namespaces")


@pytest.fixture
def standing(installed: Path) -> Iterator[StandingHost]:
    """A `host` with users, files of grants and a cgroup of the test's own."""
    with contextlib.closing(StandingHost(installed)) as host:
        yield host


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


@pytest.fixture(scope="session")
def site() -> Iterator[Path]:
    """What is in /srv/site: the test servers' files, built once where they must be."""
    with a_site() as folder:
        yield folder


@pytest.fixture(scope="session")
def venv(site: Path) -> Path:
    """/srv/site/venv with gunicorn and uvicorn, made where it will be seen: its scripts name their interpreter."""
    make = f'{MACHINE}\n{PYTHON} -m venv --without-pip /srv/site/venv\nexec "$@"'
    pip = [sys.executable, "-m", "pip", "--python", "/srv/site/venv/bin/python3", "install", "--quiet"]
    command = ["unshare", "--mount", "sh", "-ec", make, "sh", *pip, "gunicorn", "uvicorn"]
    subprocess.run(command, check=True, env=os.environ | {"PRIVBIND": "/mnt/bin/privbind", "SITE": str(site)})
    return site / "venv"


@pytest.fixture(scope="session")
def go_server(site: Path) -> Path:
    """/srv/site/serve, static."""
    need("go")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": f"{site}/cache", "GOFLAGS": "-mod=mod"}
    subprocess.run(["go", "build", "-o", site / "serve", site / "serve.go"], check=True, env=environment, cwd=site)
    return site / "serve"


@pytest.fixture(scope="session")
def jar(site: Path) -> Path:
    """/srv/site/site.jar."""
    need("javac", "jar", "java")
    subprocess.run(["javac", "-d", site, site / "Serve.java"], check=True)
    classes = sorted(path.name for path in site.glob("Serve*.class"))
    subprocess.run(["jar", "--create", f"--file={site}/site.jar", "--main-class=Serve", *classes], check=True, cwd=site)
    return site / "site.jar"


@pytest.fixture(scope="session")
def pm2(site: Path) -> Path:
    """/srv/site/pm2, from npm."""
    need("node", "npm")
    place = site / "pm2"
    command = [
        "npm",
        "install",
        "--global",
        f"--prefix={place}",
        f"--cache={site}/npm",
        "--no-audit",
        "--no-fund",
        "pm2",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return place


@pytest.fixture
def granted(installed: Path, site: Path) -> Iterator[Granted]:
    """A machine of the test's own whose users can have standing grants."""
    tree = Tree()
    try:
        made = Granted(installed, site, tree)
        try:
            yield made
        finally:
            made.close()
    finally:
        tree.remove()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which container runtimes were there, and the table of servers and mechanisms, where it was tested."""
    if RAN:
        terminalreporter.section("container runtimes")
        terminalreporter.line(", ".join(f"{name} {version}" for name, version in RAN.items()))
    if not MATRIX:
        return
    terminalreporter.section("servers × mechanisms")
    for name, cells in MATRIX.items():
        short = (f"{mechanism}: {told if told == 'pass' else 'not possible'}" for mechanism, told in cells.items())
        terminalreporter.line(f"{name:24} {'   '.join(short)}")
    for told in sorted({told for cells in MATRIX.values() for told in cells.values()} - {"pass"}):
        terminalreporter.line(f"not possible: {told}")
