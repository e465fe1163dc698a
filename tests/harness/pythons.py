"""The Pythons of this machine, and how a program of theirs gets the installed package."""

from __future__ import annotations

import os
import subprocess
from glob import glob
from pathlib import Path

from .install import PYTHON


def pythons() -> list[Path]:
    """One interpreter for each CPython from 3.11 that there is, wherever it is installed."""
    places = [PYTHON, *glob("/usr/bin/python3.[0-9]*"), *glob("/usr/local/bin/python3.[0-9]*")]
    places += glob("/opt/*/bin/python3.[0-9]*") + glob(str(Path.home() / ".pyenv/versions/*/bin/python3.[0-9]*"))
    show = "import sys; print(sys.implementation.name, sys.version_info >= (3, 11), '%d.%d' % sys.version_info[:2])"
    found: dict[str, Path] = {}
    for place in places:
        if os.access(place, os.X_OK) and place[-1].isdigit():
            told = subprocess.run([place, "-c", show], capture_output=True, text=True, check=False).stdout.split()
            if told[:2] == ["cpython", "True"]:
                found.setdefault(told[2], Path(place))
    return list(found.values())


def reachable(interpreter: Path) -> tuple[list[str], str]:
    """What stands before a command line with this interpreter, and the interpreter's path then.

    One in root's home is out of other users' reach, so there it is mounted where it is not, for that command alone.
    """
    prefix = interpreter.resolve().parent.parent
    if prefix == Path("/usr"):
        return [], str(interpreter)
    mount = 'mount --bind "$1" /mnt; shift; LD_LIBRARY_PATH=/mnt/lib exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", mount, "sh", str(prefix)], f"/mnt/bin/{interpreter.name}"


def packages_of(installed: Path) -> Path:
    """Where the package is that belongs to an installed command."""
    (found,) = {path.resolve() for path in installed.parent.parent.glob("lib/python3*/site-packages")}
    return found
