"""What follows from what was seen of a bind, and how it is said: no kernel is asked here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.grant.policy import Policy, Rule
from privbind.inspect import units
from privbind.inspect.rights import Asker, Found, Right, lacks, one_bind, why_not
from privbind.inspect.verdict import VERDICTS, Facts, Taken, Who, judge
from privbind.standing.resolve import GID, UID, Key

from ..harness.policies import close_binds, close_rules, packed

ALICE = Who(4001, 4001, "alice")
HOME = 7


def a_right(rules: str, **more: Any) -> Right:
    usual = {"kind": "standing", "mechanism": "bpf", "source": "f.toml:1", "holder": "alice (uid 4001)"}
    return Right(**{**usual, "key": Key(UID, 4001), "netns": HOME, **more}, policy=Policy.parse([rules]))


def facts(rules: str, *rights: Right, **more: Any) -> Facts:
    usual: dict[str, Any] = {"port_start": 1024, "capability": False, "here": Found(rights)}
    asker = Asker(ALICE.uid, ALICE.gid, HOME, True)
    return Facts(**{"rules": Policy.parse([rules]).rules or (), "who": ALICE, "asker": asker, **usual, **more})


ROWS: list[tuple[str, Facts, str]] = [
    ("nothing", facts("tcp:80"), "refused"),
    ("a grant", facts("tcp:80", a_right("tcp:80")), "permitted"),
    ("two together", facts("80", a_right("tcp:80"), a_right("udp:80")), "permitted"),
    ("one of two", facts("80", a_right("tcp:80")), "partly"),
    ("one address", facts("tcp:80", a_right("tcp:127.0.0.1:80")), "partly"),
    ("the capability", facts("tcp:80", capability=True), "permitted-by-none-of-ours"),
    ("not reserved", facts("tcp:8080"), "not-reserved"),
    ("all reserved that is meant", facts("tcp:1000-2000", a_right("tcp:1000-1023")), "permitted"),
    ("lowered", facts("tcp:80", port_start=80), "not-reserved"),
    ("the kernel says no", facts("tcp:80", a_right("tcp:80"), refused=("tcp:80",)), "refused"),
    ("the kernel says yes", facts("tcp:80", refused=()), "permitted-by-none-of-ours"),
    ("the kernel says yes to a user", facts("tcp:80", here=None, refused=()), "permitted"),
    ("and no", facts("tcp:80", here=None, refused=("tcp:80",)), "refused"),
    ("not loaded", facts("tcp:80", here=None, files=(a_right("tcp:80"),), refused=("tcp:80",)), "refused"),
    ("loaded", facts("tcp:80", here=None, files=(a_right("tcp:80"),), refused=()), "permitted"),
    ("nothing is seen", facts("tcp:80", here=None, files=(a_right("tcp:80"),)), "unknown"),
    ("part by the kernel", facts("tcp:80-81", refused=("tcp:81",), here=None), "partly"),
    ("in use", facts("tcp:80", a_right("tcp:80"), taken=(Taken("tcp", "0.0.0.0", 80, 0),)), "in-use"),
    ("in use, and refused", facts("tcp:80", taken=(Taken("tcp", "0.0.0.0", 80, 0),)), "refused"),
]


@pytest.mark.parametrize(("seen", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_verdict(seen: Facts, verdict: str) -> None:
    found = judge(seen)
    assert found.verdict == verdict
    if verdict in ("refused", "unknown", "not-reserved"):
        assert found.right == ()
    assert bool(found.remedies) == (verdict in ("refused", "partly", "in-use"))
    assert json.loads(json.dumps(found.values()))["verdict"] == verdict
    assert all("\n" not in line for line in found.lines())


def test_what_is_in_the_way() -> None:
    """By name, as far as it is known; without them nothing is said."""
    others = Found((a_right("tcp:80"),), ("sd_bind4", "somebody_elses"))
    lines = judge(facts("tcp:80", here=others, refused=("tcp:80",), filtered=True, shim=False)).lines()
    for words in ("SocketBindDeny=", "'somebody_elses'", "a seccomp filter", "preload's shim is not in the process"):
        assert any(line.startswith("  in the way") and words in line for line in lines), words
    assert not any("in the way" in line for line in judge(facts("tcp:80", a_right("tcp:80"))).lines())


@pytest.mark.parametrize(
    ("rules", "by"),
    [("tcp:80", ["a:1"]), ("tcp:80-81", ["a:1", "b:1"]), ("tcp:81", ["b:1"]), ("80", ["a:1", "c:1"])],
)
def test_only_what_permits_it_is_named(rules: str, by: list[str]) -> None:
    """Grants that name other ports are no right, however many there are beside one that is."""
    rights = (("tcp:80", "a:1"), ("tcp:81", "b:1"), ("udp:80-81", "c:1"), ("tcp:443", "d:1"))
    found = judge(facts(rules, *(a_right(policy, source=source) for policy, source in rights)))
    assert found.verdict == "permitted"
    assert found.right == tuple(f"standing grant for alice (uid 4001) ({source})" for source in by)


@pytest.mark.parametrize(
    ("held", "files", "load", "allow"),
    [
        ((), (), False, True),
        ((), (a_right("tcp:80"),), True, True),
        ((a_right("tcp:443"),), (a_right("tcp:80"),), True, True),
        ((a_right("tcp:443"),), (a_right("tcp:443"),), False, True),
        ((a_right("tcp:80", netns=8),), (a_right("tcp:80", netns=None),), False, False),
        ((a_right("tcp:80", netns=8, key=Key(UID, 4002)),), (), False, True),
    ],
    ids=["no grant", "not loaded", "changed since", "another", "another namespace", "somebody else's"],
)
def test_what_to_do_depends_on_what_is_loaded(
    held: tuple[Right, ...], files: tuple[Right, ...], load: bool, allow: bool
) -> None:
    """Nobody is told to load what is loaded, or to grant what is granted."""
    remedies = judge(facts("tcp:80", here=Found(held), files=files, refused=("tcp:80",))).remedies
    assert any("privbindctl load" in line for line in remedies) == load
    assert any("privbindctl allow" in line for line in remedies) == allow
    assert any("privbind -u alice" in line for line in remedies)


def test_all_verdicts_are_tested() -> None:
    assert {verdict for _, _, verdict in ROWS} == set(VERDICTS)


@pytest.mark.parametrize(
    ("right", "why"),
    [
        (a_right("tcp:80"), ""),
        (a_right("tcp:80", netns=0), ""),
        (a_right("tcp:80", netns=None), ""),
        (a_right("tcp:80", key=Key(GID, 4001)), ""),
        (a_right("tcp:80", key=None, limit=3, left=1), ""),
        (a_right("tcp:80", netns=8), "namespace"),
        (a_right("tcp:80", key=Key(UID, 4002)), "user"),
        (a_right("tcp:80", key=Key(GID, 4002)), "user"),
        (a_right("tcp:81"), "port"),
        (a_right("udp:80"), "protocol"),
        (a_right("tcp:[::1]:80"), "address"),
        (a_right("tcp:80", limit=3, left=0), "limit"),
    ],
)
def test_why_a_grant_does_not_permit_a_bind(right: Right, why: str) -> None:
    bind = one_bind("tcp", packed("127.0.0.1"), 80)
    assert why_not(right, Asker(ALICE.uid, ALICE.gid, HOME, True), bind) == why


@given(st.lists(close_rules(), min_size=1, max_size=4), close_binds())
def test_a_policy_lacks_nothing_exactly_when_it_permits(rules: list[Rule], bind: tuple[int, bytes, int]) -> None:
    """The reason and the decision never disagree."""
    protocol, address, port = {6: "tcp", 17: "udp"}.get(bind[0]), bind[1], bind[2]
    if protocol is None or not port:
        return
    policy = Policy(rules)
    assert (lacks(policy, one_bind(protocol, address, port)) == "") == policy.permits(protocol, address, port)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/system.slice/nginx.service", ("nginx.service", None, None)),
        ("/system.slice/nginx.service/worker", ("nginx.service", None, None)),
        (f"/system.slice/docker-{'ab' * 32}.scope", (f"docker-{'ab' * 32}.scope", "ab" * 32, None)),
        (f"/docker/{'cd' * 32}", (None, "cd" * 32, None)),
        (
            f"/kubepods.slice/kubepods-pod0b1c2d3e_0000_1111_2222_333344445555.slice/cri-containerd-{'ef' * 32}.scope",
            (f"cri-containerd-{'ef' * 32}.scope", "ef" * 32, "0b1c2d3e-0000-1111-2222-333344445555"),
        ),
        (
            f"/kubepods/besteffort/pod0b1c2d3e-0000-1111-2222-333344445555/{'ef' * 32}",
            (None, "ef" * 32, "0b1c2d3e-0000-1111-2222-333344445555"),
        ),
        ("/", (None, None, None)),
        ("/user.slice/not a unit", (None, None, None)),
    ],
)
def test_what_the_path_of_a_cgroup_tells(path: str, told: tuple[str | None, ...]) -> None:
    assert (units.unit_of(path), units.container_of(path), units.pod_of(path)) == told
