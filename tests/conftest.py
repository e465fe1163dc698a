# SPDX-License-Identifier: MIT
"""What all tests share: the installed privbind, and what makes a run fail although every test in it passed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import leftovers, measure, seccomp_kills, skips
from .harness.host import Host
from .harness.install import PROGRAMS, ROOT, install, world_readable_folder


def pytest_configure(config: pytest.Config) -> None:
    """Look after skipped tests, processes that a seccomp filter kills, and processes that are left behind."""
    _begin_alike()
    measure.begin()
    skips.register(config, Path(__file__).parent / "allowed-skips.txt")
    leftovers.register(config, seccomp_kills.register(config))


def _begin_alike() -> None:
    """Give all runs the same beginning, whatever this one inherited. A test that is about that sets its own."""
    # What tests make is for other users as well.
    os.umask(0o022)
    # A background job ignores SIGINT, what nohup starts SIGHUP, others more, and so would all that is started here:
    # unlike "ignore", a handler is not inherited. The run itself still lives on.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _pass)


_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
"""From its start on; subprocess gives them back their default in what it starts."""


def _pass(*_: object) -> None:
    """Do nothing about a signal."""


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
    with world_readable_folder(writable=False) as folder:
        command = install(request.getfixturevalue("wheel"), folder / "venv")
        if not measure.FOLDER:
            yield command
            return
        measure.instrument(command, folder / "marks")
        yield command
        measure.keep(folder / "marks")


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """The compiled test programs, in a folder that every user may enter; PRIVBIND_TEST_PROGRAMS names such a one."""
    if given := os.environ.get("PRIVBIND_TEST_PROGRAMS"):
        yield Path(given)
        return
    with world_readable_folder(writable=False) as folder:
        make = ["make", "--silent", f"--jobs={os.cpu_count()}", "-C", str(PROGRAMS), "all", "static", f"OUT={folder}"]
        if shutil.which("musl-gcc"):
            make.append("musl")
        subprocess.run(make, check=True)
        yield folder


@pytest.fixture
def host(installed: Path) -> Iterator[Host]:
    """A network namespace of the test's own, with the installed privbind. Needs root."""
    with contextlib.closing(Host(installed)) as host:
        yield host
