"""Whoever builds the same sources gets the same files, so that anybody can check what was published."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from ..harness.install import NOT_SOURCE, ROOT, run, world_readable_folder

ONE = ["sh", "-c", 'umask 022; exec "$@"', "sh"]
OTHER = ["unshare", "--user", "--map-user=1234", "--map-group=1234", "sh", "-c", 'umask 077; exec "$@"', "sh"]
ONE_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "USER": "root"}
OTHER_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "USER": "somebody"}


def built(folder: Path, way: list[str], changes: dict[str, str]) -> dict[str, bytes]:
    """What a build of the sources in a folder gives, by name."""
    out = folder / "out"
    run(*way, sys.executable, "-m", "hatchling", "build", "-d", out, cwd=folder, changes=changes)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("compiler", [{}, {"CFLAGS": "-O2 -g"}, {"CC": "false"}], ids=["plain", "debug", "uncompiled"])
def test_two_builds_give_the_same_bytes(compiler: dict[str, str]) -> None:
    """In other folders, by other users, with another umask, locale and time zone, of files of other times and modes."""
    with world_readable_folder() as place:
        first = Path(shutil.copytree(ROOT, place / "one", ignore=NOT_SOURCE))
        second = Path(shutil.copytree(ROOT, place / "another/with a longer name", ignore=NOT_SOURCE))
        for path in second.rglob("*"):
            path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
            os.utime(path, (1_000_000_000, 1_000_000_000))
        one = built(first, ONE, ONE_ENVIRONMENT | compiler)
        other = built(second, OTHER, OTHER_ENVIRONMENT | compiler)
        assert len(one) == 2
        assert one.keys() == other.keys()
        for name, content in one.items():
            assert content == other[name], name
