# SPDX-License-Identifier: MIT
"""preload against root's own bind, authbind, and the bare interpreter; what stays in memory."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import measure

ROUNDS = 12
FAST = "400"
SLOW = "40"
"""Binds in a run: with authbind each starts two processes."""


def bind_latency(programs: Path) -> None:
    """Reserved and unreserved binds, with and without."""
    loop = str(programs / "bindloop")
    granted = [measure.privbind(), "-u", "nobody", "--via=preload", "--allow=tcp:80", "--"]
    # authbind looks for a file that the user may execute.
    port = Path("/etc/authbind/byport/80")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", port.parent], check=True)
    port.touch(mode=0o755)
    ways = {
        "root": partial(measure.numbers, [loop, FAST, "80"]),
        "preload": partial(measure.numbers, [*granted, loop, FAST, "80"]),
        "authbind": partial(measure.numbers, [*measure.NOBODY, "authbind", loop, SLOW, "80"]),
        "plain": partial(measure.numbers, [*measure.NOBODY, loop, FAST, "8080"]),
        "preload, unreserved": partial(measure.numbers, [*granted, loop, FAST, "8080"]),
    }
    found = measure.interleaved(ways, ROUNDS)
    middle = {name: measure.median(samples) for name, samples in found.items()}
    preload, authbind = middle["preload"], middle["authbind"]
    measure.say("preload: reserved bind", preload / middle["root"], "root's own bind", "")
    measure.say("preload: reserved bind", preload / authbind, "authbind's", "target: at most 0.125")
    measure.say("preload: reserved bind, in μs", preload / 1000, "", "", unit="")
    ratio = middle["preload, unreserved"] / middle["plain"]
    measure.say("preload: unreserved bind", ratio, "the same without privbind", "target: at most 1.05")


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    with measure.folder() as name:
        measure.build(Path(name))
        bind_latency(Path(name))
        ratio = measure.launch_ratio("preload", Path(name))
    measure.say("preload: launch until the command's exec", ratio, "python3 -I -S -c pass", "target: at most 2")
    (helper,) = measure.memory("preload", r"helper is process (\d+)")
    measure.say("preload: helper, MB (PSS)", helper, "", "target: at most 8", unit="MB")


if __name__ == "__main__":
    main()
