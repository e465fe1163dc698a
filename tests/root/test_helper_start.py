"""A helper that cannot start: one line says why, the command is not started, and nothing is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness.forks import CLONE_NEWNET, CLONE_NEWUSER, forked, loopback_up, unshare

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
