# SPDX-License-Identifier: MIT
"""What all benchmarks share: a host of their own, programs, medians of interleaved runs, and ratios.

Times of single runs vary with the machine; a ratio of medians taken in turns in one run does not, much.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
PYTHON = "/usr/bin/python3"


def privbind() -> str:
    """The installed command to measure: PRIVBIND_COMMAND, which `make bench` sets."""
    command = os.environ.get("PRIVBIND_COMMAND")
    if not command:
        raise SystemExit("bench: run `make bench`, or name the installed command with PRIVBIND_COMMAND")
    return command


def enter_own_host() -> None:
    """Move this process into network and mount namespaces of its own, with loopback up."""
    if os.environ.get("PRIVBIND_BENCH_HOST") != "own":
        os.environ["PRIVBIND_BENCH_HOST"] = "own"
        import sys

        script = 'ip link set lo up; exec "$@"'
        os.execvp("unshare", ["unshare", "--net", "--mount", "sh", "-ec", script, "sh", sys.executable, *sys.argv])


def build(folder: Path) -> None:
    """Compile the small programs into a folder."""
    for source in HERE.glob("*.c"):
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", folder / source.stem, source], check=True)


def folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that every user may enter."""
    made = tempfile.TemporaryDirectory(prefix="privbind-bench-", dir="/tmp")
    Path(made.name).chmod(0o755)
    return made


def numbers(argv: Sequence[str]) -> list[int]:
    """The numbers that a program prints, one a line."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return [int(line) for line in done.stdout.split()]


def interleaved(ways: Mapping[str, Callable[[], list[int]]], rounds: int) -> dict[str, list[int]]:
    """Run each way in turn, ``rounds`` times; all samples of each."""
    found: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name] += way()
    return found


def median(samples: Sequence[int]) -> float:
    """The middle one."""
    return statistics.median(samples)


def elapsed_to_stamp(argv: Sequence[str]) -> list[int]:
    """Nanoseconds from the start of a command line that ends in the stamp program until that runs."""
    start = time.monotonic_ns()
    (stamp,) = numbers(argv)
    return [stamp - start]


def elapsed(argv: Sequence[str]) -> list[int]:
    """Nanoseconds from the start of a program until its end."""
    start = time.monotonic_ns()
    subprocess.run(argv, check=True)
    return [time.monotonic_ns() - start]


def say(what: str, ratio: float, against: str, target: str, *, unit: str = "×") -> None:
    """One line of the result."""
    print(f"{what:58} {ratio:8.3f} {unit:2} {against:34} {target}")


def launch_ratio(mechanism: str, programs: Path) -> float:
    """A launch, from exec of the installed command to exec of the command, against the bare interpreter."""
    stamp = str(programs / "stamp")
    launcher = [privbind(), "-u", "nobody", f"--via={mechanism}", "--"]
    ways = {
        "bare": partial(elapsed, [PYTHON, "-I", "-S", "-c", "pass"]),
        "stamp": partial(elapsed_to_stamp, [stamp]),
        "launch": partial(elapsed_to_stamp, [*launcher, stamp]),
    }
    middle = {name: median(samples) for name, samples in interleaved(ways, 60).items()}
    return (middle["launch"] - middle["stamp"]) / middle["bare"]


def memory(mechanism: str, pattern: str) -> list[float]:
    """MB (PSS: shared pages counted in parts) of the processes that ``pattern`` finds in the story of a launch."""
    command = [privbind(), "-u", "nobody", f"--via={mechanism}", "-v", "--", "sh", "-c", "echo up; read x"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    found = None
    while not found:
        line = process.stderr.readline()
        assert line, "the story names no such process"
        found = re.search(pattern, line)
    sizes = []
    for pid in found.groups():
        pss = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert pss
        sizes.append(int(pss[1]) / 1024)
    process.communicate("\n")
    return sizes
