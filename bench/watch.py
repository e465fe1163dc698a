# SPDX-License-Identifier: MIT
"""What watching costs: a reserved bind with and without a watcher, how many it tells a second, and its memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure
from placed import cgroup_mount

ROUNDS = 20
BINDS = 2_000
ENOUGH_S = 3


class Place:
    """A cgroup of this benchmark's own."""

    def __init__(self) -> None:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        self.path = Path(f"{cgroup_mount()}{own.rstrip('/')}/privbind-bench.{os.getpid()}.watch")
        self.path.mkdir()

    def inside(self, argv: list[str]) -> list[str]:
        """A command line that runs in it."""
        return ["sh", "-ec", 'echo 0 > "$0/cgroup.procs"; exec "$@"', str(self.path), *argv]

    def watcher(self) -> subprocess.Popen[str]:
        """A watcher of it that has started."""
        ctl = str(Path(measure.privbind()).parent / "privbindctl")
        command = [ctl, "watch", "--json", f"--cgroup={self.path}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert '"start"' in process.stdout.readline()
        return process


def end(process: subprocess.Popen[str]) -> None:
    """Have a watcher end; what it has not said is dropped."""
    process.send_signal(signal.SIGTERM)
    process.communicate()


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    place = Place()
    with measure.folder() as name:
        measure.build(Path(name))
        loop = place.inside([f"{name}/bindloop", str(BINDS), "80"])
        try:
            costs(place, partial(measure.numbers, loop))
            rate_and_memory(place, loop)
        finally:
            place.path.rmdir()


def costs(place: Place, loop: Callable[[], list[int]]) -> None:
    """Binds in turns with a watcher and without one."""
    found: dict[str, list[int]] = {"without": [], "with": []}
    for _ in range(ROUNDS):
        found["without"] += loop()
        watcher = place.watcher()
        found["with"] += loop()
        end(watcher)
    for what, at in (("median", 0.5), ("p99", 0.99)):
        middle = {kind: sorted(samples)[int(len(samples) * at)] for kind, samples in found.items()}
        target = "at most 2" if what == "median" else "at most 3"
        measure.say(f"a reserved bind with a watcher, {what}", middle["with"] / middle["without"], "without", target)


def rate_and_memory(place: Place, loop: list[str]) -> None:
    """How many binds it tells a second while there are always more, and what it holds then."""
    watcher = place.watcher()
    assert watcher.stdout is not None
    binders = [subprocess.Popen([*loop[:-2], "1000000", "80"], stdout=subprocess.DEVNULL)]
    started, told = time.monotonic(), 0
    while time.monotonic() < started + ENOUGH_S:
        told += '"bind"' in watcher.stdout.readline()
    rate = told / (time.monotonic() - started)
    smaps = Path(f"/proc/{watcher.pid}/smaps_rollup").read_text()
    for binder in binders:
        binder.kill()
        binder.wait()
    end(watcher)
    pss = re.search(r"^Pss:\s+(\d+) kB", smaps, re.MULTILINE)
    assert pss
    measure.say("binds told of, with one CPU's worth of binds", rate / 1000, "thousand a second", "1 at least", unit="")
    measure.say("memory of a watcher that is busy", int(pss[1]) / 1024, "MB (PSS)", "at most 15", unit="")


if __name__ == "__main__":
    main()
