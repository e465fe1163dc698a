# SPDX-License-Identifier: MIT
"""Everything that is measured, with the installed wheel: `make bench`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = ("preload.py", "seccomp.py", "bpf_rules.py")

sys.path.insert(0, str(HERE.parent))

import measure  # noqa: E402
from tests.conftest import install  # noqa: E402  # the tests' own way to install a wheel for all users


def main() -> None:
    """Install the wheel, run each part, and say on what it ran."""
    (wheel,) = (HERE.parent / "dist").glob("*.whl")
    print(f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with measure.folder() as folder:
        command = install(wheel, Path(folder) / "venv")
        environment = {**os.environ, "PRIVBIND_COMMAND": str(command)}
        for part in PARTS:
            subprocess.run([sys.executable, HERE / part], env=environment, check=True)


if __name__ == "__main__":
    main()
