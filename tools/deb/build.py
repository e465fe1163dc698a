# SPDX-License-Identifier: MIT
"""Makes the source package and builds it.

The upstream tarball is the source distribution; version and changelog are made from the project's own.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path

from kernels import run

from . import PROJECT, SUITES
from .tree import BUILD, inside, tree

REVISION = "1"
_UNRELEASED = 1580601600  # the time that hatchling, too, gives to files in the source distribution

_BUILD = """
cd /mnt/privbind-*/
umask 022
dpkg-buildpackage -us -uc -sa > ../log 2>&1 || { cat ../log >&2; exit 1; }
"""
_LINTIAN = "cd /mnt && lintian --allow-root --fail-on error,warning --display-info --pedantic *.changes"


def version(project: Path) -> str:
    """The project's version."""
    found = re.search(r'^__version__ = "(.*)"$', (project / "src/privbind/__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def released(project: Path) -> str | None:
    """The date of the version's section in CHANGELOG.md; None before the release."""
    heading = rf"^## \[{re.escape(version(project))}\] - (\d{{4}}-\d\d-\d\d)$"
    found = re.search(heading, (project / "CHANGELOG.md").read_text(), re.MULTILINE)
    return found[1] if found else None


def changelog(upstream: str, suite: str, date: str | None) -> str:
    """Debian's changelog, which only points to the project's own."""
    stamp = formatdate(_UNRELEASED if date is None else _seconds(date))
    return (
        f"privbind ({upstream}-{REVISION}{SUITES[suite].ending}) {'UNRELEASED' if date is None else suite}; "
        "urgency=medium\n\n"
        f"  * privbind {upstream}: its changes are in /usr/share/doc/privbind/changelog.gz.\n\n"
        f" -- privbind contributors <privbind@users.noreply.github.com>  {stamp}\n"
    )


def _seconds(date: str) -> float:
    from calendar import timegm
    from time import strptime

    return timegm(strptime(date, "%Y-%m-%d"))


def source(project: Path, suite: str, folder: Path) -> Path:
    """Put the upstream tarball and the unpacked source package into a folder; the latter."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=project)
    (sdist,) = folder.glob("*.tar.gz")
    upstream = version(project)
    orig = sdist.rename(folder / f"privbind_{upstream}.orig.tar.gz")
    run("tar", "--no-same-owner", "-xf", orig, "-C", folder)
    unpacked = folder / f"privbind-{upstream}"
    shutil.copytree(unpacked / "packaging/debian", unpacked / "debian")
    log = unpacked / "debian/changelog"
    log.write_text(changelog(upstream, suite, released(project)))
    log.chmod(0o644)  # whatever the umask, like the rest
    return unpacked


def build(project: Path, suite: str, out: Path) -> str:
    """Build the package, look at it with lintian, and put it all into a folder; what lintian said.

    Raises FailedError when the build fails or lintian finds an error or warns.
    """
    root = tree(suite, BUILD)
    with tempfile.TemporaryDirectory(prefix="privbind-deb-") as name:
        folder = Path(name)
        source(project, suite, folder)
        inside(root, _BUILD, folder)
        said = inside(root, _LINTIAN, folder)
        out.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_file() and path.name != "log":
                shutil.copy(path, out)
    return said


def main(suite: str) -> None:
    """`make deb`: into dist/debian/SUITE."""
    if suite not in SUITES:
        sys.exit(f"deb: no such suite '{suite}' (one of {', '.join(SUITES)})")
    out = PROJECT / "dist/debian" / suite
    shutil.rmtree(out, ignore_errors=True)
    print(build(PROJECT, suite, out), end="")
    print(*sorted(str(path.relative_to(PROJECT)) for path in out.glob("*.deb")), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
