"""What helpers find out about processes: with a /proc that hides others', with none, and from threads."""

from __future__ import annotations

import pytest

from ...harness.host import Host, Result, python

THREADS = """
import errno, socket, threading
found = []
def bind():
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", 80))
        found.append("ok")
    except OSError as error:
        found.append(errno.errorcode[error.errno])
    finally:
        s.close()
bind()
thread = threading.Thread(target=bind)
thread.start()
thread.join()
print(*found)
"""
"""Binds in the first thread and in another one."""


def mounts(script: str) -> list[str]:
    """Root in a mount namespace of its own, changed by a script."""
    return ["unshare", "--mount", "sh", "-ec", script + '; exec "$@"', "sh"]


PROCS = {
    "as usual": [],
    # A new mount each: options of the one that is there are all others' as well.
    "hidepid=1": mounts("mount -t proc -o hidepid=1 proc /proc"),
    "hidepid=2": mounts("mount -t proc -o hidepid=2 proc /proc"),
    "none": mounts("umount -l /proc"),
}


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload", "ambient"])
@pytest.mark.parametrize("proc", PROCS)
def test_granted_or_refused(host: Host, mechanism: str, proc: str) -> None:
    """A launch works, from every thread, or is refused before it starts; it never loses its grant on the way."""
    assert host.plain(python(THREADS)).ok().lines == ["EACCES EACCES"]
    rules = [] if mechanism == "ambient" else ["--allow=tcp:80"]
    found = host.run([*PROCS[proc], *host.command(python(THREADS), f"--via={mechanism}", *rules)])
    if proc == "as usual" or found.status != 125:
        assert found.ok().lines == ["ok ok"], found
    else:
        assert len(found.err.splitlines()) == 1, found


def test_auto_finds_one_that_works(host: Host) -> None:
    """Whatever /proc is like, if auto starts a command it has its grant."""
    for name, proc in PROCS.items():
        found: Result = host.run([*proc, *host.command(python(THREADS), "--allow=tcp:80")])
        assert found.lines == ["ok ok"] or (found.status == 125 and name != "as usual"), found
