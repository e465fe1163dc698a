"""The table of bind cases, against every mechanism, each row compared with what the kernel gives without privbind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.cases import CASES, MECHANISMS, OCCUPIED, OCCUPY, Bind, Case
from ..harness.host import Host, python, read_line
from ..harness.needs import need


class Table:
    """Runs binds, all of one policy and program at once, and remembers what they gave."""

    def __init__(self, host: Host, programs: Path) -> None:
        """A host where one port is taken."""
        self.host = host
        self.programs = programs
        self._known: dict[tuple[str, str, str], dict[Bind, str]] = {}
        self._holder = host.popen(python(OCCUPY, str(OCCUPIED)), stdin=-1, stdout=-1)
        assert read_line(self._holder) == "held\n"

    def result(self, who: str, rules: str, program: str, bind: Bind) -> str:
        """What a bind gives: "ok" or the errno's name."""
        key = who, rules, program
        if key not in self._known:
            binds = [case.bind for case in CASES if case.rules == rules]
            argv = [self.programs / program, *(word for bind in binds for word in bind.words())]
            if who == "root":
                found = self.host.run(argv)
            elif who == "nobody":
                found = self.host.plain(argv)
            else:
                options = [f"--via={who}", *(["--allow", rules] if rules else [])]
                found = self.host.granted(argv, *options)
            assert len(found.lines) == len(binds), found
            self._known[key] = {bind: line.split()[0] for bind, line in zip(binds, found.lines, strict=True)}
        return self._known[key][bind]


@pytest.fixture(scope="module")
def table(installed: Path, programs: Path) -> Iterator[Table]:
    """One host for the whole table; nothing stays bound between rows."""
    host = Host(installed)
    try:
        yield Table(host, programs)
    finally:
        host.close()


PROGRAMS = ("trybind", "trybind-musl")
"""The same program, linked with glibc and with musl."""


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bind(table: Table, mechanism: str, program: str, case: Case) -> None:
    """A granted bind gives what root gets, any other what nobody gets."""
    if "musl" in program:
        need("musl-gcc")
    native = table.result("nobody", case.rules, program, case.bind)
    root = table.result("root", case.rules, program, case.bind)
    if 0 < case.bind.port < 1024 and root == "ok":
        assert native == "EACCES", "the control: without privbind the port must be out of reach"
    expected = root if case.granted else native
    assert table.result(mechanism, case.rules, program, case.bind) == expected
