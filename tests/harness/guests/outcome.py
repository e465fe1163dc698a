"""What a guest left behind: the result of each of its tests, and what its kernel had to say."""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree import ElementTree as ET


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


_BAD = re.compile(
    r"\bBUG:|\bOops\b|\bWARNING:|Call Trace|general protection|\bpanic\b|soft lockup|hung task|blocked for more than"
    r"|unable to handle|segfault at|INFO: rcu|UBSAN|KASAN|privbind"
)
_HARMLESS = re.compile(
    r"Command line:|Kernel command line:|Unknown kernel command line parameters|privbind\.\w+=|systemd\[|"
    # Kills by seccomp filters are judged by the run of the tests, which knows who provoked them (seccomp_kills.py).
    r"audit: type=1326|"
    # What a kernel for virtual machines says of a mitigation that the emulated processor does not have.
    r"Speculat|Spectre|MDS|MMIO Stale|Retbleed"
)


def complaints(log: str) -> list[str]:
    """The lines of a kernel's log that should not be there."""
    return [line for line in log.splitlines() if _BAD.search(line) and not _HARMLESS.search(line)]
