"""A load that waits for another reads the files when its turn comes."""

from __future__ import annotations

import contextlib
import fcntl
import os

from ..harness.host import MANY, python, wait_for
from ..harness.machine import ALICE, Granted, as_user

GRANT = '[[grant]]\nuser = "alice"\nallow = "tcp:{}"\n'
LOCK = "run/privbind.lock"


def test_what_is_in_force_is_what_the_files_said_last(granted: Granted) -> None:
    """Not what they said when the load was started, which may be older than what the other has loaded."""
    folder = granted.root / "etc/privbind/grants.d"
    granted.run(["mkdir", "-p", "/etc/privbind/grants.d"]).ok()
    file = folder / "a.toml"
    file.write_text(GRANT.format(80))
    lock = os.open(granted.root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = granted.popen(["privbindctl", "load", f"--cgroup={granted.cgroup}"])

        def waits() -> bool:
            place = f"/proc/{process.pid}/fd"
            for fd in os.listdir(place):
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(f"{place}/{fd}"), os.fstat(lock)):
                        return True
            return False

        wait_for(waits, "the load's wait for the lock")
        file.write_text(GRANT.format(81))
    finally:
        os.close(lock)
    assert process.wait(timeout=60) == 0
    assert granted.run(as_user(ALICE, python(MANY, "80", "81"))).ok().out == "EACCES ok\n"
