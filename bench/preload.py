# SPDX-License-Identifier: MIT
"""preload against root's own bind, authbind, and the bare interpreter; what stays in memory."""

from __future__ import annotations

import re
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


def launch(programs: Path) -> None:
    """From exec of the installed command to exec of the command."""
    stamp = str(programs / "stamp")
    launcher = [measure.privbind(), "-u", "nobody", "--via=preload", "--"]
    ways = {
        "bare": partial(measure.elapsed, [measure.PYTHON, "-I", "-S", "-c", "pass"]),
        "stamp": partial(measure.elapsed_to_stamp, [stamp]),
        "preload": partial(measure.elapsed_to_stamp, [*launcher, stamp]),
    }
    found = measure.interleaved(ways, 60)
    middle = {name: measure.median(samples) for name, samples in found.items()}
    ratio = (middle["preload"] - middle["stamp"]) / middle["bare"]
    measure.say("preload: launch until the command's exec", ratio, "python3 -I -S -c pass", "target: at most 2")


def memory() -> None:
    """What the helper adds to the memory in use, shared pages counted in parts (PSS)."""
    command = [measure.privbind(), "-u", "nobody", "--via=preload", "-v", "--", "sh", "-c", "echo up; read x"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    told = ""
    while "helper is process" not in told:
        told += process.stderr.readline()
    helper = re.search(r"helper is process (\d+)", told)
    assert helper
    rollup = Path(f"/proc/{helper[1]}/smaps_rollup").read_text()
    pss = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert pss
    process.communicate("\n")
    measure.say("preload: helper, MB (PSS)", int(pss[1]) / 1024, "", "target: at most 8", unit="MB")


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
