"""Hosts to test on: a network namespace of a test's own, and commands run in it with and without privbind."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .install import PYTHON
from .patience import PATIENCE

Found = TypeVar("Found")

NOBODY = pwd.getpwnam("nobody")
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
"""Before a command line: runs it as nobody, without privbind."""

HELPER_IDS = {*range(65520, 65534), *range(60578, 61184)}
"""What the uid of a helper can be, and its gid, which is the same number; never 65534."""

TIMEOUT_S = 60 * PATIENCE
"""Long enough never to be reached; a test that hangs fails."""

BIND_WHEN_TOLD = """
import socket, sys
print("up", flush=True)
for line in sys.stdin:
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", int(line)))
            said = "ok"
        except OSError as error:
            said = error.errno
    print(said, flush=True)
"""
"""A program that binds each port that it is told, and says what came of it (`tell`)."""

MANY = """
import errno, os, socket, sys
def bind(port):
    s = socket.socket()
    # As servers do: connections to one before, which linger for a minute, do not take the port.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("127.0.0.1", port))
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        s.close()
print(*(bind(int(port)) for port in sys.argv[1:]))
"""
"""A program that binds each port among its arguments, and says what came of them."""


class Result:
    """How a program ended: exit status (negative: the signal) and what it printed."""

    def __init__(self, status: int, out: str, err: str) -> None:
        """Keep the three."""
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"<status {self.status}\n--- stdout\n{self.out}--- stderr\n{self.err}>"

    def ok(self) -> Result:
        """Check that it ended well."""
        assert self.status == 0, self
        return self

    @property
    def lines(self) -> list[str]:
        """What it printed, line by line."""
        return self.out.splitlines()


class Host:
    """A network namespace with loopback up, and a privbind command to use in it."""

    def __init__(self, privbind: Path, prepare: str = "", unshared: Sequence[str] = ("--net",)) -> None:
        """``prepare``: shell commands run in the namespace before anything else. ``unshared``: all its namespaces."""
        self.privbind = str(privbind)
        self._holder = subprocess.Popen(
            ["unshare", *unshared, "sh", "-ec", f"ip link set lo up; {prepare}\necho ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.pid = self._holder.pid
        self.enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]
        self._started: list[subprocess.Popen[Any]] = []

    def close(self) -> None:
        """End what was started here, and the namespace with it.

        That is everything in the namespace: daemons, and what a server started in a session of its own, as well. A
        second call does nothing.
        """
        if self._holder.returncode is not None:
            return
        wait_for(self._all_ended, "the end of all processes in a network namespace")
        for process in self._started:
            # With what a server started: a master that is killed leaves its workers.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait()
        self._holder.stdout.close()

    def _all_ended(self) -> bool:
        """End all processes of the namespace but the one that holds it; whether there were none."""
        own = os.readlink(f"/proc/{self.pid}/ns/net")
        assert own != os.readlink("/proc/self/ns/net")
        found = False
        for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
            with contextlib.suppress(OSError):
                if pid != self.pid and os.readlink(f"/proc/{pid}/ns/net") == own:
                    found = True
                    os.kill(pid, signal.SIGKILL)
        return not found

    def popen(self, argv: Sequence[object], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here, as root; it has the pid of what is returned."""
        options.setdefault("text", True)
        options.setdefault("start_new_session", True)
        # Of root's home a launch would warn: it is not the user's.
        options.setdefault("env", {name: value for name, value in os.environ.items() if name != "HOME"})
        process = subprocess.Popen([*self.enter, *map(str, argv)], **options)
        self._started.append(process)
        return process

    def run(self, argv: Sequence[object], **options: Any) -> Result:
        """Run a program here, as root."""
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        given = options.pop("input", None)
        timeout = options.pop("timeout", TIMEOUT_S)
        if given is not None:
            options["stdin"] = subprocess.PIPE
        process = self.popen(argv, **options)
        out, err = process.communicate(given, timeout=timeout)
        return Result(process.returncode, out or "", err or "")

    def plain(self, argv: Sequence[object], **options: Any) -> Result:
        """Run a program as nobody, without privbind: the negative control."""
        return self.run([*AS_NOBODY, *argv], **options)

    def command(self, argv: Sequence[object], *options: str, user: str = "nobody") -> list[str]:
        """The command line that runs a program with privbind."""
        return [self.privbind, "-u", user, *options, "--", *map(str, argv)]

    def granted(self, argv: Sequence[object], *options: str, user: str = "nobody", **more: Any) -> Result:
        """Run a program with privbind."""
        return self.run(self.command(argv, *options, user=user), **more)

    def start(self, argv: Sequence[object], *options: str, user: str = "nobody", **more: Any) -> subprocess.Popen[Any]:
        """Start a program with privbind."""
        return self.popen(self.command(argv, *options, user=user), **more)


def python(code: str, *arguments: str) -> list[str]:
    """The command line that runs Python code as any user."""
    return [PYTHON, "-I", "-c", code, *arguments]


def table(found: Result) -> dict[str, str]:
    """What a program printed: the case or result first on each line, and the rest."""
    return {line.split(" ", 1)[0]: line.partition(" ")[2] for line in found.lines}


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status as a mapping."""
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def helper_of(process: subprocess.Popen[Any]) -> int:
    """The helper of a command that was started with `-v` (its story names the process)."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"helper is process (\d+)", line)
        if found:
            return int(found[1])
    raise AssertionError("no helper was told of")


def wait_for(condition: Callable[[], Found], what: str) -> Found:
    """Wait for something that has no event of its own to wait for; fails after a long time."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"never happened: {what}")


def read_line(process: subprocess.Popen[Any]) -> str:
    """The next line of a started program's output."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(TIMEOUT_S), "the program printed nothing"
    return str(process.stdout.readline())


def tell(process: subprocess.Popen[Any], port: int) -> str:
    """Have `BIND_WHEN_TOLD` bind a port: "ok", or the errno."""
    assert process.stdin is not None
    process.stdin.write(f"{port}\n")
    process.stdin.flush()
    return read_line(process).strip()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that init has not yet collected counts)."""
    try:
        return status_of(pid)["State"].startswith(("Z", "X"))
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to one process that a test started."""
    os.kill(pid, number)
