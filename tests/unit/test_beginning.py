"""Every run of the tests begins alike, whatever its caller ignores, blocks or has as umask."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..harness.inner import run_inner

SHOWN = """
import pathlib, subprocess

def test_beginning():
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    found = dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)
    # Not the two that are glibc's own: its posix_spawn(3), which make uses, has them ignored in what it starts.
    assert [int(found[name], 16) & ~(0b11 << 31) for name in ("SigIgn", "SigBlk")] == [0, 0]
    pathlib.Path("made").touch()
    assert pathlib.Path("made").stat().st_mode & 0o777 == 0o644
"""


@pytest.mark.parametrize("umask", ["022", "077", "000"])
@pytest.mark.parametrize("signals", [["nohup"], ["env", "--ignore-signal", "--block-signal"]], ids=" ".join)
def test_nothing_of_the_caller_shows(tmp_path: Path, umask: str, signals: list[str]) -> None:
    """As under nohup, in a background job, and with all signals ignored and blocked."""
    prefix = ["sh", "-c", f'trap "" INT QUIT; umask {umask}; exec "$@"', "sh", *signals]
    done = run_inner(tmp_path, {"test_it": SHOWN}, prefix=prefix)
    assert done.returncode == 0, done.stdout
