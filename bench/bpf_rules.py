# SPDX-License-Identifier: MIT
"""bpf against root's own bind: one rule and a thousand, at the launch and at each bind; and the launch itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure

sys.path.insert(0, str(measure.HERE.parent / "src"))

from privbind.grant.grant import Grant
from privbind.grant.policy import Policy
from privbind.grant.site import Site
from privbind.linux import bpf, cgroup
from privbind.mechanisms.bpf import compiler

ROUNDS = 30
BINDS = "1000"
SIZES = (1, 10, 100, 1000)
SITE = Site(netns=1, port_start=1024, cgroup=1, depth=1)


def with_addresses(count: int) -> str:
    """Rules for different networks and overlapping ranges; the last one is for the bind that is measured."""
    rules = [f"tcp:10.{n >> 4}.{n % 16 * 16}.0/{20 + n % 12}:{1 + n % 900}-{99 + n % 900}" for n in range(count - 1)]
    return ",".join([*rules, "tcp:127.0.0.1:80"])


def without_addresses(count: int) -> str:
    """Rules for one port each, half of them for each protocol."""
    return ",".join([*(f"{('tcp', 'udp')[n % 2]}:{1 + n}" for n in range(count - 1)), "tcp:80"])


SHAPES = {"ports": without_addresses, "addresses and ranges": with_addresses}


def granted(*options: str) -> list[str]:
    """The command line that runs a program under bpf."""
    return [measure.privbind(), "-u", "nobody", "--via=bpf", *options, "--"]


def bind_latency(programs: Path) -> None:
    """A reserved bind, by how many rules there are."""
    loop = [str(programs / "bindloop"), BINDS, "80"]
    ways = {"root": partial(measure.numbers, loop)}
    for shape, rules in SHAPES.items():
        for size in SIZES:
            ways[f"{size} rules, {shape}"] = partial(measure.numbers, [*granted("-a", rules(size)), *loop])
    ways["with a limit"] = partial(measure.numbers, [*granted("-n", "4000000000"), *loop])
    ways["root again"] = partial(measure.numbers, loop)
    found = measure.interleaved(ways, ROUNDS)
    middle = {name: measure.median(samples) for name, samples in found.items()}
    for name in list(ways)[1:]:
        target = "target: at most 1.03" if name.startswith("1 ") else "(noise)" if name == "root again" else ""
        measure.say(f"bpf: reserved bind, {name}", middle[name] / middle["root"], "root's own bind", target)
    measure.say("bpf: reserved bind, 1 rule, in μs", middle["1 rules, ports"] / 1000, "", "", unit="")


def load_time() -> None:
    """What compiling and loading take, for both programs together."""
    maps = {compiler.COUNTERS: bpf.create_array("bench", compiler.COUNTERS_SIZE)}
    for shape, rules in SHAPES.items():
        for size in SIZES:
            grant = Grant(Policy.parse([rules(size)]))
            compiling, loading = [], []
            for _ in range(9):
                start = time.monotonic_ns()
                codes = {hook: program.code(maps) for hook, program in compiler.programs(grant, SITE).items()}
                middle = time.monotonic_ns()
                for hook, code in codes.items():
                    os.close(bpf.load("privbind_bench", hook, code))
                loading.append(time.monotonic_ns() - middle)
                compiling.append(middle - start)
            shown = f"{size} rules, {shape}"
            longest = max(len(code) // 8 for code in codes.values())
            measure.say(f"bpf: compile {shown}, in ms", min(compiling) / 1e6, "", "", unit="ms")
            target = "target: at most 100" if size == max(SIZES) else ""
            measure.say(f"bpf: load {shown}, in ms", min(loading) / 1e6, f"{longest} instructions", target, unit="ms")
    for fd in maps.values():
        os.close(fd)


def move() -> list[int]:
    """Nanoseconds that the kernel takes to move a new process into a cgroup: waiting, not computing."""
    parent = cgroup.own()
    name = f"privbind-bench.{os.getpid()}"
    os.mkdir(name, dir_fd=parent.fd)
    child = cgroup.Cgroup(name, os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent.fd), 1, exact=False)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        start = time.monotonic_ns()
        child.enter()
        os.write(writer, b"%d" % (time.monotonic_ns() - start))
        os._exit(0)
    os.waitpid(pid, 0)
    sample = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    os.rmdir(name, dir_fd=parent.fd)
    child.close()
    parent.close()
    return [sample]


def launch(programs: Path) -> None:
    """From exec of the installed command to exec of the command."""
    stamp = str(programs / "stamp")
    ways: dict[str, Callable[[], list[int]]] = {
        "bare": partial(measure.elapsed, [measure.PYTHON, "-I", "-S", "-c", "pass"]),
        "stamp": partial(measure.elapsed_to_stamp, [stamp]),
        "move": move,
        "bpf": partial(measure.elapsed_to_stamp, [*granted("-a", "tcp:80"), stamp]),
    }
    found = measure.interleaved(ways, 100)
    middle = {name: measure.median(samples) for name, samples in found.items()}
    computing = middle["bpf"] - middle["stamp"] - middle["move"]
    against = "python3 -I -S -c pass"
    measure.say("bpf: launch until exec, without the move", computing / middle["bare"], against, "target: at most 1.6")
    measure.say("bpf: launch until exec, in ms", (middle["bpf"] - middle["stamp"]) / 1e6, "", "", unit="ms")
    measure.say("bpf: the kernel's wait for the move, in ms", middle["move"] / 1e6, "", "", unit="ms")


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    load_time()
    with measure.folder() as name:
        measure.build(Path(name))
        bind_latency(Path(name))
        launch(Path(name))


if __name__ == "__main__":
    main()
