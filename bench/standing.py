# SPDX-License-Identifier: MIT
"""Standing grants: a bind by a user who has one against root's own, by how many have one; loading; memory."""

from __future__ import annotations

import os
import re
import sys
import time
from functools import partial
from pathlib import Path

import measure

sys.path.insert(0, str(measure.HERE.parent / "src"))

from privbind.grant.policy import Policy
from privbind.linux import bpf, cgroup, sockets
from privbind.standing import load, text
from privbind.standing.resolve import UID, Key
from privbind.standing.text import Granted

ROUNDS = 30
BINDS = "1000"
HOLDERS = (1, 100, 1000)
RULES = 20
FIRST = 20_000  # the uid of the first holder, who is measured
STRANGER = 65534


class Place:
    """A cgroup below the own one with grants for so many users, each with so many rules."""

    def __init__(self, holders: int) -> None:
        self.own = cgroup.own()
        self.name = f"privbind-bench.{os.getpid()}.{holders}"
        os.mkdir(self.name, dir_fd=self.own.fd)
        fd = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.own.fd)
        self.path = os.readlink(f"/proc/self/fd/{fd}")
        self.target = load.Target(cgroup.Cgroup(self.name, fd, 1, exact=False), sockets.netns_cookie())
        self.grants = {}
        for number in range(holders):
            # Half of the rules have an address, and no two users have the same ones.
            ports = [f"tcp:{1 + (number + 7 * rule) % 1000}" for rule in range(RULES // 2 - 1)]
            places = [f"udp:10.{number >> 8}.{number & 255}.{rule}:53" for rule in range(RULES // 2)]
            self.grants[Key(UID, FIRST + number)] = Policy.parse([*ports, *places, "tcp:80"]).rules or ()

    def load(self, rest: str = "") -> float:
        """Load them; how long that took, in seconds. ``rest`` makes it another load."""
        start = time.monotonic()
        told = {
            key: Granted(f"user{key.first}{rest}", ((tuple(map(str, rules)), "bench.toml:1"),))
            for key, rules in self.grants.items()
        }
        assert load.load(self.target, lambda: (self.grants, text.encode(told)))
        return time.monotonic() - start

    def loop(self, uid: int, programs: Path, port: str) -> list[str]:
        """The command line that measures binds of a user here."""
        enter = ["sh", "-c", 'echo 0 > "$0/cgroup.procs"; exec "$@"', self.path]
        return [*enter, *as_user(uid), str(programs / "bindloop"), BINDS, port]

    def memory(self) -> tuple[float, float]:
        """Bytes of the kernel's memory: for the table, and for the programs."""
        table = programs = 0
        for hook in (bpf.INET4_BIND, bpf.INET6_BIND):
            (number,) = bpf.query(self.target.cgroup.fd, hook)[1]
            fd = bpf.open_program(number)
            programs += memlock(fd)
            slot = bpf.open_map(bpf.program_info(fd)[2][0])
            held = bpf.open_slot(slot)
            table = memlock(held)
            for opened in (fd, slot, held):
                os.close(opened)
        return table, programs

    def end(self) -> None:
        """Take everything away."""
        load.unload(self.target)
        self.target.cgroup.close()
        os.rmdir(self.name, dir_fd=self.own.fd)
        self.own.close()


def as_user(uid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]


def memlock(fd: int) -> int:
    """What the kernel says that an object takes (proc_pid_fdinfo(5))."""
    found = re.search(r"^memlock:\s+(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def binds(places: dict[int, Place], programs: Path) -> None:
    """What a bind takes, by who makes it and how many have a grant."""
    loop = [str(programs / "bindloop"), BINDS]
    ways = {"root": partial(measure.numbers, [*loop, "80"])}
    for holders, place in places.items():
        ways[f"{holders}"] = partial(measure.numbers, place.loop(FIRST, programs, "80"))
    most = places[max(places)]
    ways["root again"] = partial(measure.numbers, [*loop, "80"])
    ways["unreserved"] = partial(measure.numbers, [*as_user(STRANGER), *loop, "8080"])
    ways["unreserved, hooks"] = partial(measure.numbers, most.loop(STRANGER, programs, "8080"))
    found = measure.interleaved(ways, ROUNDS)
    middle = {name: measure.median(samples) for name, samples in found.items()}
    for holders in places:
        target = "target: at most 1.05" if holders == 1 else ""
        ratio = middle[f"{holders}"] / middle["root"]
        measure.say(f"standing: reserved bind, {holders} holders", ratio, "root's own bind", target)
    measure.say("standing: the same by root again", middle["root again"] / middle["root"], "root's own bind", "(noise)")
    ratio = middle["unreserved, hooks"] / middle["unreserved"]
    measure.say("standing: unreserved bind of a user without a grant", ratio, "the same without the programs", "")


def main() -> None:
    """Print the figures."""
    measure.enter_own_host()
    places = {holders: Place(holders) for holders in HOLDERS}
    try:
        for holders, place in places.items():
            first = place.load()
            again = min(place.load(f" {number}") for number in range(5))
            what = f"{holders} holders × {RULES} rules"
            target = "target: under 1000" if holders == max(HOLDERS) else ""
            measure.say(f"standing: first load, {what}, in ms", first * 1000, "", target, unit="ms")
            measure.say(f"standing: load again, {what}, in ms", again * 1000, "", target, unit="ms")
            table, programs = place.memory()
            measure.say(f"standing: the kernel's memory, {what}, in KB", table / 1024, "", "", unit="KB")
        measure.say("standing: the kernel's memory for the programs, in KB", programs / 1024, "", "", unit="KB")
        with measure.folder() as name:
            measure.build(Path(name))
            binds(places, Path(name))
    finally:
        for place in places.values():
            place.end()


if __name__ == "__main__":
    main()
