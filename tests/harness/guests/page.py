"""docs/kernels.md: what works on which kernel, written from what runs have left."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .plan import CELLS, LEFT_OUT, ROWS, files, not_run
from .plan import runs as planned
from .stated import FEATURES

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")
_HEAD = """# Kernels

What privbind does on the kernels that people run. `make test-kernels` writes this page from the results of its guests:
Debian's own kernels under qemu, with Debian 12 as their system. Every number is a count of tests that passed there;
where nothing was tried, the page says why. `tests/harness/guests/stated.py` says what each kernel must offer; a run
fails when a kernel offers less, or more.
"""


TARGET = os.environ.get("PRIVBIND_KERNELS_PAGE", "")
"""The file of the page; empty for a run that is not to be on it."""


def write(results: Path) -> None:
    """Write the page from the latest results of all guests."""
    if TARGET and results.is_dir():
        found = [results / f"{run}.json" for run in planned("all", short=False)]
        Path(TARGET).write_text(page([json.loads(path.read_text()) for path in found if path.exists()]))


def page(told: list[dict[str, Any]]) -> str:
    """The page's text, from what guests have left."""
    by_cell: dict[str, list[dict[str, Any]]] = {cell: [run for run in told if run["cell"] == cell] for cell in CELLS}
    columns = [f"{cell.rpartition('-')[0]}, {_machine(cell)}" for cell in CELLS]
    lines = [_HEAD]
    lines += [
        "## Which kernels",
        "",
        "| | kernel | Debian's version | when | guests' time |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cell, column in zip(CELLS, columns, strict=True):
        found = by_cell[cell]
        if not found:
            lines.append(f"| {column} | not tried yet | | | |")
            continue
        # More than one where the archive has got a newer kernel, and not all guests have run since.
        kernel, version = (", ".join(sorted({run[name] for run in found})) for name in ("release", "version"))
        when = "–".join(sorted({min(run["when"] for run in found), max(run["when"] for run in found)}))
        by = ", ".join(sorted({run["accelerator"] for run in found}))
        took = f"{math.ceil(sum(run['seconds'] for run in found) / 60)} min ({by})"
        lines.append(f"| {column} | {kernel} | {version} | {when} | {took} |")
    lines += [
        "",
        "## Mechanisms",
        "",
        *_table(columns, {name: [_offer(by_cell[cell], name) for cell in CELLS] for name in MECHANISMS}),
    ]
    autos = {
        "auto, with rules": "policy",
        "auto, with `-n`": "limit",
        "auto, with neither": "neither",
    }
    lines += _rows({text: [_note(by_cell[cell], f"auto:{key}") for cell in CELLS] for text, key in autos.items()})
    refused = _reasons(by_cell)
    if refused:
        lines += ["", "Refused there, in privbind's words:", "", *refused]
    lines += ["", "## What the kernel brings", ""]
    lines += _table(
        columns, {text: [_note(by_cell[cell], f"kernel:{key}") for cell in CELLS] for key, text in FEATURES.items()}
    )
    lines += [
        "",
        "## Tests",
        "",
        *_table(columns, {row: [_count(by_cell[cell], cell, row) for cell in CELLS] for row in ROWS}),
    ]
    by_reason: dict[tuple[str, str], None] = {}
    for cell, column in zip(CELLS, columns, strict=True):
        for row in ROWS:
            if why := not_run(cell, row):
                by_reason[column, why] = None
    lines += [
        "",
        "A question mark means that no run has tried this yet. A dash means that it is not to be tried:",
        "",
        *(f"- on {column}: {why}" for column, why in by_reason),
    ]
    lines += ["", "Tests of these files that no guest runs, by words in their names:", ""]
    lines += [f"- {words.replace(' or ', ', ')}: {why}" for words, why in LEFT_OUT.items()]
    if wrong := _wrong(told):
        lines += ["", "What else went wrong:", "", *wrong]
    if skipped := _skipped(by_cell):
        lines += ["", "Skipped there, and why:", "", *skipped]
    return "\n".join(lines) + "\n"


def _machine(cell: str) -> str:
    return {"amd64": "x86-64", "arm64": "aarch64"}[cell.rpartition("-")[2]]


def _table(columns: list[str], rows: dict[str, list[str]]) -> list[str]:
    return [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}", *_rows(rows)]


def _rows(rows: dict[str, list[str]]) -> list[str]:
    return [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def _note(runs: list[dict[str, Any]], name: str) -> str:
    found = [case["notes"][name] for run in runs for case in run["cases"] if name in case["notes"]]
    return found[0] if found else "?"


def _offer(runs: list[dict[str, Any]], name: str) -> str:
    answers = _note(runs, f"offer:{name}").partition(" ")[0]
    meaning = {"+++": "yes", "++-": "yes; `-n` refused", "+--": "without rules", "---": "refused"}
    return meaning.get(answers, answers)


def _reasons(by_cell: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = []
    for cell, runs in by_cell.items():
        for name in MECHANISMS:
            answers, _, why = _note(runs, f"offer:{name}").partition(" ")
            if answers.startswith("-"):
                lines.append(f"- {name} on {cell.rpartition('-')[0]}: {why}")
    return lines


def _cases(runs: list[dict[str, Any]], row: str) -> list[dict[str, Any]]:
    tests = files(row)
    return [case for run in runs if run["kind"] == ROWS[row][0] for case in run["cases"] if case["file"] in tests]


def _count(runs: list[dict[str, Any]], cell: str, row: str) -> str:
    if not_run(cell, row):
        return "–"
    found = _cases(runs, row)
    if not found:
        return "?"
    passed = sum(case["result"] == "passed" for case in found)
    failed = [case for case in found if case["result"] == "failed"]
    return f"**{len(failed)} failed**, {passed}" if failed else str(passed)


def _wrong(told: list[dict[str, Any]]) -> list[str]:
    """What is no test's: guests that did not come to an end, and what their kernels complained of."""
    lines = []
    for run in told:
        where = f"{run['cell']}, {run['kind']}"
        if run.get("status", "0") not in ("0", "1"):
            lines.append(f"- {where}: ended with {run['status']}, and tried only a part")
        lines += [f"- {where}: `{line}`" for line in run["complaints"]]
    return lines


def _skipped(by_cell: dict[str, list[dict[str, Any]]]) -> list[str]:
    where: dict[str, dict[str, int]] = {}
    for cell, runs in by_cell.items():
        for run in runs:
            for case in run["cases"]:
                if case["result"] == "skipped":
                    counted = where.setdefault(case["text"], {})
                    counted[cell] = counted.get(cell, 0) + 1
    return [
        f"- {why}: {', '.join(f'{count} on {cell}' for cell, count in counted.items())}"
        for why, counted in sorted(where.items())
    ]
