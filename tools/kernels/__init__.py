# SPDX-License-Identifier: MIT
"""Debian's kernels, started under qemu: fetching them, a root file system for their guests, and running one.

Everything is kept in a cache outside the tree (`CACHE`); nothing is installed or changed on this machine.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple


def _cache() -> Path:
    """Where all of it is kept: $XDG_CACHE_HOME/privbind-kernels, or below /var/cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "privbind-kernels"


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
        raise FailedError(f"{' '.join(words[:3])} … ended with {done.returncode}: {said[-2000:]}")
    return done.stdout.decode("utf-8", "replace")
