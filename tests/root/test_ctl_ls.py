"""privbindctl ls: what is granted on this host, as the kernel and the helpers know it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness.host import AS_NOBODY, BIND_WHEN_TOLD, Host, gone, helper_of, python, read_line, tell, wait_for
from ..harness.install import SOURCE

COUNTED = ("bpf", "seccomp", "preload")
HELPED = ("seccomp", "preload")


def listing(host: Host, *prefix: str) -> dict[str, Any]:
    """What privbindctl ls --json says, started by the words before."""
    ctl = Path(host.privbind).parent / "privbindctl"
    found: dict[str, Any] = json.loads(host.run([*prefix, ctl, "ls", "--json"]).ok().out)
    return found


def grant_of(host: Host, pid: int) -> dict[str, Any] | None:
    """The one with this main process; None when there is none. Others may run on this machine."""
    found = [grant for grant in listing(host)["grants"] if grant["pid"] == pid]
    assert len(found) <= 1
    return found[0] if found else None


def start(host: Host, mechanism: str, *options: str, code: str = BIND_WHEN_TOLD) -> subprocess.Popen[Any]:
    process = host.start(python(code), f"--via={mechanism}", *options, stdin=-1, stdout=-1)
    assert read_line(process) == "up\n"
    return process


def test_one_grant_of_each_mechanism_side_by_side(host: Host) -> None:
    """Each with its own rules, counters and limit; ambient as a guess; none of them after its end."""
    before = time.time()
    running = {
        mechanism: start(host, mechanism, f"--allow=tcp:{80 + number},udp:53", "-n5", "-r80")
        for number, mechanism in enumerate(COUNTED)
    }
    running["ambient"] = start(host, "ambient")
    for number, mechanism in enumerate(COUNTED):
        for _ in range(number + 1):
            assert tell(running[mechanism], 80 + number) == "ok"
        for port in (90, 443):
            assert tell(running[mechanism], port) == "13"
        assert tell(running[mechanism], 8080) == "ok"
    for number, mechanism in enumerate(COUNTED):
        grant = grant_of(host, running[mechanism].pid)
        assert grant is not None, mechanism
        assert re.match(r"process \d+$|/.*/privbind\.\d+\.0$", grant.pop("place"))
        since = time.mktime(time.strptime(grant.pop("since") + "+0000", "%Y-%m-%dT%H:%M:%SZ%z")) - time.timezone
        assert before - 2 <= since <= time.time() + 2
        assert grant == {
            "mechanism": mechanism,
            "kind": "launch",
            "guess": False,
            "user": "nobody",
            "uid": 65534,
            "gid": 65534,
            "uids": None,
            "rules": [f"tcp:{80 + number}", "udp:53"],
            "limit": 5,
            "left": 5 - (number + 1),
            "reuse_ports": ["80"],
            "granted": number + 1,
            "refused": 2,
            "pid": running[mechanism].pid,
            "command": python(BIND_WHEN_TOLD),
            "cut": 0,
            "sources": [],
        }
    guess = grant_of(host, running["ambient"].pid)
    assert guess is not None
    assert (guess["mechanism"], guess["guess"], guess["user"], guess["rules"]) == ("ambient", True, "nobody", [])
    assert guess["granted"] is guess["refused"] is guess["left"] is None
    assert guess["command"] == python(BIND_WHEN_TOLD)
    for process in running.values():
        process.communicate("")
    pids = {process.pid for process in running.values()}
    wait_for(lambda: not pids & {grant["pid"] for grant in listing(host)["grants"]}, "the end of all of them")


def test_the_table(host: Host) -> None:
    """The same as text; into a pipe nothing is cut, in a terminal it fits."""
    process = start(host, "bpf", "--allow=tcp:80," + ",".join(f"udp:{port}" for port in range(100, 140)))
    assert tell(process, 80) == "ok"
    ctl = Path(host.privbind).parent / "privbindctl"
    lines = host.run([ctl, "ls"]).ok().lines
    assert lines[0].split() == ["PID", "VIA", "USER", "GRANTED", "REFUSED", "LEFT", "SINCE", "RULES", "COMMAND"]
    (row,) = (line for line in lines if line.split()[0] == str(process.pid))
    assert row.split()[1:6] == ["bpf", "nobody", "1", "0", "-"]
    assert "udp:139" in row
    assert row.endswith("'")
    shown = host.run(["script", "-qec", f"stty cols 80; '{ctl}' ls 2>/dev/null", "/dev/null"]).ok().lines
    (row,) = (line for line in shown if line.split()[0] == str(process.pid))
    assert len(row) <= 80
    process.communicate("")


@pytest.mark.parametrize("mechanism", COUNTED)
def test_counters_of_processes_that_bind_at_once(host: Host, mechanism: str) -> None:
    """None is lost, none is counted twice; a granted bind that fails for another reason counts as granted."""
    code = (
        "import os, socket\n"
        "for child in range(4):\n"
        "  if os.fork() == 0:\n"
        "    for number in range(50):\n"
        "      for port in (100 + child, 200 + child, 8000 + child):\n"
        "        with socket.socket() as s:\n"
        "          try: s.bind(('127.0.0.1', port))\n"
        "          except OSError: pass\n"
        "    os._exit(0)\n"
        "for child in range(4): os.wait()\n"
        "taken = socket.socket(); taken.bind(('127.0.0.1', 100))\n"
        "with socket.socket() as s:\n"
        "  try: s.bind(('127.0.0.1', 100))\n"
        "  except OSError as error: assert error.errno == 98\n"
        "print('up', flush=True); input()"
    )
    process = start(host, mechanism, "--allow=100-199", "-n1000", code=code)
    grant = grant_of(host, process.pid)
    assert grant is not None
    assert (grant["granted"], grant["refused"], grant["left"]) == (202, 200, 1000 - 201)
    process.communicate("\n")


@pytest.mark.parametrize("mechanism", COUNTED)
def test_when_the_limit_is_used_up(host: Host, mechanism: str) -> None:
    """Nothing is left; preload's helper has ended, and the grant with it."""
    process = start(host, mechanism, "--allow=tcp:80", "-n1")
    assert tell(process, 80) == "ok"
    assert tell(process, 80) == "13"
    if mechanism == "preload":
        wait_for(lambda: grant_of(host, process.pid) is None, "the end of the helper")
    else:
        grant = grant_of(host, process.pid)
        assert grant is not None
        assert (grant["granted"], grant["left"]) == (1, 0)
    process.communicate("")


def test_a_backup_is_no_grant(host: Host) -> None:
    """When seccomp's helper is dead nothing is granted any more."""
    process = host.start(python(BIND_WHEN_TOLD), "--via=seccomp", "-v", stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    helper = helper_of(process)
    assert grant_of(host, process.pid) is not None
    os.kill(helper, signal.SIGKILL)
    wait_for(lambda: gone(helper), "the helper's end")
    assert grant_of(host, process.pid) is None
    assert tell(process, 8080) == "ok"
    process.communicate("")


@pytest.mark.parametrize("mechanism", COUNTED)
def test_a_command_whose_main_process_has_ended(host: Host, mechanism: str) -> None:
    """Its descendants hold the grant on, without a main process."""
    code = "import os, sys\nif os.fork(): os._exit(0)\nprint('up', flush=True); sys.stdin.read()"
    process = start(host, mechanism, "--allow=tcp:80", code=code)
    process.wait()
    found = [grant for grant in listing(host)["grants"] if grant["command"] == python(code)]
    assert [(grant["mechanism"], grant["pid"]) for grant in found] == [(mechanism, None)]
    process.communicate("")


@pytest.mark.parametrize("mechanism", COUNTED)
def test_a_command_in_a_pid_namespace(host: Host, mechanism: str) -> None:
    """As in a container: listed with the process's id as it is seen here."""
    command = host.command(python(BIND_WHEN_TOLD), f"--via={mechanism}", "--allow=tcp:80")
    process = host.popen(["unshare", "--pid", "--fork", "--mount-proc", *command], stdin=-1, stdout=-1)
    assert read_line(process) == "up\n"
    (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert tell(process, 80) == "ok"
    grant = grant_of(host, int(pid))
    assert grant is not None
    assert (grant["mechanism"], grant["granted"]) == (mechanism, 1)
    process.communicate("")


def test_unprivileged(host: Host) -> None:
    """What can be seen is shown, and what cannot is said."""
    running = {mechanism: start(host, mechanism, "--allow=tcp:80") for mechanism in COUNTED}
    found = listing(host, *AS_NOBODY)
    bpf = [grant for grant in found["grants"] if grant["pid"] == running["bpf"].pid]
    assert [(grant["mechanism"], grant["user"], grant["rules"], grant["granted"]) for grant in bpf] == [
        ("bpf", "nobody", None, None)
    ]
    assert {"seccomp", "preload"} <= {grant["mechanism"] for grant in found["grants"] if grant["pid"] is None}
    assert any("CAP_SYS_ADMIN is missing; run as root" in line for line in found["unseen"])
    assert any("CAP_SYS_PTRACE is missing; run as root" in line for line in found["unseen"])
    text = host.run([*AS_NOBODY, Path(host.privbind).parent / "privbindctl", "ls"]).ok()
    assert all(line.startswith("privbindctl: not seen: ") for line in text.err.splitlines())
    assert len(text.err.splitlines()) >= 2
    for process in running.values():
        process.communicate("")


@pytest.mark.parametrize(
    ("dropped", "mechanism", "why"),
    [("sys_admin", "bpf", "CAP_SYS_ADMIN"), ("sys_ptrace", "preload", "CAP_SYS_PTRACE")],
)
def test_root_without_a_capability(host: Host, dropped: str, mechanism: str, why: str) -> None:
    """That grants are there is seen, not what they are."""
    process = start(host, mechanism, "--allow=tcp:80")
    found = listing(host, "setpriv", f"--bounding-set=-{dropped}")
    assert any(grant["mechanism"] == mechanism and grant["rules"] is None for grant in found["grants"])
    assert any(f"{why} is missing" in line for line in found["unseen"])
    process.communicate("")


def test_where_no_cgroups_can_be_seen(host: Host) -> None:
    """The other mechanisms are listed all the same, in a mount namespace of the test's own."""
    process = start(host, "preload", "--allow=tcp:80")
    without = 'umount -a -t cgroup2; exec "$@"'
    found = listing(host, "unshare", "--mount", "sh", "-c", without, "sh")
    assert [grant["mechanism"] for grant in found["grants"] if grant["pid"] == process.pid] == ["preload"]
    process.communicate("")


PRETENDER = """
import os, sys, time
sys.path.append(sys.argv[1])
from privbind.linux import prctl, seccomp
from privbind.linux.memory import make_file
prctl.set_name("privbind-helper")
fd = make_file("privbind_grant", 0)
os.write(fd, bytes.fromhex(sys.stdin.readline()))
prctl.set_no_new_privileges()
seccomp.install([seccomp._INSTRUCTION.pack(6, 0, 0, 0x7FFF0000)])
print("up", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def pretender(host: Host, content: bytes) -> Iterator[int]:
    """A process that claims to be a helper with this ledger."""
    argv = ["setpriv", "--reuid=65533", "--clear-groups", *python(PRETENDER, str(SOURCE))]
    process = host.popen(argv, stdin=-1, stdout=-1)
    assert process.stdin is not None
    process.stdin.write(content.hex() + "\n")
    process.stdin.flush()
    assert read_line(process) == "up\n"
    yield process.pid
    process.communicate("")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 23,
        b"\0" * 24,
        b"\xff" * 1000,
        b"\0" * 24 + b"privbind grant 1\n",
        b"\0" * 24 + b"privbind grant 1\nlimit \x1b[31m\nmechanism x\n",
        b"\0" * 24 + b"privbind grant 1\n\xff 1\n",
        b"\0" * (1 << 20),
    ],
    ids=["nothing", "short", "no record", "noise", "empty record", "no numbers", "no text", "huge"],
)
def test_a_pretender_spoils_nothing(host: Host, content: bytes) -> None:
    """What makes no sense is said in one line; all else is listed."""
    process = start(host, "preload", "--allow=tcp:80")
    with pretender(host, content) as pid:
        assert grant_of(host, process.pid) is not None
        assert [line for line in listing(host)["unseen"] if f"helper {pid}:" in line]
        text = host.run([Path(host.privbind).parent / "privbindctl", "ls"]).ok()
        assert "\x1b" not in text.err + text.out
        assert len([line for line in text.err.splitlines() if f"helper {pid}:" in line]) == 1
    process.communicate("")


@pytest.mark.parametrize("mechanism", HELPED)
def test_a_helper_that_may_have_no_file(host: Host, mechanism: str) -> None:
    """The grant holds; -v says that it is not listed."""
    command = host.command(python(BIND_WHEN_TOLD), f"--via={mechanism}", "-v", "--allow=tcp:80")
    process = host.popen(["env", "-i", "prlimit", "--fsize=100:100", *command], stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    assert tell(process, 80) == "ok"
    assert grant_of(host, process.pid) is None
    _, err = process.communicate("")
    assert "privbindctl cannot list this grant: no file in memory for it: File too large" in err


def test_ls_is_listed_nowhere(host: Host) -> None:
    """It makes no grant, starts nothing that stays and leaves no cgroup."""
    before = listing(host)
    assert host.run([Path(host.privbind).parent / "privbindctl", "ls"]).ok().lines
    assert not {grant["place"] for grant in listing(host)["grants"] if "privbindctl" in str(grant["command"])}
    assert before.keys() == {"privbind", "grants", "unseen", "notes"}
