"""A helper that cannot start: one line says why, the command is not started, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness.forks import CLONE_NEWNET, CLONE_NEWUSER, forked, loopback_up, unshare
from ..harness.install import SOURCE

COMMAND = ["-u", "1000", "-g", "1000", "--allow=tcp:80", "--", "echo", "started"]


def in_user_namespace(ids: int, prepare: Callable[[], None], argv: list[object]) -> tuple[int, str, str]:
    """How a program ends as root of a new user namespace that has so many ids, and what it prints."""

    def inside() -> tuple[int, str, str]:
        me = os.getpid()
        reader, writer = os.pipe()
        outside = os.fork()
        if outside == 0:
            os.read(reader, 1)
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{me}/{name}").write_text(f"0 0 {ids}")
            os._exit(0)
        unshare(CLONE_NEWUSER)
        os.write(writer, b"x")
        assert os.waitpid(outside, 0)[1] == 0
        prepare()
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return forked(inside)


# A process whose thread for faulthandler is just starting: that thread runs in C, and no copy of the process has it.
BESIDE_A_NEW_THREAD = """
import faulthandler, sys
sys.path.insert(0, sys.argv[1])
from privbind.account import Account
from privbind.grant.site import Site
from privbind.helper.process import Job, Starting
for _ in range(5):
    faulthandler.dump_traceback_later(10_000)
    Starting(Job(lambda: None, None, (), Account(1, 1, ()), Site(0, 1024), ())).wait()
print("started")
"""


def test_beside_a_thread_that_is_just_starting() -> None:
    """The C library would have the copy wait for that thread before it changes ids, and for ever."""
    argv = [sys.executable, "-I", "-c", BESIDE_A_NEW_THREAD, str(SOURCE)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "started\n"


def own_network() -> None:
    unshare(CLONE_NEWNET)
    loopback_up()


@pytest.mark.parametrize("as_init", [[], ["unshare", "--pid", "--fork"]], ids=["", "as pid 1"])
@pytest.mark.parametrize("mechanism", ["preload", "seccomp"])
def test_no_id_for_it(installed: Path, mechanism: str, as_init: list[str]) -> None:
    """None of those that it may have is in the user namespace."""
    argv = [*as_init, installed, f"--via={mechanism}", *COMMAND]
    status, out, err = in_user_namespace(1001, own_network, argv)
    assert (status, out) == (125, "")
    assert err == (
        "privbind: cannot start privbind-helper: no number from 65533 to 65520 or from 61183 to 60578 is free as its "
        "uid and gid (the user namespace must map one that nothing uses)\n"
    )
