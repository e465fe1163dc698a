# SPDX-License-Identifier: MIT
"""Prints which lines of the package the tests have run.

    covered.py FOLDER

FOLDER is what PRIVBIND_COVERAGE named in the tests' runs (tests/harness/measure.py). Which lines count is coverage.py's
answer; those that nothing has run are listed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import coverage

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/privbind"


class File(NamedTuple):
    """How many lines a file has that count, how many launches ran, how many any test ran, and those that none did."""

    lines: int
    launches: int
    all: int
    missing: str


def read(folder: Path, layout: dict[str, int], pages: tuple[str, ...]) -> dict[str, set[int]]:
    """The lines of each file that are marked in one of these pages."""
    names = [name for name in layout if name]
    ends = [layout[name] for name in names[1:]] + [layout[""]]
    found: dict[str, set[int]] = {name: set() for name in names}
    for page in pages:
        if (folder / page).exists():
            marks = (folder / page).read_bytes()
            for name, end in zip(names, ends, strict=True):
                start = layout[name]
                found[name] |= {number for number in range(1, end - start) if marks[start + number]}
    return found


def analysis(lines: dict[str, set[int]]) -> dict[str, tuple[list[int], list[int], str]]:
    """For each file what coverage.py says: the lines that count, those missing, and these as text."""
    with tempfile.TemporaryDirectory() as name:
        file = f"{name}/data"
        data = coverage.CoverageData(file)
        data.add_lines({str(PACKAGE / path): numbers for path, numbers in lines.items()})
        data.write()
        report = coverage.Coverage(data_file=file, config_file=str(ROOT / "pyproject.toml"))
        report.load()
        found = {}
        for path in lines:
            _, statements, _, missing, text = report.analysis2(str(PACKAGE / path))
            found[path] = statements, missing, text
        return found


def main(argv: list[str]) -> int:
    """Print the table."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(argv[0])
    if not (folder / "layout.json").exists():
        print("nothing was measured")
        return 1
    layout: dict[str, int] = json.loads((folder / "layout.json").read_text())
    launches = analysis(read(folder, layout, ("launches.marks",)))
    both = analysis(read(folder, layout, ("launches.marks", "tests.marks")))
    files = {
        path: File(len(statements), len(statements) - len(launches[path][1]), len(statements) - len(missing), text)
        for path, (statements, missing, text) in both.items()
        if statements
    }
    print(f"{'lines of':40}{'in all':>6}{'launches':>10}{'all tests':>10}   run by none")
    for path, file in files.items():
        print(f"{row(path, file)}   {file.missing}".rstrip())
    lines, by_launches, by_all, _ = zip(*files.values(), strict=True)
    print(row("total", File(sum(lines), sum(by_launches), sum(by_all), "")))
    return 0


def row(name: str, file: File) -> str:
    """A line of the table."""
    return f"{name:40}{file.lines:6}{file.launches / file.lines:10.1%}{file.all / file.lines:10.1%}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
