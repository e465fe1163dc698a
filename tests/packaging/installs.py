"""What the tests about installing share."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from ..conftest import world_python

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = world_python()


class Install(NamedTuple):
    """An installed privbind: how it was installed, its command, and whether that is the compiled launcher."""

    kind: str
    command: Path
    compiled: bool


def run(*command: object, cwd: Path | None = None, **changes: str) -> str:
    """Run a program that must succeed, with these changes to the environment; what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | changes,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def bare_venv(folder: Path) -> list[object]:
    """Make a virtual environment, and return the command that installs into it."""
    run(PYTHON, "-m", "venv", "--without-pip", folder)
    return [sys.executable, "-m", "pip", "--python", folder / "bin/python3", "install", "--no-deps"]
