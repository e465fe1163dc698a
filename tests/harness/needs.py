"""What a test needs of the machine: it is skipped, with the reason, where that is not there. CI allows no such skip."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from .install import PROGRAMS


def need(*commands: str) -> None:
    """Skip when a program that the test is about is not installed."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def skip_without_root(items: list[pytest.Item], folder: Path, why: str) -> None:
    """Mark the tests below a folder to be skipped when this process is not root's."""
    if os.geteuid() == 0:
        return
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs root, {why}"))


def build_i386(name: str, folder: Path) -> Path:
    """Compile a program of the tests' for 32-bit x86, or skip; PRIVBIND_TEST_PROGRAMS may have it."""
    if platform.machine() != "x86_64":
        pytest.skip("32-bit x86 programs run on x86-64 only")
    built = Path(os.environ.get("PRIVBIND_TEST_PROGRAMS", ""), f"{name}-i386")
    if built.exists():
        return built
    target = folder / built.name
    argv = ["make", "--silent", "-C", str(PROGRAMS), f"OUT={folder}", str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not installed: a compiler for 32-bit x86")
    return target
