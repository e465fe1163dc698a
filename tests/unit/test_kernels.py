"""How guests are planned and read: every kernel has its cells, every row its tests, every result its meaning."""

from __future__ import annotations

import re

import pytest

from ..harness.guests.outcome import cases, complaints
from ..harness.guests.page import MECHANISMS, page
from ..harness.guests.plan import CELLS, INSIDE, LIMITS_S, OLD, ROWS, SHORT, WORDS, not_run, runs
from ..harness.guests.plan import ROOT as ROOT_TESTS
from ..harness.guests.stated import FEATURES, STATED
from ..harness.install import ROOT


def test_every_row_has_its_tests() -> None:
    for kind, tests in ROWS.values():
        assert kind in WORDS
        assert kind in LIMITS_S
        for test in tests:
            assert (ROOT / test.format(inside=INSIDE, root=ROOT_TESTS)).is_file(), test
    assert set(SHORT) | set(OLD) <= set(ROWS)


def test_every_cell_is_stated_and_run_or_says_why() -> None:
    for cell in CELLS:
        stated = STATED[cell.rpartition("-")[0]]
        assert stated.kernel <= set(FEATURES)
        ran = {row for run in runs(cell, short=False) for row in run.rows}
        assert ran
        for row in ROWS:
            assert (row in ran) == (not not_run(cell, row))


def test_what_is_started() -> None:
    assert {run.cell for run in runs("all", short=False)} == set(CELLS)
    assert {run.cell for run in runs("6.1", short=False)} == {"6.1-amd64", "6.1-arm64"}
    assert {run.cell for run in runs("5.10, newest", short=False)} == {"5.10-amd64", "newest-amd64"}
    assert {run.cell for run in runs("all", short=True)} == {"6.1-amd64"}
    with pytest.raises(ValueError, match=r"KERNELS names no kernel of ours: 4\.19"):
        runs("4.19", short=False)


REPORT = b"""<testsuites><testsuite>
<testcase classname="tests.root.test_limit" name="test_a[bpf]" time="1.5"/>
<testcase classname="tests.root.test_seccomp.TestSignals" name="test_b" time="0.1"><failure message="no">why</failure>
</testcase>
<testcase classname="tests.root.test_limit" name="test_c" time="0"><skipped message="not installed: go"/></testcase>
<testcase classname="tests.root.test_limit" name="test_d" time="0"><properties>
<property name="auto:policy" value="bpf"/></properties><error message="broken">at its end</error></testcase>
</testsuite></testsuites>"""


def test_reports_are_read() -> None:
    first, second, third, fourth = cases(REPORT)
    assert first == ("tests/root/test_limit.py", "test_a[bpf]", "passed", "", {}, 1.5)
    assert second[:4] == ("tests/root/test_seccomp.py", "TestSignals::test_b", "failed", "no\nwhy")
    assert third[2:4] == ("skipped", "not installed: go")
    assert (fourth.result, fourth.notes) == ("failed", {"auto:policy": "bpf"})


BAD = (
    "[   12.3] BUG: unable to handle page fault for address: 0000",
    "[   12.3] WARNING: CPU: 1 PID: 7 at kernel/bpf/cgroup.c:1",
    "[   12.3] INFO: task privbind:70 blocked for more than 120 seconds.",
    "[   12.3] python3[70]: segfault at 0 ip 0",
)
GOOD = (
    "[    0.0] Kernel command line: console=ttyS0 privbind.guest=6.1-amd64",
    '[   12.3] audit: type=1400 audit(1.1:1): apparmor="STATUS"',
    '[    1.1] PCI: Using host bridge windows; if necessary, use "pci=nocrs" and report a bug',
)


def test_the_kernels_complaints_are_found() -> None:
    assert complaints("\n".join([*BAD, *GOOD])) == list(BAD)


def test_the_page_says_what_was_not_tried() -> None:
    """With no result at all every cell says so, or why it never will be."""
    text = page([])
    assert text.count("not tried yet") == len(CELLS)
    assert "on 5.10, x86-64: only ambient is offered there" in text
    assert all(f"| {row} |" in text for row in ROWS)


def test_the_readme_asks_for_what_is_refused_without_it() -> None:
    """Its table of what mechanisms need names the version that kernels which are too old are told."""
    (row,) = re.findall(r"^\| needs \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    needs = dict(zip(MECHANISMS, row.split(" | "), strict=True))
    for stated in STATED.values():
        for mechanism, (_, remedy) in stated.why.items():
            assert remedy in needs[mechanism]
    assert not [name for name in MECHANISMS if "Linux" in needs[name] and name not in STATED["5.10"].why]
