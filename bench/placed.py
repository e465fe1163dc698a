# SPDX-License-Identifier: MIT
"""Placed grants: granting on a cgroup, and the OCI hook for a container with and without a grant."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure

ROUNDS = 40
MOST_MS = 5.0


def cgroup_mount() -> str:
    """Where the host's cgroup2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return line.split()[4]
    raise SystemExit("bench: cgroup v2 is not mounted")


class Container:
    """A process alone in a cgroup of its own, as a new container is, and the state that a runtime tells of it."""

    def __init__(self, name: str, folder: Path) -> None:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        self.path = f"{own.rstrip('/')}/privbind-bench.{os.getpid()}.{name}"
        self._directory = Path(cgroup_mount() + self.path)
        self._directory.mkdir()
        self._process = subprocess.Popen(
            ["sh", "-ec", 'echo $$ > "$0/cgroup.procs"; echo; exec cat', str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.state = folder / name
        self.state.write_text(json.dumps({"ociVersion": "1.0.2", "id": name, "pid": self._process.pid}))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._directory.rmdir()


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    with measure.folder() as name:
        containers = [Container(kind, Path(name)) for kind in ("without", "with", "granted")]
        try:
            report(Path(measure.privbind()).parent, *containers)
        finally:
            for container in containers:
                container.close()


def report(bin_folder: Path, without: Container, granted: Container, by_command: Container) -> None:
    """Measure in turns, and say what came of it."""
    hook, ctl = str(bin_folder / "privbind-oci-hook"), str(bin_folder / "privbindctl")

    def with_state(container: Container, *words: str) -> Callable[[], list[int]]:
        return partial(measure.elapsed, ["sh", "-c", 'exec "$@" <"$0" >/dev/null 2>&1', str(container.state), *words])

    spent: dict[str, float] = {}
    bare = (measure.PYTHON, "-I", "-S", "-c", "pass")
    found = measure.interleaved(
        {
            "bare": with_state(without, *bare),
            "start": with_state(without, hook, "--help"),
            "without": with_state(without, hook, "--runtime=containerd"),
            "with": with_state(granted, hook, "--allow=tcp:80"),
            "grant": with_state(by_command, ctl, "grant", f"--cgroup={by_command.path}", "--allow=tcp:80"),
        },
        ROUNDS,
    )
    for name, words in (("start", ("--help",)), ("without", ("--runtime=containerd",)), ("with", ("--allow=tcp:80",))):
        container = granted if name == "with" else without
        spent[name] = min(processor_ms([hook, *words], container.state) for _ in range(ROUNDS))
    least = {name: min(samples) / 1e6 for name, samples in found.items()}
    for name, what in (
        ("without", "hook, a container without a grant"),
        ("with", "hook, a container with a grant"),
        ("grant", "privbindctl grant on a cgroup"),
    ):
        beyond = least[name] - least["start"]
        target = f", target: at most {MOST_MS:g} ms more" if name == "without" else ""
        print(
            f"{what}: {least[name]:.1f} ms, {beyond:.1f} ms more than starting the process{target};"
            f" {least[name] / least['bare']:.2f} × bare interpreter"
        )
    for name, what in (("without", "without a grant"), ("with", "with a grant")):
        print(
            f"hook, a container {what}: {spent[name] - spent['start']:.1f} ms of processor time more than starting it"
        )


def processor_ms(argv: list[str], state: Path) -> float:
    """The processor time of a program, which does not depend on what else runs."""
    with state.open() as file, open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(argv, stdin=file, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return (usage.ru_utime + usage.ru_stime) * 1e3


if __name__ == "__main__":
    main()
