# SPDX-License-Identifier: MIT
"""Everything that is measured, with the installed wheel: `make bench`.

What it found goes to build/bench.json as well, from which bench/plot.py makes docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import measure

HERE = Path(__file__).resolve().parent
PARTS = ("compare.py", "launch.py", "preload.py", "seccomp.py", "bpf_rules.py", "standing.py", "placed.py", "watch.py")
RESULTS = HERE.parent / "build/bench.json"


def install(wheel: Path, venv: Path) -> Path:
    """Install a wheel into a new virtual environment, for a Python that every user can run; its `privbind`."""
    subprocess.run([measure.PYTHON, "-m", "venv", "--without-pip", venv], check=True, umask=0o022)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python3")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, umask=0o022)
    return venv / "bin/privbind"


def machine() -> dict[str, str]:
    """What it ran on."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "kernel": f"Linux {platform.release()} {platform.machine()}",
        "processor": f"{os.cpu_count()} × {models[0] if models else platform.processor() or 'unknown'}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def run(part: str, environment: dict[str, str]) -> list[str]:
    """Run one part; the lines that it printed, which are shown as they come."""
    lines = []
    with subprocess.Popen([sys.executable, HERE / part], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise SystemExit(f"bench: {part} failed")
    return lines


def main() -> None:
    """Install the wheel, run each part, say on what it ran, and keep the results."""
    (wheel,) = (HERE.parent / "dist").glob("*.whl")
    host = machine()
    print(f"{host['kernel']}, {host['processor']}, Python {host['python']}, load {host['load']}")
    with measure.folder() as folder:
        command = install(wheel, Path(folder) / "venv")
        figures = Path(folder) / "figures.json"
        environment = {**os.environ, "PRIVBIND_COMMAND": str(command), "PRIVBIND_BENCH_JSON": str(figures)}
        printed = [line for part in PARTS for line in run(part, environment)]
        results = {"machine": host, "printed": printed, **json.loads(figures.read_text())}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
