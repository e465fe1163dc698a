"""What a guest left behind: the result of each of its tests, and what its kernel had to say."""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree import ElementTree as ET

from .plan import Run, files


class Case(NamedTuple):
    """One test of a guest: its file, its name, how it ended ("passed", "failed", "skipped"), why, and what it noted."""

    file: str
    name: str
    result: str
    text: str
    notes: dict[str, str]
    seconds: float


def cases(junit: bytes) -> list[Case]:
    """Read pytest's report."""
    found = []
    for entry in ET.fromstring(junit).iter("testcase"):  # written by our own guest
        result, text = "passed", ""
        for kind in ("failure", "error", "skipped"):
            element = entry.find(kind)
            if element is not None:
                result = "skipped" if kind == "skipped" else "failed"
                text = element.get("message", "") if kind == "skipped" else f"{element.get('message')}\n{element.text}"
        notes = {note.get("name", ""): note.get("value", "") for note in entry.iter("property")}
        file = entry.get("classname", "").split(".Test")[0].replace(".", "/") + ".py"
        name = entry.get("name", "")
        group = re.search(r"\.(Test\w+)$", entry.get("classname", ""))
        name = f"{group[1]}::{name}" if group else name
        found.append(Case(file, name, result, text, notes, float(entry.get("time", "0"))))
    return found


def untried(run: Run, found: list[Case]) -> list[str]:
    """What a guest was to try and has not: files of which it tells nothing, and rows of which every test is skipped."""
    told = {case.file for case in found}
    tried = {case.file for case in found if case.result != "skipped"}
    missing = [test for test in run.tests if test not in told]
    return missing + [row for row in run.rows if not tried.intersection(files(row))]


_BAD = re.compile(
    # What goes wrong in the kernel, in the words of x86 and of arm64.
    r"\bBUG:|kernel BUG at|\bOops\b|\bWARNING:|Call [Tt]race|cut here|Internal error|[Uu]nable to handle"
    r"|general protection|invalid opcode|stack segment|double fault|unchecked MSR access|\bpanic\b"
    r"|soft lockup|hard LOCKUP|hung task|blocked for more than|INFO: rcu|kthread starved|INFO: possible"
    r"|UBSAN|KASAN|KCSAN|KFENCE|refcount_t:|list_\w+ corruption|unregister_netdevice: waiting"
    # What it does to programs.
    r"|segfault at|\btraps: |unhandled exception:|bad frame in|oom-killer|Out of memory|page allocation failure"
    # A disk of this machine that is full.
    r"|I/O error|EXT4-fs error"
    # A seccomp filter has killed what is of no audit session: systemd, or a service. Kills in the run of the tests are
    # judged there, where it is known which were provoked (seccomp_kills.py).
    r"|type=1326 .* ses=4294967295 .* sig=(?!0\b)"
    r"|privbind"
)
_HARMLESS = re.compile(
    r"Command line:|Kernel command line:|Unknown kernel command line parameters|privbind\.\w+=|"
    r"systemd\[\d+\]: (?!segfault|unhandled)|"
    r"type=1326 .* ses=(?!4294967295 )|"
    # What a kernel for virtual machines says of a mitigation that the emulated processor does not have.
    r"Speculat|Spectre|MDS|MMIO Stale|Retbleed"
)


def complaints(log: str) -> list[str]:
    """The lines of a kernel's log that should not be there."""
    return [line for line in log.splitlines() if _BAD.search(line) and not _HARMLESS.search(line)]
