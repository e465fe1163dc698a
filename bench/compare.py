# SPDX-License-Identifier: MIT
"""All mechanisms and the peers that Debian ships, side by side in one run: a bind, an unreserved bind, a launch."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure

ROUNDS = 15
FAST = "400"
SLOW = "40"
"""Binds in a run: with authbind each starts two processes."""

AMBIENT_BY_SETPRIV = [*measure.NOBODY, "--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]


def granted(mechanism: str) -> list[str]:
    """The command line that runs a program by a mechanism."""
    rules = [] if mechanism == "ambient" else ["--allow=tcp:80"]
    return [measure.privbind(), "-u", "nobody", f"--via={mechanism}", *rules, "--"]


def starters() -> dict[str, list[str]]:
    """What runs a program as nobody with the right to port 80."""
    # authbind looks for a file that the user may execute.
    port = Path("/etc/authbind/byport/80")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", port.parent], check=True)
    port.touch(mode=0o755)
    found = {name: granted(name) for name in ("bpf", "seccomp", "preload", "ambient")}
    return found | {"authbind": [*measure.NOBODY, "authbind"], "setpriv, ambient": AMBIENT_BY_SETPRIV}


def figures(ways: dict[str, Callable[[], list[int]]], rounds: int, unit: float) -> dict[str, list[float]]:
    """For each way the 10th percentile, the median and the 90th percentile."""
    found = {}
    for name, samples in measure.interleaved(ways, rounds).items():
        tenths = statistics.quantiles(samples, n=10)
        found[name] = [round(value / unit, 3) for value in (tenths[0], measure.median(samples), tenths[8])]
    return found


def main() -> None:
    """Print the ratios; PRIVBIND_BENCH_JSON names a file for the figures themselves."""
    measure.enter_own_host()
    ways = starters()
    with measure.folder() as name:
        measure.build(Path(name))
        loop, stamp = f"{name}/bindloop", f"{name}/stamp"
        reserved: dict[str, Callable[[], list[int]]] = {"root": partial(measure.numbers, [loop, FAST, "80"])}
        unreserved: dict[str, Callable[[], list[int]]] = {
            "nobody": partial(measure.numbers, [*measure.NOBODY, loop, FAST, "8080"])
        }
        launch: dict[str, Callable[[], list[int]]] = {
            "nothing": partial(measure.elapsed_to_stamp, [stamp]),
            "python3 -I -S -c pass": partial(measure.elapsed, [measure.PYTHON, "-I", "-S", "-c", "pass"]),
        }
        for way, start in ways.items():
            rounds = SLOW if way == "authbind" else FAST
            reserved[way] = partial(measure.numbers, [*start, loop, rounds, "80"])
            unreserved[way] = partial(measure.numbers, [*start, loop, FAST, "8080"])
            launch[way] = partial(measure.elapsed_to_stamp, [*start, stamp])
        results = {
            "reserved": figures(reserved, ROUNDS, 1e3),
            "unreserved": figures(unreserved, ROUNDS, 1e3),
            "launch": figures(launch, 40, 1e6),
        }
    for title, part, base in (
        ("reserved bind", "reserved", "root"),
        ("unreserved bind", "unreserved", "nobody"),
        ("launch", "launch", "python3 -I -S -c pass"),
    ):
        against = {"root": "root's own bind", "nobody": "the same without"}.get(base, base)
        for way in ways:
            measure.say(f"{way}: {title}", results[part][way][1] / results[part][base][1], against, "")
    if place := os.environ.get("PRIVBIND_BENCH_JSON"):
        Path(place).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
