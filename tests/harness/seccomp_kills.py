"""A run fails when a seccomp filter kills a process of it, outside of the tests that have that done.

Such a kill means that a helper needed a system call that its filter does not allow, and it can go unnoticed: the
helper's end looks like any other. Tests that provoke kills on purpose are marked ``provokes_sigsys``.

The reports are the kernel log's lines of ``type=1326``. They are taken from where the kernel multicasts them before it
prints them (linux/audit.h, AUDIT_NLGRP_READLOG, 3.16), because of the log it prints ten in five seconds and drops the
rest. To tell this run's processes from all others, the run becomes an audit session of its own: its number is
inherited by whatever is started, also by what ends up as init's child (``ses=`` in a line, /proc/PID/sessionid).
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .patience import PATIENCE

MARKER = "provokes_sigsys"

_NETLINK_AUDIT = 9  # linux/netlink.h
_GROUP_OF_LOG_READERS = 1  # 1 << AUDIT_NLGRP_READLOG - 1, linux/audit.h
_AUDIT_SECCOMP = 1326
_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, sender
_SO_RCVBUFFORCE = 33
_BUFFER_SIZE = 1 << 24
_PATIENCE_S = 30 * PATIENCE  # for the kernel's own thread that sends the reports
_PATIENCE_AT_FIRST_S = 3 * PATIENCE  # in another network namespace none comes
_CLOCK_REALTIME_COARSE = 5  # linux/time.h: the clock of the reports

_NUMBERS = itertools.count()

_LOGINUID = Path("/proc/self/loginuid")
_UNSET = str(0xFFFFFFFF)

_KILLING_GETPID = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0),  # the system call's number
        (0x15, 0, 1, {"x86_64": 39, "aarch64": 172}.get(os.uname().machine, 0)),
        (0x06, 0, 0, 0x80000000),  # SECCOMP_RET_KILL_PROCESS
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
)


def register(config: pytest.Config) -> str | None:
    """Watch this run, where this process may; the audit session that it has begun, if it could."""
    config.addinivalue_line("markers", f"{MARKER}: has seccomp filters kill processes on purpose")
    before = session_of("self")
    if not hasattr(config, "workerinput"):
        watch: _Watch | _Blind
        try:
            watch = _Watch()
        except OSError as error:
            watch = _Blind(error.strerror or str(error))
        config.pluginmanager.register(watch, "privbind-seccomp-kills")
    now = session_of("self")
    return now if now != before else None


def session_of(process: int | str) -> str:
    """The audit session of a process, "" for one that has ended and where the kernel knows of none."""
    try:
        return Path(f"/proc/{process}/sessionid").read_text()
    except OSError:
        return ""


def provoke() -> str:
    """Have a filter kill a new child of this process; the name by which its report knows it. Raises OSError."""
    name = f"k{os.getpid():x}-{next(_NUMBERS):x}"  # at most 15 bytes; pids differ between namespaces
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_KILLING_GETPID)
    program = struct.pack("=H6xQ", len(_KILLING_GETPID) // 8, ctypes.addressof(code))
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        libc.prctl(22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        libc.getpid()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGSYS:
        raise OSError(errno.ENOTSUP, "a seccomp filter kills nobody here")
    return name


def become_own_session() -> str:
    """Have this process begin an audit session, where it may; the number of the one that it is in."""
    user = _LOGINUID.read_text()
    try:
        _LOGINUID.write_text(str(os.getuid()) if user == _UNSET else user)
    except OSError:
        pass  # without CAP_AUDIT_CONTROL: other processes of the login count as well then
    return session_of("self")


class Kill:
    """One report: when it happened, and what it says."""

    def __init__(self, text: str) -> None:
        """``text`` is the report: ``audit(SECONDS.MILLISECONDS:NUMBER): NAME=VALUE...``."""
        self.text = text
        found = re.match(r"audit\((\d+)\.(\d+):", text)
        assert found, text
        self.at_ms = int(found[1]) * 1000 + int(found[2])

    def value(self, name: str) -> str:
        """What it says about something, "" for nothing."""
        found = re.search(rf' {name}="?([^" ]+)', self.text)
        return found[1] if found else ""


class Reports:
    """The kernel's reports from now on. Needs CAP_AUDIT_READ, in the first network namespace. Raises OSError."""

    def __init__(self) -> None:
        """Begin to listen, and see whether there is anything to hear: a kernel can be built without it."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)
            self._socket.bind((0, _GROUP_OF_LOG_READERS))
            self.up_to_now(_PATIENCE_AT_FIRST_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def so_far(self) -> list[Kill]:
        """Those that have come. Raises OSError (ENOBUFS) when some were lost."""
        found = []
        try:
            while True:
                found += self._receive(0)
        except BlockingIOError:
            return found

    def up_to_now(self, patience_s: float = _PATIENCE_S) -> list[Kill]:
        """All of what has happened: they come in order, so the last one is that of a kill that is provoked here."""
        last = provoke()
        found: list[Kill] = []
        try:
            while not found or found[-1].value("comm") != last:
                found += self._receive(patience_s)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the kernel reports no kill") from None
        return found[:-1]

    def _receive(self, patience_s: float) -> list[Kill]:
        """The next message, if it is a report of a kill."""
        self._socket.settimeout(patience_s)
        data = self._socket.recv(1 << 16)
        _, kind, _, _, _ = _MESSAGE.unpack_from(data)
        return (
            [Kill(data[_MESSAGE.size :].rstrip(b"\0\n").decode("utf-8", "replace"))] if kind == _AUDIT_SECCOMP else []
        )


class _Watch:
    def __init__(self) -> None:
        self._session = become_own_session()
        self._reports = Reports()
        self._kills: list[Kill] = []
        """Those that no test provoked."""
        self._tests: list[tuple[int, int, str]] = []
        """When each began and ended, and its name."""
        self._told: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        on_purpose = item.get_closest_marker(MARKER) is not None
        if on_purpose:
            self._take(self._reports.up_to_now)
        start = _now_ms()
        result = yield
        self._tests.append((start, _now_ms(), item.nodeid))
        if on_purpose:
            self._reports.up_to_now()
        else:
            self._take(self._reports.so_far)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._take(self._reports.up_to_now)
        self._reports.close()
        for kill in self._kills:
            if kill.value("ses") == self._session:
                # The reports' clock is a coarse one, so more than one test may fit.
                when = [name for start, end, name in self._tests if start <= kill.at_ms <= end]
                self._told.append(f"{', '.join(when) or 'between tests'}: {kill.text}")
        if self._told and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _take(self, which: Callable[[], list[Kill]]) -> None:
        try:
            self._kills += which()
        except OSError as error:
            self._told.append(f"the kernel's reports of kills cannot be read: {error}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._told:
            terminalreporter.section(f"killed by a seccomp filter, in tests that are not marked {MARKER}", red=True)
            for line in self._told:
                terminalreporter.line(line)


class _Blind:
    def __init__(self, why: str) -> None:
        self._why = why

    def pytest_report_header(self) -> str:
        return f"processes that a seccomp filter kills go unnoticed: {self._why}"


def _now_ms() -> int:
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) // 1_000_000
