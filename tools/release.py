# SPDX-License-Identifier: MIT
"""Makes a release, and checks its parts.

    release --build    make what is published: dist/release, dist/debian, hashes and a bill of materials
    release --check    check each part of a release, and say what is wrong; the status is 0 if nothing is

Nothing is published, tagged or changed by this.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dist
from deb import SUITES
from deb.build import REVISION, build, released, version
from kernels import FailedError

PROJECT = Path(__file__).resolve().parent.parent
HASHES = "SHA256SUMS"
MATERIALS = "privbind.cdx.json"
NAMES_A_VERSION = ("packaging/kubernetes", "packaging/container")
"""Where files name an image of this version."""


class NotReadyError(Exception):
    """What is not as it has to be for a release."""


def check_versions(project: Path) -> str:
    """One version, wherever there is one."""
    ours = version(project)
    if not re.fullmatch(r"\d+\.\d+\.\d+", ours):
        raise NotReadyError(f"{ours} is not a version to be released (three numbers)")
    for path in sorted(path for name in NAMES_A_VERSION for path in (project / name).rglob("*") if path.is_file()):
        for other in re.findall(r"\bprivbind:(\d[\w.]*)", path.read_text()):
            if other != ours:
                raise NotReadyError(f"{path.relative_to(project)} names version {other}, not {ours}")
    return f"version {ours}"


def check_changelog(project: Path) -> str:
    """It tells of this version first, under its date."""
    sections = re.findall(r"^## (.*)$", (project / "CHANGELOG.md").read_text(), re.MULTILINE)
    day = released(project)
    if day is None:
        raise NotReadyError(f"CHANGELOG.md has no section '## [{version(project)}] - DATE'")
    if not sections[0].startswith(f"[{version(project)}]"):
        raise NotReadyError(f"CHANGELOG.md begins with '{sections[0]}'")
    if date.fromisoformat(day) > datetime.now(UTC).date():
        raise NotReadyError(f"the date in CHANGELOG.md, {day}, is yet to come")
    return f"CHANGELOG.md: {day}"


def check_tag(project: Path) -> str:
    """The tag is on what is here, and nothing else is."""
    tag = f"v{version(project)}"
    if changed := _git(project, "status", "--porcelain", "--untracked-files=no"):
        raise NotReadyError(f"there are changes that are not committed: {changed.splitlines()[0]}")
    if tag not in _git(project, "tag", "--points-at", "HEAD").split():
        raise NotReadyError(f"there is no tag {tag} on HEAD (git tag --sign {tag})")
    return f"tag {tag}"


def expected(project: Path) -> dict[str, list[str]]:
    """What is published, by folder: patterns of names."""
    ours = version(project)
    tags = [f"{platform}_{machine}" for machine in dist.ARCHITECTURES for platform in dist.PLATFORMS]
    return {
        "release": [f"privbind-{ours}.tar.gz", *(f"privbind-{ours}-py3-none-{tag}.whl" for tag in tags)],
        **{
            f"debian/{name}": [
                f"privbind_{ours}-{REVISION}{suite.ending}_*.deb",
                f"privbind_{ours}-{REVISION}{suite.ending}.dsc",
                f"privbind_{ours}-{REVISION}{suite.ending}.debian.tar.xz",
                f"privbind_{ours}.orig.tar.gz",
            ]
            for name, suite in SUITES.items()
        },
    }


def artifacts(project: Path) -> list[Path]:
    """What is published. Raises NotReadyError where a file is missing, or one is there that does not belong there."""
    found: list[Path] = []
    for folder, patterns in expected(project).items():
        place = project / "dist" / folder
        for pattern in patterns:
            files = sorted(place.glob(pattern))
            if not files:
                raise NotReadyError(f"dist/{folder} has no {pattern} (tools/release --build)")
            found += files
        ours = {path for path in found if path.parent == place}
        if folder == "release" and (others := {*place.iterdir()} - ours):
            raise NotReadyError(f"dist/{folder} has a file of another release: {min(others).name}")
    return found


def check_artifacts(project: Path) -> str:
    """All are there, and the package index and auditwheel agree with them."""
    found = artifacts(project)
    dist.check([path for path in found if path.parent.name == "release"])
    return f"{len(found)} files; twine and auditwheel agree"


def check_sources(project: Path) -> str:
    """They were made from what is here: made again, they have the same bytes."""
    again = dist.make(project / "build/again", project)
    for path in again:
        if path.read_bytes() != (project / "dist/release" / path.name).read_bytes():
            raise NotReadyError(f"dist/release/{path.name} is not what these sources give (tools/release --build)")
    return "made again, wheels and source distribution are the same"


def check_hashes(project: Path) -> str:
    """Hashes and bill of materials are of these files."""
    found = artifacts(project)
    for name, made in ((HASHES, hashes(project, found)), (MATERIALS, materials(project, found))):
        path = project / "dist" / name
        if not path.exists() or path.read_text() != made:
            raise NotReadyError(f"dist/{name} is not of these files (tools/release --build)")
    return f"{HASHES}, {MATERIALS}"


def hashes(project: Path, files: list[Path]) -> str:
    """As sha256sum prints them, to be checked in dist."""
    return "".join(f"{_sha256(path)}  {path.relative_to(project / 'dist')}\n" for path in files)


def materials(project: Path, files: list[Path]) -> str:
    """A bill of materials as CycloneDX has it. It is short: privbind needs no package but Python itself."""
    ours = version(project)
    reference = f"pkg:pypi/privbind@{ours}"
    contents = hashes(project, files)
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, reference + contents)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": reference,
                "name": "privbind",
                "version": ours,
                "purl": reference,
                "licenses": [{"license": {"id": "MIT"}}],
            }
        },
        "components": [
            {
                "type": "platform",
                "bom-ref": "python",
                "name": "Python",
                "description": "3.11 or newer, with its standard library: of the system, not part of any file here",
            },
            *(
                {
                    "type": "file",
                    "bom-ref": name,
                    "name": name,
                    "hashes": [{"alg": "SHA-256", "content": digest}],
                }
                for digest, name in (line.split() for line in contents.splitlines())
            ),
        ],
        "dependencies": [{"ref": reference, "dependsOn": ["python"]}, {"ref": "python"}],
    }
    return json.dumps(bill, indent=2) + "\n"


def make(project: Path) -> None:
    """Make everything that is published."""
    dist.make(project / "dist/release", project)
    for suite in SUITES:
        folder = project / "dist/debian" / suite
        shutil.rmtree(folder, ignore_errors=True)
        build(project, suite, folder)
    found = artifacts(project)
    (project / "dist" / HASHES).write_text(hashes(project, found))
    (project / "dist" / MATERIALS).write_text(materials(project, found))


CHECKS: tuple[Callable[[Path], str], ...] = (
    check_versions,
    check_changelog,
    check_tag,
    check_artifacts,
    check_sources,
    check_hashes,
)


def check(project: Path, checks: tuple[Callable[[Path], str], ...] = CHECKS) -> Iterator[tuple[bool, str]]:
    """Do each check in turn: whether it passed, and what to print."""
    for one in checks:
        try:
            yield True, one(project)
        except (NotReadyError, dist.DistError, FailedError, OSError) as error:
            yield False, str(error)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(project: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", project, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotReadyError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def main(argv: list[str]) -> int:
    """Run what the command line says."""
    match argv:
        case ["--build"]:
            try:
                make(PROJECT)
            except (NotReadyError, dist.DistError, FailedError, OSError) as error:
                print(f"release: {error}", file=sys.stderr)
                return 1
            return 0
        case ["--check"]:
            well = True
            for good, text in check(PROJECT):
                print(f"{'ok    ' if good else 'NOT OK'}  {text}", flush=True)
                well &= good
            return 0 if well else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
