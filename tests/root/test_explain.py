"""privbindctl explain: why a bind is refused, or by which right it is granted, and what to type."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from privbind.linux import bpf
from privbind.mechanisms.bpf.assembly import R0, R1, R2, Assembly

from ..harness.host import python
from ..harness.situations import BINDER, GRANTS, placed, started
from ..harness.standing import StandingHost


@pytest.fixture(scope="module")
def place(installed: Path) -> Iterator[StandingHost]:
    """One host for all tests here but one."""
    with contextlib.closing(StandingHost(installed)) as host:
        yield host


def test_who_is_not_root(place: StandingHost) -> None:
    """Asks about themselves: the verdict is the kernel's, and what could not be seen is said."""
    ctl = place.ctl_path
    for user, verdict in (("alice", "permitted"), ("bob", "refused")):
        place.load(GRANTS)
        found = json.loads(place.as_user(user, [ctl, "explain", "tcp:127.0.0.1:80", "--json"]).ok().out)
        assert (found["verdict"], found["checked"]) == (verdict, True), found
        assert any("run as root" in line for line in found["unseen"])
        place.ctl("unload").ok()
        found = json.loads(place.as_user(user, [ctl, "explain", "tcp:127.0.0.1:80", "--json"]).ok().out)
        assert (found["verdict"], found["checked"]) == ("refused", True), found
    assert any("privbindctl allow bob tcp:127.0.0.1:80" in line for line in found["remedies"])
    others = json.loads(place.as_user("bob", [ctl, "explain", "tcp:80", "--user=alice", "--json"]).ok().out)
    assert others["verdict"] == "unknown"
    assert any("only root can ask for others" in line for line in others["unseen"])


def test_what_root_asks_for_a_user(place: StandingHost) -> None:
    """In words: the grant with file and line; what to type gives the right."""
    place.load(GRANTS)
    lines = place.ctl("explain", "tcp:127.0.0.1:80", "--user=alice").ok().lines
    assert lines[0] == "alice may bind tcp:127.0.0.1:80"
    assert any("standing grant for alice (uid 4001) (/etc/privbind/grants.d/test.toml:2)" in line for line in lines)
    lines = place.ctl("explain", "tcp:81", "--user=bob").ok().lines
    assert lines[0] == "bob may not bind tcp:81"
    (line,) = (line for line in lines if "# for good" in line)
    place.ctl(*line.split("privbindctl ")[1].split("  #")[0].split()).ok()
    assert place.ctl("explain", "tcp:81", "--user=bob").ok().lines[0] == "bob may bind tcp:81"


def test_grants_for_others(place: StandingHost) -> None:
    """Of launches and a placed grant that speak of the port it is told that they are for other processes."""
    place.ctl("unload").ok()
    allow = "--allow=tcp:80"
    launched, helped = (
        started(place, place.command(python(BINDER), f"--via={way}", allow, user="alice")) for way in ("bpf", "preload")
    )
    granted = placed(allow)(place)
    found = json.loads(place.ctl("explain", "tcp:80", "--user=alice", "--json").ok().out)
    assert found["verdict"] == "refused"
    told = {(grant["mechanism"], grant["source"].partition(",")[0]) for grant in found["grants"]}
    assert {("bpf", f"launch of process {launched.pid}"), ("preload", f"launch of process {helped.pid}")} <= told
    assert any(grant["kind"] == "placed" for grant in found["grants"])
    assert {grant["why_not"] for grant in found["grants"]} == {"elsewhere"}
    for process in (launched, helped, granted):
        asked = place.ctl("explain", "tcp:80", f"--pid={process.pid}", "--json").ok()
        assert json.loads(asked.out)["verdict"] == "permitted"


def test_a_user_in_the_place_of_a_process(place: StandingHost) -> None:
    """The capabilities of the process that is there are not the user's."""
    place.ctl("unload").ok()
    root = started(place, python(BINDER))
    for more, verdict in (([], "permitted-by-none-of-ours"), (["--user=alice"], "refused")):
        found = json.loads(place.ctl("explain", "tcp:80", f"--pid={root.pid}", *more, "--json").ok().out)
        assert (found["verdict"], found["pid"]) == (verdict, root.pid), found
    place.load(GRANTS)
    lines = place.ctl("explain", "tcp:127.0.0.1:80", f"--pid={root.pid}", "--user=alice").ok().lines
    assert lines[0].endswith(", alice) may bind tcp:127.0.0.1:80")
    root.communicate("")


def test_a_program_of_anothers_is_in_the_way(standing: StandingHost) -> None:
    """It refuses what a grant permits: the verdict is the kernel's, and the program is named."""
    standing.load(GRANTS)

    def forbid() -> None:
        asm = Assembly("another's")
        asm.load_32(R2, R1, 24, "user_port")
        asm.move(R0, 1)
        asm.jump_if(R2, "==", 0, "end", "any free port")
        asm.move(R0, 0)
        asm.label("end")
        asm.exit()
        bpf.attach(standing.tree.fd, bpf.load("sd_bind4", bpf.INET4_BIND, asm.code({})), bpf.INET4_BIND)

    standing.inside(forbid)
    lines = standing.ctl("explain", "tcp:127.0.0.1:80", "--user=alice").ok().lines
    assert lines[0] == "alice may not bind tcp:127.0.0.1:80"
    assert any("something else is in the way" in line for line in lines)
    assert any(line.startswith("  in the way") and "SocketBindDeny=" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "explain: which rule? (privbindctl explain tcp:80)"),
        (("tcp:99999",), "rule 'tcp:99999': port '99999' is not a whole number from 1 to 65535"),
        (("sctp:80",), "rule 'sctp:80': unknown protocol 'sctp' (tcp or udp)"),
        (("tcp:80", "--user=nobody-at-all"), "--user: unknown user 'nobody-at-all'"),
        (
            ("tcp:80", "--pid=4194305"),
            "--pid: there is no process 4194305 that can be seen (No such process)",
        ),
        (("tcp:80", "--pid=self"), "--pid 'self' is not a whole number from 1 to 4294967295"),
    ],
)
def test_bad_input(place: StandingHost, words: tuple[str, ...], message: str) -> None:
    found = place.ctl("explain", *words)
    assert (found.status, found.out, found.err) == (125, "", f"privbindctl: {message}\n")
