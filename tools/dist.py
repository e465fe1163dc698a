# SPDX-License-Identifier: MIT
"""Makes what a package index has of a release: the source distribution and the wheels.

    dist.py FOLDER    makes all, and checks each as the index and auditwheel see it

There is a wheel for each architecture and C library. Compilers are Debian's. What is compiled is built without a C
library and finds what it needs in that of the program it is loaded into, so the two wheels of an architecture have the
same files, and only their tags differ. Nothing in them is for one Python: one wheel serves all from 3.11 on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("x86_64", "aarch64")
PLATFORMS = ("manylinux_2_17", "musllinux_1_2")
"""glibc 2.17 and musl 1.2, the oldest that Python 3.11 itself is built for in wheels' images."""


class DistError(Exception):
    """What could not be made, or what is wrong with it."""


def make(folder: Path, project: Path = PROJECT) -> list[Path]:
    """Make all into a folder, which is emptied; the files. Raises DistError."""
    shutil.rmtree(folder, ignore_errors=True)
    _build(project, "sdist", folder)
    for architecture in ARCHITECTURES:
        for platform in PLATFORMS:
            compiler = f"{architecture}-linux-gnu-gcc"
            _build(project, "wheel", folder, CC=compiler, PRIVBIND_PLATFORM=platform, PRIVBIND_REQUIRE_COMPILER="1")
    return sorted(folder.iterdir())


def check(files: list[Path]) -> None:
    """Look at each as the package index and auditwheel do. Raises DistError."""
    _run(sys.executable, "-m", "twine", "check", "--strict", *files)
    for wheel in files:
        if wheel.suffix == ".whl":
            _check_tag(wheel)


def _check_tag(wheel: Path) -> None:
    told = json.loads(_run(sys.executable, "-m", "auditwheel", "show", "--json", wheel))
    claimed = wheel.stem.split("-")[-1]
    if told["versioned_symbols"] or told["external_libs"]:
        raise DistError(f"{wheel.name} needs what a system may not have: {told}")
    if not serves(told["overall_tag"], claimed):
        raise DistError(f"{wheel.name} is for {told['overall_tag']} only, as auditwheel finds")


def serves(found: str, claimed: str) -> bool:
    """Whether what is for one platform runs on the other: the same kind, with this C library or a newer one."""
    found_kind, *found_version, found_machine = found.split("_", 3)
    kind, *version, machine = claimed.split("_", 3)
    same = (found_kind, found_machine) == (kind, machine)
    return same and [*map(int, found_version)] <= [*map(int, version)]


def _build(project: Path, target: str, folder: Path, **variables: str) -> None:
    build = (sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder)
    _run(*build, cwd=project, env=os.environ | variables)


def _run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DistError(f"{' '.join(words[2:5])} … ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def main(argv: list[str]) -> int:
    """Run `make dist`."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        files = make(Path(argv[0]))
        check(files)
    except DistError as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    print(*(path.name for path in files), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
