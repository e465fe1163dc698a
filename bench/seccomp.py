# SPDX-License-Identifier: MIT
"""seccomp against root's own bind and against preload in the same run; unreserved binds; what stays in memory."""

from __future__ import annotations

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


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    with measure.folder() as name:
        measure.build(Path(name))
        bind_latency(Path(name))
        ratio = measure.launch_ratio("seccomp", Path(name))
    measure.say("seccomp: launch until the command's exec", ratio, "python3 -I -S -c pass", "")
    sizes = measure.memory("seccomp", r"helper is process (\d+), its backup process (\d+)")
    for who, megabytes in zip(("helper", "backup"), sizes, strict=True):
        measure.say(f"seccomp: {who}, MB (PSS)", megabytes, "", "", unit="MB")
    measure.say("seccomp: both, MB (PSS)", sum(sizes), "", "", unit="MB")


if __name__ == "__main__":
    main()
