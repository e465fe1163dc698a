"""Standing grants, bind by bind: who has one, who does not, and what makes no difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.cases import CASES, OCCUPIED, OCCUPY, Bind, Case
from ..harness.host import python, read_line
from ..harness.standing import StandingHost


class Table:
    """One host for the whole table: the grants are loaded anew for each policy."""

    def __init__(self, host: StandingHost, program: Path) -> None:
        self.host = host
        self.program = program
        self._known: dict[tuple[str, str], dict[Bind, str]] = {}
        self._occupier = host.popen(python(OCCUPY, str(OCCUPIED)), stdin=-1, stdout=-1)
        assert read_line(self._occupier) == "held\n"

    def result(self, who: str, rules: str, bind: Bind) -> str:
        """What a bind gives alice, with the grant of these rules, bob, who has none, or root."""
        if (who, rules) not in self._known:
            binds = [case.bind for case in CASES if case.rules == rules]
            if who == "root":
                argv = [self.program, *(word for bind in binds for word in bind.words())]
                found = [line.split()[0] for line in self.host.run(argv).lines]
            else:
                if who == "alice":
                    self.host.load(f'[[grant]]\nuser = "alice"\nallow = "{rules}"\n')
                found = self.host.binds(who, self.program, *binds)
            assert len(found) == len(binds)
            self._known[who, rules] = dict(zip(binds, found, strict=True))
        return self._known[who, rules][bind]


@pytest.fixture(scope="module")
def table(installed: Path, programs: Path) -> Iterator[Table]:
    host = StandingHost(installed)
    try:
        yield Table(host, programs / "trybind")
    finally:
        host.close()


@pytest.mark.parametrize("case", [case for case in CASES if case.rules], ids=str)
def test_bind(table: Table, case: Case) -> None:
    """A granted bind gives what root gets; any other, and any of another user, what the kernel gives by itself."""
    native = table.result("bob", case.rules, case.bind)
    root = table.result("root", case.rules, case.bind)
    if 0 < case.bind.port < 1024 and root == "ok":
        assert native == "EACCES", "the control: without a grant the port must be out of reach"
    assert table.result("alice", case.rules, case.bind) == (root if case.granted else native)
