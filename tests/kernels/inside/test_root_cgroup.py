"""Standing grants at the real root of cgroup v2, for the first network namespace, which can be tried only here."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from ...harness.guests.here import ALICE, BOB, GRANTS, binds, ctl, grant
from ...harness.host import TIMEOUT_S

MAPPED_TO_ALICE = ("unshare", "--user", "--map-root-user")


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Iterator[None]:
    """Before and after each test."""
    shutil.rmtree(GRANTS, ignore_errors=True)
    assert binds(ALICE, 80, 443) == ["EACCES", "EACCES"]
    yield
    shutil.rmtree(GRANTS, ignore_errors=True)
    assert ctl("unload").returncode == 0
    assert binds(ALICE, 80, 443) == ["EACCES", "EACCES"]


def loaded(*words: str, before: tuple[str, ...] = ()) -> str:
    """Load, which must succeed; what it said."""
    done = ctl("load", *words, before=before)
    assert done.returncode == 0, done
    return done.stdout


def test_load_change_unload() -> None:
    """Each load puts what the files say in force, in the place of what was; whoever is not named gets nothing."""
    grant("alice.toml", "alice", "tcp:80")
    assert loaded().startswith("loaded: grants for 1 user")
    assert binds(ALICE, 80, 443, 8080) == ["ok", "EACCES", "ok"]
    assert binds(BOB, 80) == ["EACCES"]
    assert loaded().startswith("nothing has changed")
    grant("alice.toml", "alice", "tcp:443")
    grant("bob.toml", "bob", "tcp:80")
    loaded()
    assert binds(ALICE, 80, 443) == ["EACCES", "ok"]
    assert binds(BOB, 80, 443) == ["ok", "EACCES"]
    assert ctl("unload").returncode == 0
    assert binds(ALICE, 443) == binds(BOB, 80) == ["EACCES"]


def test_a_mistake_changes_nothing() -> None:
    grant("alice.toml", "alice", "tcp:80")
    loaded()
    grant("bob.toml", "bob", "tcp:http2")
    assert ctl("load").returncode == 125
    assert binds(ALICE, 80) == ["ok"]


def test_another_network_namespace_is_untouched() -> None:
    """There, the same user has no grant: his ports are others'."""
    grant("alice.toml", "alice", "tcp:80")
    loaded()
    own = ("unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh")
    assert binds(ALICE, 80, before=own) == ["EACCES"]
    assert binds(ALICE, 80) == ["ok"]


def test_a_load_from_another_network_namespace_grants_in_the_first() -> None:
    """As from a unit with PrivateNetwork=."""
    grant("alice.toml", "alice", "tcp:80")
    loaded(before=("unshare", "--net"))
    assert binds(ALICE, 80, 443) == ["ok", "EACCES"]
    assert binds(ALICE, 80, before=("unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh")) == [
        "EACCES"
    ]


def test_a_user_namespace_neither_hides_nor_forges() -> None:
    """What counts is the user as the first user namespace knows him."""
    grant("alice.toml", "alice", "tcp:80")
    loaded()
    as_alice = ("setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups")
    as_bob = ("setpriv", f"--reuid={BOB}", f"--regid={BOB}", "--clear-groups")
    ask = ("python3", "-I", "-c", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print('ok')")
    in_own = subprocess.run(
        [*as_alice, *MAPPED_TO_ALICE, *ask], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert in_own.stdout == "ok\n", in_own
    forged = ("unshare", "--user", f"--map-user={ALICE}")
    by_bob = subprocess.run([*as_bob, *forged, *ask], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert "Permission denied" in by_bob.stderr, by_bob


def test_cgroups_below_are_reached() -> None:
    """Also a new one, and one that is the root of a cgroup namespace."""
    grant("alice.toml", "alice", "tcp:80")
    loaded()
    below = "mkdir -p /sys/fs/cgroup/below; echo $$ >/sys/fs/cgroup/below/cgroup.procs; "
    try:
        assert binds(ALICE, 80, 443, before=("sh", "-ec", below + 'exec "$@"', "sh")) == ["ok", "EACCES"]
        in_namespace = below + 'exec unshare --cgroup -- "$@"'
        assert binds(ALICE, 80, 443, before=("sh", "-ec", in_namespace, "sh")) == ["ok", "EACCES"]
    finally:
        subprocess.run(["rmdir", "/sys/fs/cgroup/below"], check=True)


def test_a_launch_adds_to_them() -> None:
    """A command of alice's has her grants and the launch's."""
    grant("alice.toml", "alice", "tcp:80")
    loaded()
    code = (
        "import socket\n"
        "for port in (80, 443, 81):\n"
        "    s = socket.socket()\n"
        "    try: s.bind(('127.0.0.1', port)); print('ok')\n"
        "    except OSError as e: print(e.errno)\n"
    )
    for mechanism in ("bpf", "seccomp", "preload"):
        launch = ["/opt/privbind/bin/privbind", "-u", "alice", f"--via={mechanism}", "--allow=tcp:443", "--"]
        found = subprocess.run([*launch, "python3", "-I", "-c", code], capture_output=True, text=True, check=False)
        assert found.stdout.split() == ["ok", "ok", "13"], (mechanism, found)


def test_it_is_listed_and_asked() -> None:
    """`ls` shows it, and `test` says who may."""
    grant("alice.toml", "alice", "tcp:80")
    loaded()
    listed = ctl("ls", "--json")
    assert listed.returncode == 0, listed
    assert "alice" in json.dumps(json.loads(listed.stdout)), listed
    assert ctl("test", "alice", "tcp:80").returncode == 0
    assert ctl("test", "alice", "tcp:81").returncode == 1
    assert ctl("test", "bob", "tcp:80").returncode == 1
