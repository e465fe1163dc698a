"""Resource limits of the caller's: the launch works within them, or ends with one line that says which one to raise."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from ..harness.host import Host, Result, python, read_line
from ..harness.install import PYTHON
from ..harness.patience import PATIENCE

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")
MIB = 1 << 20

BIND = "import socket; socket.socket().bind(('127.0.0.1', 80)); print('bound')"


class Limit(NamedTuple):
    """A limit as prlimit(1) takes it, hard as well, and what is to be raised: "" where the launch works."""

    option: str
    raised: str = ""

    def __str__(self) -> str:
        return self.option


LIMITS = [
    Limit("--fsize=0", "ulimit -f"),
    Limit("--fsize=1", "ulimit -f"),
    Limit("--fsize=100000"),
    Limit("--fsize=0:unlimited"),
    *(Limit(f"--data={kib * 1024}", "ulimit -d") for kib in (64, 3072, 3840, 6144)),
    Limit(f"--data={16 * MIB}"),
    *(Limit(f"--as={mib * MIB}", "ulimit -v") for mib in (4, 12, 24)),
    Limit(f"--as={64 * MIB}"),
    *(Limit(f"--nofile={count}", "ulimit -n") for count in (3, 4, 5)),
    Limit("--nofile=20"),
    Limit("--nproc=0", "ulimit -u"),
    Limit("--nproc=1"),  # the process beside it is not over the limit
    Limit("--core=0"),
    Limit("--memlock=0"),
    Limit("--stack=65536"),
    Limit("--sigpending=0"),
    Limit("--msgqueue=0"),
]  # fmt: skip
if PATIENCE > 1:
    # In a guest: how much memory and what files an interpreter needs does not depend on the kernel.
    LIMITS = [limit for limit in LIMITS if limit.option.startswith(("--nofile", "--nproc", "--memlock"))]


def limited(limit: Limit, command: list[str]) -> list[str]:
    """A command line with this limit; CAP_SYS_RESOURCE could raise it."""
    return ["setpriv", "--bounding-set=-sys_resource", "prlimit", limit.option, "--", *command]


def holds(found: Result, raised: str) -> None:
    """Check that a launch worked, or refused in one line."""
    if not raised:
        assert (found.status, found.out) == (0, "started\n"), found
        return
    assert found.status == 125, found
    assert found.out == ""
    assert found.err.startswith("privbind: "), found
    assert len(found.err.splitlines()) == 1, found
    assert raised in found.err, found


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_launch_within_a_limit(host: Host, mechanism: str, limit: Limit) -> None:
    """For each limit: a command that needs next to nothing is started, or the line names what to raise."""
    # The user needs a process beside the command's, for a limit to be reached: the kernel lets every user have one.
    other = host.popen(
        ["setpriv", "--reuid=4711", "--clear-groups", "sh", "-c", "echo up; read x"], stdin=-1, stdout=-1
    )
    assert read_line(other) == "up\n"
    command = [host.privbind, "-u", "4711", "-g", "4711", f"--via={mechanism}", "echo", "started"]
    holds(host.run(limited(limit, command)), limit.raised)
    other.communicate()


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_few_descriptors(host: Host, mechanism: str, threads: bool) -> None:
    """With each limit from 3 on it is one line, up to where it works; before Linux 6.9, seccomp needs a few more."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from privbind.commands.privbind import main\n"
        "from privbind.linux import target\n"
        f"if not {threads}: target.opens_threads = lambda: False\n"
        "sys.exit(main(sys.argv[2:], []))"
    )
    site = next(Path(host.privbind).parent.parent.glob("lib/*/site-packages"))
    inner = [PYTHON, "-I", "-S", "-B", "-c", code, str(site)]
    launcher = [host.privbind] if threads else inner
    ended = {}
    for count in range(3 if threads else 6, 25):
        command = [*launcher, "-u", "nobody", f"--via={mechanism}", "echo", "started"]
        found = host.run(limited(Limit(f"--nofile={count}"), command))
        holds(found, "ulimit -n" if found.status else "")
        ended[count] = found.status
    works = [count for count, status in ended.items() if status == 0]
    assert works == list(range(works[0], 25)), "more descriptors never make it worse"
    assert works[0] <= 20


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_command_has_the_limits_of_the_caller(host: Host, mechanism: str) -> None:
    """Those with which it works are still there; the grant holds within them, and nothing binds without."""
    options = ["--fsize=4096:8192", f"--data={64 * MIB}:{128 * MIB}", "--nofile=32:64", "--core=0:0"]
    show = ["sh", "-c", "prlimit --raw --noheadings --output RESOURCE,SOFT,HARD --fsize --data --nofile --core"]
    native = host.run(["prlimit", *options, *show]).ok()
    assert "8192" in native.out
    assert host.run(["prlimit", *options, *host.command(show, f"--via={mechanism}")]).ok().out == native.out
    assert host.run(["prlimit", *options, *host.command(python(BIND), f"--via={mechanism}")]).ok().out == "bound\n"
    assert host.plain(["prlimit", *options, *python(BIND)]).status == 1


def test_privbindctl_within_a_limit(host: Host) -> None:
    """It is started the same way."""
    program = str(Path(host.privbind).with_name("privbindctl"))
    for limit in LIMITS:
        found = host.run(limited(limit, [program, "--version"]))
        assert (found.status == 0) != found.err.startswith("privbindctl: "), (limit, found)
        assert len(found.lines + found.err.splitlines()) == 1, (limit, found)
