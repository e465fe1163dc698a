"""A run that leaves a process behind fails."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ..harness.inner import run_inner

LEAVES = """
import shutil, subprocess
from .harness import leftovers
from .harness.install import world_readable_folder

leftovers.PATIENCE_S = {patience}


def test_it():
    with world_readable_folder() as folder:
        shutil.copy("/bin/sleep", folder / "waits")
        subprocess.Popen([folder / "waits", "{seconds}"], start_new_session=True)
"""


def test_a_process_that_stays(tmp_path: Path) -> None:
    """It is named, with its command line."""
    done = run_inner(tmp_path, {"test_it": LEAVES.format(patience=0, seconds=600)})
    (pid,) = re.findall(r"^(\d+) waits: /tmp/privbind-test-\S+/waits 600", done.stdout, re.MULTILINE)
    os.kill(int(pid), signal.SIGKILL)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "processes that this run has left behind" in done.stdout
    assert "1 passed" in done.stdout


def test_a_process_that_is_about_to_end(tmp_path: Path) -> None:
    """It is waited for."""
    done = run_inner(tmp_path, {"test_it": LEAVES.format(patience=60, seconds=1)})
    assert done.returncode == 0, done.stdout
