# SPDX-License-Identifier: MIT
"""Debian's kernels, started under qemu: fetching them, a root file system for their guests, and running one.

Everything is kept in a cache outside the tree (`CACHE`); nothing is installed or changed on this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


def _cache() -> Path:
    """Where all of it is kept: $XDG_CACHE_HOME/privbind-kernels, or below /var/cache."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: one that is not absolute is to be ignored.
    return Path(told if os.path.isabs(told) else "/var/cache") / "privbind-kernels"


CACHE = _cache()
PROJECT = Path(__file__).resolve().parent.parent.parent


def _suites(release: str) -> tuple[str, ...]:
    return release, f"{release}-updates", f"{release}-security"


ROOTS = {"bookworm": _suites("bookworm"), "trixie": _suites("trixie")}
"""The releases of Debian that guests run on, the usual one first, whatever their kernel is."""
ROOT_SUITES = ROOTS["bookworm"]
ROOT_PYTHONS = ("3.11", "3.13")
"""Their Pythons."""


class Series(NamedTuple):
    """A series of kernels: how we call it, and the suites of Debian in which its newest one is."""

    name: str
    suites: tuple[str, ...]


SERIES = (
    Series("5.10", ("bullseye", "bullseye-security")),
    Series("6.1", ROOT_SUITES),
    Series("6.12", ROOTS["trixie"]),
    Series("newest", ("sid",)),
)

X86, ARM = "amd64", "arm64"


class Kernel(NamedTuple):
    """A kernel that can be started: its series, its architecture in Debian's words, and its files."""

    series: str
    arch: str
    release: str
    version: str
    image: Path
    initramfs: Path

    def __str__(self) -> str:
        return f"{self.series}-{self.arch}"


class FailedError(Exception):
    """Something could not be fetched, made or started; the text says what, and what was said about it."""


def write(path: Path, text: str) -> None:
    """Write a file in one step: it is never there in part, whenever this is ended."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)


@contextlib.contextmanager
def hold(cache: Path) -> Iterator[None]:
    """Have the cache for this run alone, without what runs that were killed left there. Raises FailedError."""
    if re.search(r"[^\w/.+@~-]", str(cache)):
        raise FailedError(f"the cache '{cache}' has a character in its name that make or qemu would take apart")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedError(f"another run uses '{cache}'; wait for it, or set XDG_CACHE_HOME") from None
        mounts = Path("/proc/self/mounts").read_text()
        for old in [*cache.glob("guest-*"), *cache.glob("root-*")]:
            if f" {old}/" not in mounts:  # parts of this machine, where mmdebstrap was killed as well
                shutil.rmtree(old, ignore_errors=True)
        yield


def run(*command: object, cwd: Path | None = None, given: bytes | None = None) -> str:
    """Run a program that must succeed, in C's language; what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        # The last word is what it was to do it with: a package, mostly.
        called = " ".join([*words[:3], "…", *words[3:][-1:]])
        raise FailedError(f"{called} ended with {done.returncode}: {said[-2000:]}")
    return done.stdout.decode("utf-8", "replace")
