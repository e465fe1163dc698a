# SPDX-License-Identifier: MIT
"""Runs the parts of the tests one after the other, and says how long each took and how many tests passed in all.

    parts.py PART... [-- PYTEST-ARGUMENT...]

Each part has a time limit; in CI (where CI is set) a part that reaches it is ended. The last line is always
"N passed, N failed, N skipped". A part that fails although none of its tests did counts as one failed test.

Where PRIVBIND_COVERAGE names a folder, it is made anew, and what was covered is printed before the sums.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build/results"


class Part(NamedTuple):
    """A command, or files and folders below tests (patterns) for pytest with its options; how many minutes it has."""

    minutes: int
    tests: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


_TOLD = ("root/test_explain.py", "root/test_watch*")
_STANDING = ("root/test_standing_[!p]*", "root/test_standing.py", "root/test_placed*", *_TOLD)
# A file that is named is run whatever conftest.py says, so the long one is named only where its runtimes are installed.
_LONG = ("root/test_oci_long.py",) if os.environ.get("PRIVBIND_TEST_LONG") else ()
_CONTAINERS = ("root/test_standing_podman.py", "root/test_oci.py", "root/test_oci_hook.py", *_LONG)
_PYTHON = ("root/test_python_*",)

PARTS = {
    "lint": Part(3, command=("make", "--no-print-directory", "lint")),
    "c": Part(4, command=("make", "--no-print-directory", "test-c")),
    "unit": Part(3, ("unit", "fuzz")),
    "root": Part(9, ("root",), tuple(f"--ignore-glob=*/{pattern}" for pattern in (*_STANDING, *_CONTAINERS, *_PYTHON))),
    "python": Part(4, _PYTHON),
    "standing": Part(6, _STANDING),
    "containers": Part(5, _CONTAINERS),
    "kernels": Part(6, ("kernels",), ("-o", "faulthandler_timeout=0")),  # one test is a whole run in a guest
    "packaging": Part(5, ("packaging",), ("-o", "faulthandler_timeout=0")),  # one may wait for a whole build
}
LONG_MINUTES = 240
"""What each has instead where PRIVBIND_TEST_LONG is set."""
ENDING_S = 60
"""How long an interrupted part has to clean up after itself."""

_NO_TESTS = 5  # pytest.ExitCode.NO_TESTS_COLLECTED


class Outcome:
    """How a part went."""

    def __init__(self, name: str) -> None:
        """Nothing has happened yet."""
        self.name = name
        self.took_s = 0.0
        self.counts: Counter[str] = Counter()
        self.skips: Counter[str] = Counter()
        self.failed: list[str] = []

    def row(self) -> str:
        """Its line in the table."""
        told = ", ".join(f"{self.counts[kind]} {kind}" for kind in ("passed", "failed", "skipped") if self.counts[kind])
        return f"{self.name:12} {_clock(self.took_s):>6} {_clock(_seconds(self.name)):>7}   {told or 'done'}"


def _seconds(name: str) -> float:
    return 60 * (LONG_MINUTES if os.environ.get("PRIVBIND_TEST_LONG") else PARTS[name].minutes)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def run(name: str, arguments: list[str]) -> list[Outcome]:
    """Run a part; nothing where this checkout has none of its tests."""
    part = PARTS[name]
    tests = [str(found.relative_to(ROOT)) for pattern in part.tests for found in sorted(ROOT.glob(f"tests/{pattern}"))]
    if part.tests and not tests:
        return []
    outcome = Outcome(name)
    results = RESULTS / f"{name}.xml"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    command = [*part.command]
    if tests:
        command = [sys.executable, "-m", "pytest", *tests, f"--junitxml={results}", *part.options, *arguments]
    print(f"\n===== {name}: {shlex.join(command)}", flush=True)
    start = time.monotonic()
    status, over = _execute(command, outcome, counted=name == "c")
    outcome.took_s = time.monotonic() - start
    if tests:
        _read(results, outcome)
    if over:
        _fail(outcome, "took too long")
    elif status and not outcome.counts["failed"] and not (status == _NO_TESTS and arguments):
        _fail(outcome, f"ended with status {status}")
    return [outcome]


def _fail(outcome: Outcome, why: str) -> None:
    outcome.counts["failed"] += 1
    outcome.failed.append(f"{outcome.name}: {why}")


def _execute(command: list[str], outcome: Outcome, *, counted: bool) -> tuple[int, bool]:
    """Run a command; its status, and whether its time was over before it had ended."""
    # Not the variables of the make that runs this: its job server is not for others.
    kept = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    process = subprocess.Popen(command, cwd=ROOT, env=kept, stdout=subprocess.PIPE if counted else None, text=True)
    over = threading.Event()
    timer = threading.Timer(_seconds(outcome.name), _end, (process, over))
    if os.environ.get("CI"):  # people may have a slower machine
        timer.start()
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            _count_c(line, outcome)
        return process.wait(), over.is_set()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        timer.cancel()


def _end(process: subprocess.Popen[str], over: threading.Event) -> None:
    """End a part whose time is over. When interrupted, pytest takes its fixtures down and make ends what it runs."""
    over.set()
    process.send_signal(signal.SIGINT)
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _count_c(line: str, outcome: Outcome) -> None:
    """The tests in C and sh print a line each."""
    word, _, rest = line.partition(" ")
    if word == "ok" and rest:
        outcome.counts["passed"] += 1
    elif word == "FAILED":
        outcome.counts["failed"] += 1
        outcome.failed.append(f"{outcome.name}: {rest.strip()}")


def _read(results: Path, outcome: Outcome) -> None:
    """Count what pytest has written down."""
    try:
        cases = ET.parse(results).iter("testcase")
    except (OSError, ET.ParseError):
        return
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.counts["failed"] += 1
            outcome.failed.append(f"{outcome.name}: {case.get('classname')}::{case.get('name')}")
        elif (skipped := case.find("skipped")) is not None:
            outcome.counts["skipped"] += 1
            outcome.skips[skipped.get("message", "")] += 1
        else:
            outcome.counts["passed"] += 1


def summary(outcomes: list[Outcome]) -> bool:
    """Print all that there is to say; whether everything passed."""
    print(f"\n{'part':12} {'took':>6} {'at most':>7}")
    for outcome in outcomes:
        print(outcome.row())
    for reason, count in sum((outcome.skips for outcome in outcomes), Counter[str]()).items():
        print(f"skipped, {count} of them: {reason}")
    for line in (line for outcome in outcomes for line in outcome.failed):
        print(f"failed: {line}")
    counts = sum((outcome.counts for outcome in outcomes), Counter[str]())
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return not counts["failed"]


def main(argv: list[str]) -> int:
    """Run the parts that the command line names."""
    split = argv.index("--") if "--" in argv else len(argv)
    names, arguments = argv[:split], argv[split + 1 :]
    if not names or not PARTS.keys() >= {*names}:
        print(f"{__doc__}\nThe parts are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    # Where SIGINT is ignored (in a background job), it would be ignored in what is started here, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outcomes: list[Outcome] = []
    coverage = os.environ.get("PRIVBIND_COVERAGE")
    if coverage:
        shutil.rmtree(coverage, ignore_errors=True)
    try:
        for name in names:
            outcomes += run(name, arguments)
    except KeyboardInterrupt:
        return 130
    if coverage:
        print("\n===== coverage", flush=True)
        subprocess.run([sys.executable, str(ROOT / "tools/covered.py"), coverage], check=False)
    return 0 if summary(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
