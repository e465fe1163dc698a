"""How guests are planned and read: every kernel has its cells, every row its tests, every result its meaning."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ..harness.guests import page as page_module
from ..harness.guests.outcome import Case, cases, complaints, untried
from ..harness.guests.page import MECHANISMS, page
from ..harness.guests.plan import CELLS, LIMITS_S, OLD, ROWS, SHORT, WORDS, files, not_run, runs
from ..harness.guests.stated import FEATURES, STATED
from ..harness.install import ROOT


def test_every_row_has_its_tests() -> None:
    for row, (kind, _) in ROWS.items():
        assert kind in WORDS
        assert kind in LIMITS_S
        for test in files(row):
            assert (ROOT / test).is_file(), test
    assert set(SHORT) | set(OLD) <= set(ROWS)


def test_every_cell_is_stated_and_run_or_says_why() -> None:
    for cell in CELLS:
        stated = STATED[cell.rpartition("-")[0]]
        assert stated.kernel <= set(FEATURES)
        ran = {row for run in runs(cell, short=False) for row in run.rows}
        assert ran
        for row in ROWS:
            assert (row in ran) == (not not_run(cell, row))
        assert ("standing grants at the root of cgroup v2" in ran) == stated.standing
        # What is refused there is tried as well, with its reason; where there is none, nothing is.
        refused = {name for name, (usable, _, _) in stated.mechanisms.items() if not usable}
        assert refused == set(stated.why)
        assert ("what is refused, and why" in ran) == bool(refused) == (not stated.standing)
        assert all(reason and remedy for reason, remedy in stated.why.values())


def test_what_is_started() -> None:
    assert {run.cell for run in runs("all", short=False)} == set(CELLS)
    assert {run.cell for run in runs("6.1", short=False)} == {"6.1-amd64", "6.1-arm64"}
    assert {run.cell for run in runs("5.10, newest", short=False)} == {"5.10-amd64", "newest-amd64"}
    assert {run.cell for run in runs("all", short=True)} == {"6.1-amd64"}
    assert {run.cell for run in runs("5.10,all", short=False)} == set(CELLS)


@pytest.mark.parametrize("names", ["4.19", "6", "6.1,6", "5.10,newest-amd", "6.1 4.19", ","])
def test_what_is_not_known_is_not_passed_over(names: str) -> None:
    with pytest.raises(ValueError, match=f"KERNELS names no kernel of ours: {re.escape(names)} "):
        runs(names, short=False)


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
    "[   12.3] systemd[1]: segfault at 0 ip 0",
    "[   12.3] ------------[ cut here ]------------",
    "[   12.3] kernel BUG at kernel/bpf/core.c:2104!",
    "[   12.3] invalid opcode: 0000 [#1] PREEMPT SMP PTI",
    "[   12.3] general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1]",
    "[   12.3] Call Trace:",
    "[   12.3] Call trace:",
    "[   12.3] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
    "[   12.3] Internal error: synchronous external abort: 96000210 [#1] SMP",
    "[   12.3] INFO: possible recursive locking detected",
    "[   12.3] WARNING: possible circular locking dependency detected",
    "[   12.3] refcount_t: underflow; use-after-free.",
    "[   12.3] UBSAN: array-index-out-of-bounds in net/core/filter.c:1:2",
    "[   12.3] BUG: KASAN: use-after-free in bpf_prog_free",
    "[   12.3] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "[   12.3] rcu: rcu_preempt kthread starved for 5250 jiffies! g1 f0x0",
    "[   12.3] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [python3:70]",
    "[   12.3] watchdog: Watchdog detected hard LOCKUP on cpu 0",
    "[   12.3] unregister_netdevice: waiting for lo to become free. Usage count = 2",
    "[   12.3] list_del corruption. prev->next should be ffff, but was 0000",
    "[   12.3] Kernel panic - not syncing: Attempted to kill init!",
    "[   12.3] traps: python3[70] trap invalid opcode ip:0 sp:0 error:0 in python3.11[400000+1000]",
    "[   12.3] python3[70]: unhandled exception: DABT (lower EL), ESR 0x92000006, level 2 translation fault in python3",
    "[   12.3] python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    "[   12.3] I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    '[   12.3] audit: type=1326 audit(1.1:1): auid=4294967295 uid=1 gid=1 ses=4294967295 pid=7 comm="x" sig=31 arch=c0',
)
GOOD = (
    "[    0.0] Kernel command line: console=ttyS0 privbind.guest=6.1-amd64",
    "[    0.0] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible",
    "[    9.9] systemd[1]: Finished privbind.service - Standing grants of reserved ports.",
    # Provoked or not: the run of the tests knows.
    '[   12.3] audit: type=1326 audit(1.1:1): auid=0 uid=0 gid=0 ses=1 pid=70 comm="k1" exe="/bin/x" sig=31 arch=c0',
    # Told, not killed.
    '[   12.3] audit: type=1326 audit(1.1:1): auid=4294967295 uid=0 ses=4294967295 pid=70 comm="x" exe="/bin/x" sig=0',
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


def a_result(**changes: Any) -> dict[str, Any]:
    """What a guest has left, in short."""
    case = Case("tests/root/test_limit.py", "test_a", "passed", "", {}, 0.1)
    facts = {"cell": "6.1-amd64", "kind": "plain", "release": "6.1.0-56", "version": "6.1.192-2", "accelerator": "tcg"}
    return facts | {"when": "2026-11-25", "seconds": 60, "complaints": [], "cases": [case._asdict()]} | changes


def test_the_page_says_what_went_wrong() -> None:
    """Also what is no test's, and that not all was tried on the same kernel."""
    later = a_result(kind="systemd", release="6.1.0-57", version="6.1.200-1", when="2026-11-30", status="0")
    text = page([a_result(), later])
    assert "| 6.1, x86-64 | 6.1.0-56, 6.1.0-57 | 6.1.192-2, 6.1.200-1 | 2026-11-25–2026-11-30 | 2 min (tcg) |" in text
    assert "went wrong" not in text
    text = page([a_result(status="too long"), a_result(kind="hybrid", status="1", complaints=["BUG: x"])])
    assert "What else went wrong:" in text
    assert "- 6.1-amd64, plain: ended with too long, and tried only a part" in text
    assert "- 6.1-amd64, hybrid: `BUG: x`" in text


def test_only_what_is_planned_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the results of a kind of guest that there once was."""
    (tmp_path / "6.1-amd64-plain.json").write_text(json.dumps(a_result()))
    (tmp_path / "6.1-amd64-gone.json").write_text(json.dumps(a_result(seconds=6000)))
    monkeypatch.setattr(page_module, "TARGET", str(tmp_path / "page"))
    page_module.write(tmp_path)
    assert "| 1 min (tcg) |" in (tmp_path / "page").read_text()


def test_what_was_not_tried_is_found() -> None:
    """A file without a result, whatever pytest's status is, and a row of which everything is skipped."""
    (run,) = (run for run in runs("5.10", short=False))
    all_of_it = [Case(test, "test_a", "passed", "", {}, 0.1) for test in run.tests]
    assert untried(run, all_of_it) == []
    assert untried(run, all_of_it[1:]) == [run.tests[0], run.rows[0]]
    assert untried(run, [all_of_it[0]._replace(result="skipped"), *all_of_it[1:]]) == [run.rows[0]]
    assert untried(run, [all_of_it[0]._replace(result="failed"), *all_of_it[1:]]) == []


def test_the_readme_asks_for_what_is_refused_without_it() -> None:
    """Its table of what mechanisms need names the version that kernels which are too old are told."""
    (row,) = re.findall(r"^\| needs \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    needs = dict(zip(MECHANISMS, row.split(" | "), strict=True))
    for stated in STATED.values():
        for mechanism, (_, remedy) in stated.why.items():
            assert remedy in needs[mechanism]
    assert not [name for name in MECHANISMS if "Linux" in needs[name] and name not in STATED["5.10"].why]
