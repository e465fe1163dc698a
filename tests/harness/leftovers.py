"""A run fails when it leaves a process behind.

Its processes are known by the audit session that the run has begun (`seccomp_kills`), which whatever it starts
inherits; and by the folders that it has made, one of which is in the command line of everything that was installed or
compiled for it: a helper has that of its launch. Where the run could not begin a session, the folders alone tell.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest

from .install import FOLDERS
from .seccomp_kills import session_of

PATIENCE_S = 10
"""How long processes have to end that are ending by themselves."""


def register(config: pytest.Config, session: str | None) -> None:
    """Look after this run, whose audit session is that, if it has one of its own."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Leftovers(session), "privbind-leftovers")


class _Leftovers:
    def __init__(self, session: str | None) -> None:
        self._session = session
        self._left: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        end = time.monotonic() + PATIENCE_S
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid() and (left := self._look_at(int(name), end)):
                self._left.append(left)
        if self._left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _look_at(self, pid: int, end: float) -> str | None:
        """What a process is, if it is ours and does not end in time."""
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return None
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace")
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if session_of(pid) != self._session and not any(folder in command for folder in FOLDERS):
                return None
            if select.select([process], [], [], max(0, end - time.monotonic()))[0]:
                return None
            return f"{pid} {name}: {command[-200:]}"
        except OSError:  # it has ended
            return None
        finally:
            os.close(process)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._left:
            terminalreporter.section("processes that this run has left behind", red=True)
            for line in self._left:
                terminalreporter.line(line)
