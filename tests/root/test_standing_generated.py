"""Generated files of grants, and binds by many users, against a model that reads neither the files nor the table."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
from collections.abc import Iterator
from typing import NamedTuple

from privbind.account import Account, become
from privbind.grant.policy import Policy, Rule, unmapped
from privbind.standing import files, load, text
from privbind.standing.names import System
from privbind.standing.resolve import Key, resolve

from ..harness.budget import rounds
from ..harness.forks import try_bind
from ..harness.standing import ALICE, BOB, CAROL, DAVE, SUBIDS, USERS, WEB, StandingHost

SETS = rounds(100, 400)
BINDS = 12
SEED = 20261124

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.1.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0")
NETWORKS = (
    "127.0.0.1", "127.0.0.0/8", "127.0.0.0/31", "127.0.0.2/31", "0.0.0.0", "0.0.0.0/0", "0.0.0.0/1", "127.1.0.0/16",
    "[::1]", "[::]", "[::/0]", "[::/64]", "[::ffff:127.0.0.1]", "[::ffff:127.0.0.0/104]", "[fd00::/8]", "192.0.2.1",
)  # fmt: skip
PORTS = (1, 79, 80, 81, 255, 256, 257, 511, 512, 1022, 1023)


class Person(NamedTuple):
    """One who binds: real ids, and which holders he is."""

    uid: int
    gid: int
    users: frozenset[str]
    in_web: bool
    subordinate: bool = False


PEOPLE = (
    Person(ALICE, ALICE, frozenset({"alice"}), in_web=False),
    Person(BOB, BOB, frozenset({"bob"}), in_web=False),
    Person(CAROL, CAROL, frozenset({"carol"}), in_web=True),
    Person(DAVE, BOB, frozenset({"dave"}), in_web=True),
    Person(4100, WEB, frozenset(), in_web=True),
    Person(SUBIDS[0] + 300, 4100, frozenset({"alice"}), in_web=False, subordinate=True),
    Person(4100, 4100, frozenset(), in_web=False),
)


class Entry(NamedTuple):
    """What one entry says."""

    users: tuple[str, ...]
    web: bool
    subids: bool
    rules: tuple[str, ...]

    def toml(self, chance: random.Random) -> str:
        """It, in one of the ways in which it can be written."""
        users = [str(USERS[name][0]) if chance.random() < 0.3 else f'"{name}"' for name in self.users]
        lines = []
        if users:
            lines.append(f"user = {users[0]}" if len(users) == 1 else f"user = [{', '.join(users)}]")
        if self.web:
            lines.append(chance.choice(('group = "web"', f"group = [{WEB}]")))
        lines.append("allow = [" + ", ".join(f'"{rule}"' for rule in self.rules) + "]")
        if self.subids:
            lines.append("subids = true")
        chance.shuffle(lines)
        return "\n".join(["[[grant]]", *lines])

    def permits(self, person: Person, protocol: str, address: bytes, port: int) -> bool:
        """The model."""
        named = bool(person.users & set(self.users))
        meant = (named and (self.subids or not person.subordinate)) or (self.web and person.in_web)
        return meant and Policy.parse(self.rules).permits(protocol, address, port)


def generated(chance: random.Random) -> Entry:
    users = tuple(chance.sample(sorted(USERS), chance.randint(0, 2)))
    rules = []
    for _ in range(chance.randint(1, 4)):
        protocol = chance.choice(("tcp:", "udp:", ""))
        network = chance.choice(("", "", *(f"{where}:" for where in NETWORKS)))
        low, high = sorted(chance.choices(PORTS, k=2))
        ports = chance.choice((str(low), f"{low}-{high}", f"{low}-{high}", "any")) if low != high else str(low)
        rules.append(f"{protocol}{network}{ports}")
    return Entry(users, not users or chance.random() < 0.3, chance.random() < 0.3, tuple(rules))


def binds(chance: random.Random) -> Iterator[tuple[str, str, int]]:
    for _ in range(BINDS):
        yield chance.choice(("tcp", "udp")), chance.choice(ADDRESSES), chance.choice(PORTS)


class Binder:
    """A process of somebody's that makes the binds that it is told."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._channel.close()
                become(Account(person.uid, person.gid, ()))
                while wanted := theirs.recv(1 << 16):
                    theirs.send("".join(self._bind(*bind) for bind in json.loads(wanted)).encode())
            finally:
                os._exit(0)
        theirs.close()

    @staticmethod
    def _bind(protocol: str, address: str, port: int) -> str:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        return "01"[try_bind(port, address, kind) in ("ok", "EADDRNOTAVAIL")]

    def answers(self, wanted: list[tuple[str, str, int]]) -> str:
        """A 1 for each that is not refused, else a 0."""
        self._channel.send(json.dumps(wanted).encode())
        told = self._channel.recv(1 << 16).decode()
        assert len(told) == len(wanted)
        return told

    def end(self) -> None:
        self._channel.close()
        os.waitpid(self._pid, 0)


def test_generated_files_grant_what_the_model_says(standing: StandingHost) -> None:
    """Sets of files, loaded one after the other, and binds by seven people: no mismatch, and both answers."""

    def read() -> tuple[dict[Key, tuple[Rule, ...]], bytes]:
        resolved = resolve(files.read(), System())
        return resolved.rules(), text.encode(text.describe(resolved))

    def run() -> tuple[list[str], int, int]:
        chance = random.Random(SEED)
        wrong, allowed, refused = [], 0, 0
        binders = [Binder(person) for person in PEOPLE]
        with standing.target() as target:
            for number in range(SETS):
                written = [
                    [generated(chance) for _ in range(chance.randint(0, 3))] for _ in range(chance.randint(1, 3))
                ]
                entries = [entry for file in written for entry in file]
                standing.clear()
                for name, file in enumerate(written):
                    standing.write("\n".join(entry.toml(chance) for entry in file), f"{name}.toml")
                load.load(target, read)
                for binder in binders:
                    person, wanted = binder.person, list(binds(chance))
                    for told, (protocol, address, port) in zip(binder.answers(wanted), wanted, strict=True):
                        packed = unmapped(ipaddress.ip_address(address).packed)
                        expected = any(entry.permits(person, protocol, packed, port) for entry in entries)
                        allowed += expected
                        refused += not expected
                        if expected != (told == "1"):
                            wrong.append(f"set {number}: {person} {protocol} {address} {port}: {told}: {entries}")
        for binder in reversed(binders):  # each has the channels of those before it
            binder.end()
        return wrong, allowed, refused

    wrong, allowed, refused = standing.inside(run)
    assert wrong == []
    assert allowed > SETS
    assert refused > SETS
