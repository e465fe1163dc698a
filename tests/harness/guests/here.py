"""The guest that these tests run in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ..cases import Bind
from ..host import TIMEOUT_S
from .stated import STATED, Stated

GUEST = os.environ.get("PRIVBIND_GUEST", "6.1-amd64")
SERIES = GUEST.rpartition("-")[0]
ALICE, BOB = 1500, 1501
"""Users of the guest: see tests/kernels/inside/passwd."""
GRANTS = Path("/etc/privbind/grants.d")


def stated() -> Stated:
    """What this guest's kernel is stated to offer."""
    return STATED[SERIES]


def binds(uid: int, *ports: int, before: tuple[str, ...] = ()) -> list[str]:
    """What a user's binds of these ports on 127.0.0.1 give, without privbind; ``before`` is put before the command."""
    who = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all")
    asked = [word for port in ports for word in Bind("tcp", "4", "127.0.0.1", port).words()]
    command = [*before, *who, f"{os.environ['PRIVBIND_TEST_PROGRAMS']}/trybind", *asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT_S)
    return [line.split()[0] for line in done.stdout.splitlines()]


def grant(name: str, user: str, *rules: str) -> None:
    """Write a file of grants, in one step, as editors do."""
    GRANTS.mkdir(mode=0o755, parents=True, exist_ok=True)
    allow = ", ".join(f'"{rule}"' for rule in rules)
    new = GRANTS / f".{name}.new"
    new.write_text(f'[[grant]]\nuser = "{user}"\nallow = [{allow}]\n')
    new.rename(GRANTS / name)


def ctl(*words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run privbindctl as root."""
    command = [*before, "/opt/privbind/bin/privbindctl", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
