"""What a test needs of the machine: it is skipped, with the reason, where that is not there. CI allows no such skip."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


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
