"""The one table of situations that both `watch` and `explain` are held to.

In each a process is told to bind. Before it does so, `explain` is asked about that very process; `watch` sees it
happen. Both must name the same verdict, the same kind of right and the same reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .host import python, read_line
from .standing import StandingHost

BINDER = """
import socket, sys
kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
print("up", flush=True)
for line in sys.stdin:
    protocol, address, port = line.split()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kinds[protocol]) as s:
        try:
            s.bind((address, int(port)))
            said = "ok"
        except OSError as error:
            said = error.errno
    print(said, flush=True)
"""
"""A program that binds what it is told (protocol, address, port), says what came of it, and lets go of it."""

BOUND, BY_NONE, REFUSED, FAILED = "bound", "bound-by-none-of-ours", "refused", "failed"
"""What watch says."""
EXPLAINED = {BOUND: "permitted", BY_NONE: "permitted-by-none-of-ours", REFUSED: "refused", FAILED: "in-use"}
"""What explain says of the same."""

OK, EACCES, EADDRINUSE = "ok", "13", "98"

GRANTS = """
[[grant]]
user = "alice"
allow = ["tcp:127.0.0.1:80", "tcp:[::1]:80"]

[[grant]]
group = "web"
allow = ["udp:53"]
"""

Start = Callable[[StandingHost], "subprocess.Popen[Any]"]


@dataclass(frozen=True)
class Situation:
    """How a process is started, what it binds, what comes of it, and what is to be said about that.

    ``right`` is the kind of the right that permits it, and ``mechanism`` how; ``why_not`` is why the nearest grant does
    not. ``helper``: a helper binds for it. ``before`` is bound by it first.
    """

    name: str
    start: Start
    bind: str
    answer: str
    verdict: str
    right: str = ""
    mechanism: str = ""
    why_not: str = ""
    helper: bool = False
    before: str = ""
    taken: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def rule(self) -> str:
        """What is bound, as a rule."""
        protocol, address, port = self.bind.split()
        return f"{protocol}:{f'[{address}]' if ':' in address else address}:{port}"


def started(host: StandingHost, argv: Sequence[object]) -> subprocess.Popen[Any]:
    """Start a program that says that it is up."""
    process = host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert read_line(process) == "up\n"
    return process


def user(name: str, *more: str) -> Start:
    """A binder of this user's, with what setpriv is told besides."""
    return lambda host: started(host, host.words_as(name, python(BINDER), *more))


def _launch(mechanism: str, *options: str) -> Start:
    return lambda host: started(host, host.command(python(BINDER), f"--via={mechanism}", *options, user="bob"))


def placed(*options: str) -> Start:
    """bob's, in a cgroup of its own that has this grant."""

    def start(host: StandingHost) -> subprocess.Popen[Any]:
        name = host.tree.make(f"placed{len(os.listdir(host.tree.fd))}")
        enter = ["sh", "-ec", 'echo 0 > "$0/cgroup.procs"; exec "$@"', f"{host.cgroup}/{name}"]
        process = started(host, [*enter, *host.words_as("bob", python(BINDER))])
        host.ctl("grant", f"--pid={process.pid}", *options).ok()
        return process

    return start


def _elsewhere(host: StandingHost) -> subprocess.Popen[Any]:
    """As alice, in another network namespace."""
    up = ["unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh"]
    return started(host, [*up, *host.words_as("alice", python(BINDER))])


CAPABLE = ("--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service")
TCP80, RULE80 = "tcp 127.0.0.1 80", "--allow=tcp:127.0.0.1:80"

SITUATIONS = [
    Situation("a standing grant of the user", user("alice"), TCP80, OK, BOUND, "standing", "bpf"),
    Situation("the same over IPv6", user("alice"), "tcp ::1 80", OK, BOUND, "standing", "bpf"),
    Situation("a standing grant of the group", user("dave"), "udp 127.0.0.1 53", OK, BOUND, "standing", "bpf"),
    Situation("a placed grant", placed(RULE80), TCP80, OK, BOUND, "placed", "bpf"),
    Situation("a launch by bpf", _launch("bpf", RULE80), TCP80, OK, BOUND, "launch", "bpf"),
    Situation("a launch by seccomp", _launch("seccomp", RULE80), TCP80, OK, BOUND, "launch", "seccomp", helper=True),
    Situation("a launch by preload", _launch("preload", RULE80), TCP80, OK, BOUND, "launch", "preload", helper=True),
    Situation("a launch by ambient", _launch("ambient"), TCP80, OK, BY_NONE, "capability"),
    Situation("an own capability", user("bob", *CAPABLE), TCP80, OK, BY_NONE, "capability"),
    Situation("another port", user("alice"), "tcp 127.0.0.1 81", EACCES, REFUSED, why_not="port"),
    Situation("another protocol", user("alice"), "udp 127.0.0.1 80", EACCES, REFUSED, why_not="protocol"),
    Situation("another address", user("alice"), "tcp 127.0.0.2 80", EACCES, REFUSED, why_not="address"),
    Situation("another user", user("bob"), TCP80, EACCES, REFUSED, why_not="user"),
    Situation("another port of a launch by seccomp", _launch("seccomp", RULE80), "tcp 127.0.0.1 82", EACCES, REFUSED),
    Situation("a used up limit", placed(RULE80, "-n1"), TCP80, EACCES, REFUSED, why_not="limit", before=TCP80),
    Situation("another network namespace", _elsewhere, TCP80, EACCES, REFUSED, why_not="namespace"),
    Situation("in use", user("alice"), TCP80, EADDRINUSE, FAILED, "standing", "bpf", taken=True),
]


def tell(process: subprocess.Popen[Any], bind: str) -> str:
    """Have a binder bind; what it says."""
    assert process.stdin is not None
    process.stdin.write(f"{bind}\n")
    process.stdin.flush()
    return read_line(process).strip()


TAKE = """
import socket, sys
s = socket.socket(); s.bind(("127.0.0.1", 80)); s.listen(); print("up", flush=True); sys.stdin.read()
"""


def take(host: StandingHost) -> subprocess.Popen[Any]:
    """Have root listen on the port."""
    return started(host, python(TAKE))
