# SPDX-License-Identifier: MIT
"""seccomp against root's own bind and against preload in the same run; unreserved binds; what stays in memory."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path

import measure

ROUNDS = 15
BINDS = "400"


def bind_latency(programs: Path) -> None:
    """Reserved and unreserved binds, in microseconds above those without privbind."""
    loop = str(programs / "bindloop")

    def granted(mechanism: str, port: str) -> partial[list[int]]:
        command = [measure.privbind(), "-u", "nobody", f"--via={mechanism}", "--allow=tcp:80", "--"]
        return partial(measure.numbers, [*command, loop, BINDS, port])

    ways = {
        "root": partial(measure.numbers, [loop, BINDS, "80"]),
        "seccomp": granted("seccomp", "80"),
        "preload": granted("preload", "80"),
        "plain": partial(measure.numbers, [*measure.NOBODY, loop, BINDS, "8080"]),
        "seccomp, unreserved": granted("seccomp", "8080"),
    }
    found = measure.interleaved(ways, ROUNDS)
    middle = {name: measure.median(samples) / 1000 for name, samples in found.items()}
    above, preload = middle["seccomp"] - middle["root"], middle["preload"] - middle["root"]
    measure.say("seccomp: reserved bind, in μs", above, "above root's own bind", "target: at most 25", unit="")
    measure.say("preload: reserved bind, in μs", preload, "above root's own bind", "", unit="")
    measure.say("seccomp: reserved bind", middle["seccomp"] / middle["preload"], "preload's", "")
    unreserved = middle["seccomp, unreserved"] - middle["plain"]
    measure.say("seccomp: unreserved bind, in μs", unreserved, "above the same without privbind", "", unit="")


def launch(programs: Path) -> None:
    """From exec of the installed command to exec of the command."""
    stamp = str(programs / "stamp")
    ways = {
        "bare": partial(measure.elapsed, [measure.PYTHON, "-I", "-S", "-c", "pass"]),
        "stamp": partial(measure.elapsed_to_stamp, [stamp]),
        "seccomp": partial(
            measure.elapsed_to_stamp, [measure.privbind(), "-u", "nobody", "--via=seccomp", "--", stamp]
        ),
    }
    found = measure.interleaved(ways, 60)
    middle = {name: measure.median(samples) for name, samples in found.items()}
    ratio = (middle["seccomp"] - middle["stamp"]) / middle["bare"]
    measure.say("seccomp: launch until the command's exec", ratio, "python3 -I -S -c pass", "")


def memory() -> None:
    """What helper and keeper add to the memory in use, shared pages counted in parts (PSS)."""
    command = [measure.privbind(), "-u", "nobody", "--via=seccomp", "-v", "--", "sh", "-c", "echo up; read x"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    told = ""
    while "keeper process" not in told:
        told += process.stderr.readline()
    named = re.search(r"helper is process (\d+), its keeper process (\d+)", told)
    assert named
    size = {}
    for who, pid in zip(("helper", "keeper"), named.groups(), strict=True):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        pss = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        assert pss
        size[who] = int(pss[1]) / 1024
    process.communicate("\n")
    for who, megabytes in size.items():
        measure.say(f"seccomp: {who}, MB (PSS)", megabytes, "", "", unit="MB")
    measure.say("seccomp: both, MB (PSS)", sum(size.values()), "", "", unit="MB")


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    with measure.folder() as name:
        measure.build(Path(name))
        bind_latency(Path(name))
        launch(Path(name))
    memory()


if __name__ == "__main__":
    main()
