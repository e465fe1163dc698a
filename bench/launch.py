# SPDX-License-Identifier: MIT
"""Launches: each mechanism against the bare interpreter, beside 1,000 live launches, and with 8,000 other processes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure

ROUNDS = 60
TARGETS = {"bpf": "1.5", "seccomp": "2.0", "preload": "1.8", "ambient": ""}
LIVE = 1000
CROWD = 8000


def ways(programs: Path) -> dict[str, Callable[[], list[int]]]:
    """A launch by each mechanism, and what it is measured against."""
    stamp = str(programs / "stamp")

    def launch(mechanism: str) -> Callable[[], list[int]]:
        rules = [] if mechanism == "ambient" else ["--allow=tcp:80"]
        return partial(
            measure.elapsed_to_stamp, [measure.privbind(), "-u", "nobody", f"--via={mechanism}", *rules, "--", stamp]
        )

    return {
        "bare": partial(measure.elapsed, [measure.PYTHON, "-I", "-S", "-c", "pass"]),
        "stamp": partial(measure.elapsed_to_stamp, [stamp]),
        **{mechanism: launch(mechanism) for mechanism in TARGETS},
    }


def times(programs: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Minimum and median of each, in milliseconds; of launches, what they take beyond starting the command."""
    found = measure.interleaved(ways(programs), rounds)
    stamp = min(found["stamp"])
    return {
        name: (min(samples) / 1e6, measure.median(samples) / 1e6)
        if name == "bare"
        else ((min(samples) - stamp) / 1e6, (measure.median(samples) - stamp) / 1e6)
        for name, samples in found.items()
    }


def compared(alone: dict[str, tuple[float, float]], programs: Path, where: str, names: tuple[str, ...]) -> None:
    """The same beside others, against alone."""
    crowded = times(programs, ROUNDS // 2)
    for name in names:
        ratio = crowded[name][0] / alone[name][0]
        measure.say(f"{name}: launch {where}, minimum", ratio, "alone", "target: at most 1.2")


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    with measure.folder() as name:
        programs = Path(name)
        measure.build(programs)
        alone = times(programs, ROUNDS)
        bare = alone["bare"]
        for mechanism, target in TARGETS.items():
            least, middle = alone[mechanism]
            wanted = f"target: at most {target}" if target else ""
            measure.say(f"{mechanism}: launch, minimum", least / bare[0], "python3 -I -S -c pass", wanted)
            measure.say(f"{mechanism}: launch, median", middle / bare[1], "python3 -I -S -c pass", "")
        live = [measure.privbind(), "-u", "nobody", "--via=bpf", "--allow=tcp:80", "--", "/bin/cat"]
        started = [subprocess.Popen(live, stdin=subprocess.PIPE) for _ in range(LIVE)]
        # The last of them, and so nearly all, are there when one more has come as far.
        subprocess.run(live, stdin=subprocess.DEVNULL, check=True)
        compared(alone, programs, f"beside {LIVE} live ones", ("bpf",))
        for process in started:
            process.communicate()
        crowd = subprocess.Popen([programs / "crowd", str(CROWD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert crowd.stdout is not None
        crowd.stdout.readline()
        compared(alone, programs, f"with {CROWD} other processes", ("seccomp", "preload", "bpf"))
        crowd.communicate()


if __name__ == "__main__":
    main()
