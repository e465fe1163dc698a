"""Test runs inside a test: our own conftest and this package, with other tests beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .host import TIMEOUT_S
from .install import ROOT

_TESTS = ROOT / "tests"


def run_inner(
    folder: Path, tests: dict[str, str], allowed: str = "", prefix: Sequence[str] = (), **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run these tests, by name and text, in a folder of the caller's.

    ``allowed`` are the lines of allowed-skips.txt; ``prefix`` stands before the command line; ``changes`` are made to
    the environment, in which nothing says that this is CI.
    """
    copy = folder / "tests"
    copy.mkdir()
    for name in ("__init__.py", "conftest.py"):
        shutil.copy(_TESTS / name, copy)
    shutil.copytree(_TESTS / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "allowed-skips.txt").write_text(f"# comment\n{allowed}\n")
    for name, text in tests.items():
        (copy / f"{name}.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "PRIVBIND_NO_SKIPS"}}
    command = [
        *prefix,
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--strict-markers",
        "--rootdir",
        str(folder),
        str(copy),
    ]
    return subprocess.run(
        command, cwd=folder, env=environment | changes, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
