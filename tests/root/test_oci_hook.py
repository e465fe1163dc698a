"""privbind-oci-hook without a runtime: whatever it is given, it ends in time with status 0 and one line at most."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness.host import AS_NOBODY, BIND_WHEN_TOLD, Host, Result, python, read_line, tell
from ..harness.launches import Tree

ASKED = "13"  # EACCES
MAX_STATE = 1 << 20


class Hook:
    """The hook, and a process as nobody alone in a cgroup of the test's own, as a new container is."""

    def __init__(self, host: Host, tree: Tree) -> None:
        self.host = host
        self.tree = tree
        self.command = Path(host.privbind).parent / "privbind-oci-hook"

    def process(self) -> subprocess.Popen[Any]:
        """Start another one there."""
        place = f"/proc/{os.getpid()}/fd/{self.tree.fd}/cgroup.procs"
        join = ["sh", "-ec", 'echo $$ > "$0"; exec "$@"', place]
        process = self.host.popen([*join, *AS_NOBODY, *python(BIND_WHEN_TOLD)], stdin=-1, stdout=-1)
        assert read_line(process) == "up\n"
        return process

    def run(self, state: object, *arguments: str, before: tuple[str, ...] = ()) -> Result:
        """Run it; it has status 0, no output and no traceback. ``state``: text, or what becomes JSON."""
        text = state if isinstance(state, str) else json.dumps(state)
        found = self.host.run([*before, self.command, *arguments], input=text)
        assert found.status == 0, found
        assert found.out == ""
        assert "Traceback" not in found.err, found
        return found


@pytest.fixture
def hook(host: Host, tree: Tree) -> Iterator[Hook]:
    if Path("/dev/log").exists():
        pytest.skip("this machine has a system log, which the tests leave alone: tests/root/test_oci.py has its own")
    yield Hook(host, tree)
    host.close()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("", "the container's state is not JSON"),
        (" \n", "the container's state is not JSON"),
        ("{", "the container's state is not JSON"),
        ("nonsense", "the container's state is not JSON"),
        ('{"pid": 1} {', "the container's state is not JSON: more than one value"),
        ("[" * 100_000, "the container's state is not JSON"),
        ('{"id": "x", "pid": ' + "9" * 5000 + "}", "the container's state is not JSON"),
        ("{" + " " * MAX_STATE + "}", f"the container's state has more than {MAX_STATE} bytes"),
        ("[]", "the container's state is no JSON object"),
        ("null", "the container's state is no JSON object"),
        ({}, "the container's state names no process: pid is None"),
        ({"id": "c", "pid": 0}, "container c: no grant: the container's state names no process: pid is 0"),
        ({"id": "c", "pid": -1}, "names no process: pid is -1"),
        ({"id": "c", "pid": True}, "names no process: pid is True"),
        ({"id": "c", "pid": "12"}, "names no process: pid is 12"),
        ({"id": "c", "pid": 1 << 40}, "names no process: pid is 1099511627776"),
        ({"id": "c", "pid": 4194304}, "process 4194304: No such process"),
        ({"id": "c", "pid": 1, "annotations": []}, ""),
        ({"id": "c", "pid": 1, "annotations": ["x"]}, "the annotations in the container's state are no JSON object"),
        ({"id": "a\nb\x1b[31m" + "x" * 500, "pid": 0}, "container a\\x0ab\\x1b[31mxxx"),
        ({"id": ["c"], "pid": 0}, "container ['c']: no grant"),
    ],
    ids=range(21),
)
def test_bad_states(hook: Hook, state: object, reason: str) -> None:
    found = hook.run(state, "--allow=tcp:80") if "annotations" not in str(state)[:60] else hook.run(state)
    assert reason in found.err
    assert len(found.err.splitlines()) == (1 if reason else 0)


def test_bytes_that_are_no_text(hook: Hook) -> None:
    found = hook.host.run([hook.command], input=b'{"id": "\xff", "pid": 1}', text=False)
    assert found.status == 0
    assert b"the container's state is not JSON" in found.err  # type: ignore[operator]


def test_a_state_that_never_comes(hook: Hook) -> None:
    """The hook waits some seconds, and no longer; a state in pieces is waited for."""
    reader, writer = os.pipe()
    process = hook.host.popen([hook.command], stdin=reader, stderr=subprocess.PIPE)
    os.write(writer, b'{"id":')
    _, err = process.communicate(timeout=60)
    os.close(writer)
    os.close(reader)
    assert process.returncode == 0
    assert err == "privbind-oci-hook: no grant: the container's state did not come within 5 s\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--nonsense"], "the hook is installed with a wrong argument: '--nonsense'"),
        (["--allow"], "the hook is installed with a wrong argument: '--allow'"),
        (["--runtime=podman"], "the hook is installed with --runtime 'podman' (one of containerd, cri-o)"),
        (["tcp:80"], "the hook is installed with a wrong argument: 'tcp:80'"),
        (["--allow", "tcp:0"], "the hook's --allow: "),
        (["--allow", ""], "the hook's --allow: "),
        (["--wrap", "/hook", "--", "create", "--bundle", "/nonexistent"], "bundle '/nonexistent': No such file"),
    ],
)
def test_bad_arguments(hook: Hook, arguments: list[str], reason: str) -> None:
    process = hook.process()
    found = hook.run({"id": "c", "pid": process.pid}, *arguments)
    assert reason in found.err
    assert tell(process, 80) == ASKED
    process.kill()


def test_granted_and_narrowed_without_the_bundle(hook: Hook) -> None:
    """The bundle is not looked at; a second run replaces what the first did."""
    process = hook.process()
    state = {"id": "c", "pid": process.pid, "bundle": "/nonexistent", "annotations": {}}
    assert tell(process, 80) == ASKED
    hook.run(state, "--allow=tcp:80-81")
    assert [tell(process, port) for port in (80, 81, 82)] == ["ok", "ok", ASKED]
    hook.run(state | {"annotations": {"org.privbind.allow": "tcp:81"}}, "--allow=tcp:80-81")
    assert [tell(process, port) for port in (80, 81, 82)] == [ASKED, "ok", ASKED]
    hook.run(state)
    assert [tell(process, port) for port in (80, 81, 82)] == [ASKED] * 3
    process.kill()


def test_a_shared_cgroup(hook: Hook) -> None:
    """Refused, and what is on it stays: it may be an administrator's own grant."""
    first, second = hook.process(), hook.process()
    ctl = hook.command.parent / "privbindctl"
    hook.host.run([ctl, "grant", f"--cgroup={hook.tree.path}", "--allow=tcp:81"]).ok()
    state = {"id": "c", "pid": first.pid}
    assert f"process {first.pid} shares cgroup '{hook.tree.path}' with 1 other" in hook.run(state, "--allow=80").err
    assert hook.run(state).err == ""
    assert [tell(second, port) for port in (80, 81)] == [ASKED, "ok"]
    for process in (first, second):
        process.kill()


def test_the_root_cgroup(hook: Hook) -> None:
    """As with `--cgroups=disabled`, where the runtime is in the root."""
    process = hook.host.popen([*AS_NOBODY, *python(BIND_WHEN_TOLD)], stdin=-1, stdout=-1)
    assert read_line(process) == "up\n"
    told = hook.run({"id": "c", "pid": process.pid}, "--allow=tcp:80").err
    # Where the tests do not run in the root, they are in the same cgroup, too.
    assert "it is the root" in told or "shares cgroup" in told
    assert tell(process, 80) == ASKED


@pytest.mark.parametrize(
    "before",
    [
        tuple(AS_NOBODY),
        ("setpriv", "--bounding-set=-bpf,-sys_admin,-net_admin", "--inh-caps=-all"),
        ("unshare", "--user", "--map-root-user"),
    ],
    ids=["nobody", "no capabilities", "user namespace"],
)
def test_without_privileges(hook: Hook, before: tuple[str, ...]) -> None:
    """As under a rootless runtime: one line says what is missing."""
    process = hook.process()
    found = hook.run({"id": "c", "pid": process.pid}, "--allow=tcp:80", before=before)
    assert len(found.err.splitlines()) == 1
    assert "no grant: " in found.err
    assert hook.run({"id": "c", "pid": process.pid}, before=before).err == ""
    assert tell(process, 80) == ASKED
    process.kill()


def test_without_version_2_of_cgroups(hook: Hook) -> None:
    process = hook.process()
    hidden = ("unshare", "--mount", "sh", "-ec", 'umount -R -l /sys/fs/cgroup; exec "$@"', "sh")
    found = hook.run({"id": "c", "pid": process.pid}, "--allow=tcp:80", before=hidden)
    assert "no grant: cgroup" in found.err
    assert "cgroup v2 is not mounted" in found.err
    assert hook.run({"id": "c", "pid": process.pid}, before=hidden).err == ""
    process.kill()


def test_a_log_that_takes_nothing(hook: Hook, folder: Path) -> None:
    """Full, the hook does not wait for it; the line goes to standard error."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to,
    ):
        log.bind(str(folder / "log"))
        to.setblocking(False)
        to.connect(str(folder / "log"))
        with contextlib.suppress(BlockingIOError):
            while True:
                to.send(b"x")
        script = 'mount -t tmpfs none /dev; : >/dev/log; mount --bind "$0" /dev/log; exec "$@"'
        within = ["unshare", "--mount", "sh", "-ec", script, str(folder / "log")]
        assert "the container's state is not JSON" in hook.run("x", before=tuple(within)).err
