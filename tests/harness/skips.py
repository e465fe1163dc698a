"""In CI a skipped test is a failed one, unless its reason is in a list of allowed ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def register(config: pytest.Config, allowed: Path) -> None:
    """With CI or PRIVBIND_NO_SKIPS set, have a run fail that skips for a reason that is not in this file."""
    strict = any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "PRIVBIND_NO_SKIPS"))
    if strict and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_NoSkips(allowed), "privbind-no-skips")


class _NoSkips:
    def __init__(self, allowed: Path) -> None:
        lines = allowed.read_text().splitlines()
        self._allowed = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
        self._refused: list[str] = []

    def _look_at(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            assert isinstance(report.longrepr, tuple)
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if reason not in self._allowed:
                self._refused.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look_at(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look_at(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._refused:
            terminalreporter.section("skipped, which this run does not allow (tests/allowed-skips.txt)", red=True)
            for line in self._refused:
                terminalreporter.line(line)
