"""Installing privbind as its users do, and where every user can run it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout, or the unpacked source distribution."""

NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "dist", "build", "_preload", "__pycache__", ".*_cache", ".hypothesis", "*.pyc"
)
"""What a copy of the sources leaves out (shutil.copytree)."""

PROGRAMS = ROOT / "tests/programs"
SOURCE = ROOT / "src"

MODULES = {
    str(path.relative_to(SOURCE))
    for path in (SOURCE / "privbind").rglob("*")
    if path.is_file() and not {"__pycache__", "_preload"} & {*path.parts}
}
"""The files of the package, as an installation has them below its own folder."""


def _world_python() -> str:
    if wanted := os.environ.get("PRIVBIND_TEST_PYTHON"):
        return wanted
    for python in ("/usr/bin/python3", os.path.realpath(sys.executable)):
        new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
        if os.path.exists(python) and subprocess.run([python, "-c", new_enough], check=False).returncode == 0:
            return python
    raise RuntimeError("no Python from 3.11 on: name one with PRIVBIND_TEST_PYTHON")


PYTHON = _world_python()
"""A Python that every user can run, which one in somebody's home is not. PRIVBIND_TEST_PYTHON names another."""


class Install(NamedTuple):
    """An installed privbind: how it was installed, its command, and whether that is the compiled launcher."""

    kind: str
    command: Path
    compiled: bool


FOLDERS: list[str] = []
"""Each that this run has made for what is installed, compiled and run."""


@contextlib.contextmanager
def world_readable_folder(*, writable: bool = True) -> Iterator[Path]:
    """A folder below /tmp that every user may enter, and write to unless the test says no."""
    with tempfile.TemporaryDirectory(prefix="privbind-test-", dir="/tmp") as name:
        FOLDERS.append(name)
        folder = Path(name)
        folder.chmod(0o1777 if writable else 0o755)
        yield folder


def copy_for_all(source: Path, target: Path) -> Path:
    """A copy of a folder of ours that every user may read, whatever umask the sources were checked out with."""
    shutil.copytree(source, target, ignore=NOT_SOURCE, dirs_exist_ok=True)
    run("chmod", "-R", "go+rX", target)
    return target


def run(*command: object, cwd: Path | None = None, changes: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed, with these changes to the environment; what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | dict(changes or {}),
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


def install(wheel: Path, venv: Path) -> Path:
    """Install a wheel into a new virtual environment and return its `privbind`."""
    run(*bare_venv(venv), "--quiet", "--no-index", wheel)
    return venv / "bin/privbind"
