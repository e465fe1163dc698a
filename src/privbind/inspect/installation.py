# SPDX-License-Identifier: MIT
"""How this privbind was installed, and what would break it: which Python runs it, who can read it, who can write it."""

from __future__ import annotations

import posix
import sys
from dataclasses import dataclass
from os import walk
from os.path import realpath
from stat import S_ISVTX, S_IWGRP, S_IWOTH, S_IXOTH

from ..mechanisms import preload

_ROOT = 0
_DEBIAN_LIST = "/var/lib/dpkg/info/privbind.list"


@dataclass(frozen=True, slots=True)
class Installation:
    """What installed privbind; the folder of its modules; the Python that runs it, and the version it is bound to.

    ``bound_to`` is like "3.11", None where any new enough one will do. ``faults`` are in words, with what to do.
    """

    how: str
    package: str
    python: str
    bound_to: str | None
    faults: tuple[str, ...]


def look(place: str) -> Installation:
    """Look at the installation whose command is in the folder ``place``, empty where that is not known."""
    package = realpath(__file__.rsplit("/", 2)[0])
    above = package.rpartition("/")[0]
    python = sys.executable
    version = above.rpartition("/")[0].rpartition("/python")[2]
    bound_to = version if above.endswith("-packages") and "." in version else None
    shim = realpath(preload.own_shim().decode("utf-8", "surrogateescape"))
    parts = [package, python, *([f"{place}/privbindctl"] if place else []), shim]
    faults = [*_gone(place), *_unreadable(shim, package), *_writable(parts, package)]
    return Installation(_how(package, above), package, python, bound_to, tuple(faults))


def _how(package: str, above: str) -> str:
    if f"{package}/__init__.py\n" in _text(_DEBIAN_LIST):
        return "Debian's package"
    info = next((name for name in _names(above) if name.startswith("privbind-") and name.endswith(".dist-info")), None)
    if info is None:
        project = above.rpartition("/")[0]
        return f"the sources in {project}" if _exists(f"{project}/hatch_build.py") else "unknown means"
    installer = _text(f"{above}/{info}/INSTALLER").strip()
    environment = above.rsplit("/", 3)[0]  # lib/pythonX.Y/site-packages
    if _exists(f"{environment}/pipx_metadata.json"):
        return "pipx"
    if _exists(f"{environment}/uv-receipt.toml"):
        return "uv tool"
    return installer or "unknown means"


def _gone(place: str) -> list[str]:
    """A virtual environment's Python that does not exist any more; the command is then run by the system's."""
    own = f"{place}/python3"
    try:
        posix.lstat(own)
    except OSError:
        return []
    if _exists(own):
        return []
    return [f"'{own}' leads to nothing, and {sys.executable} runs privbind instead (install privbind again)"]


def _unreadable(shim: str, package: str) -> list[str]:
    """What the users whom commands run as cannot read."""
    path = shim if _exists(shim) else package
    for folder in _chain(path):
        if not _mode(folder) & S_IXOTH:
            return [f"not every user may enter '{folder}', so preload fails for those (install privbind elsewhere)"]
    if not _mode(path) & 0o004:
        return [f"not every user may read '{path}', so preload fails for those (chmod -R go+rX '{package}')"]
    return []


def _writable(parts: list[str], package: str) -> list[str]:
    """What others than root may write: so they decide what root runs."""
    paths: dict[str, None] = {}
    for part in parts:
        for path in (part, realpath(part)):
            paths.update(dict.fromkeys([*_chain(path), path]))
    for folder, _, files in walk(package):
        paths.update(dict.fromkeys([folder, *(f"{folder}/{name}" for name in files)]))
    found = [(path, why) for path in paths if (why := _who_else(path))]
    if not found:
        return []
    path, why = found[0]
    more = f", and so may {len(found) - 1} more files and folders" if len(found) > 1 else ""
    return [f"{why} may write '{path}'{more}: they decide what root runs (install privbind where only root can write)"]


def _who_else(path: str) -> str:
    try:
        found = posix.stat(path)
    except OSError:
        return ""  # `_gone` reports it, or nobody can use it
    if found.st_uid != _ROOT:
        return f"uid {found.st_uid}"
    if found.st_mode & S_ISVTX:
        return ""  # in such a folder, entries of others are safe
    if found.st_mode & S_IWOTH:
        return "everybody"
    return f"group {found.st_gid}" if found.st_mode & S_IWGRP and found.st_gid != _ROOT else ""


def _chain(path: str) -> list[str]:
    """The folders that a path names, from the first on."""
    ends = [end for end, char in enumerate(path) if char == "/"]
    return [path[:end] or "/" for end in ends]


def _mode(path: str) -> int:
    try:
        return posix.stat(path).st_mode
    except OSError:
        return 0


def _exists(path: str) -> bool:
    return posix.access(path, posix.F_OK)


def _names(folder: str) -> list[str]:
    try:
        return posix.listdir(folder)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
