"""Which kernels are started, how, and which tests run in each of these guests.

A row for something new is a name in `ROWS` and the tests that stand for it; `not_run` says why a cell is not run.
"""

from __future__ import annotations

import os
from typing import NamedTuple

INSIDE = "tests/kernels/inside"
ROOT = "tests/root"

PLAIN, LAUNCHES, PROGRAMS, HELPERS, BPF = "plain", "launches", "programs", "helpers", "bpf"
SYSTEMD, SOFT, HYBRID, LEGACY = "systemd", "soft reboot", "hybrid", "v1 only"
BARE = (PLAIN, LAUNCHES, PROGRAMS, HELPERS, BPF)
"""Guests without systemd, which are all alike: several, so that each ends in a time that one likes to wait for."""

WORDS = {
    **dict.fromkeys(BARE, ()),
    SYSTEMD: (),
    SOFT: ("privbind.again=1",),
    HYBRID: ("systemd.unified_cgroup_hierarchy=0",),
    LEGACY: ("systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1"),
}
"""Words for the kernel's command line, by the way in which a guest is started."""

ROWS = {
    "what doctor and auto say": (PLAIN, ["{inside}/test_offers.py"]),
    "what is refused, and why": (PLAIN, ["{inside}/test_refusals.py"]),
    "the table of bind cases": (LAUNCHES, ["{root}/test_bind_table.py"]),
    "`-n`: limits": (PLAIN, ["{root}/test_limit.py"]),
    "`-r`: SO_REUSEPORT": (LAUNCHES, ["{root}/test_reuse_port.py"]),
    "programs: static, threads, vfork, i386": (PROGRAMS, ["{root}/test_programs.py", "{root}/test_bpf_programs.py"]),
    "the command's privileges": (LAUNCHES, ["{root}/test_privileges.py", "{root}/test_ambient.py"]),
    "the helper and its sandbox": (HELPERS, ["{root}/test_helper.py", "{root}/test_seccomp_helper.py"]),
    "kills by seccomp filters are noticed": (PROGRAMS, ["{root}/test_seccomp_kills.py"]),
    "bpf: binds, cgroups, placement": (
        BPF,
        ["{root}/test_bpf_binds.py", "{root}/test_bpf_cgroups.py", "{root}/test_placement.py"],
    ),
    "seccomp": (HELPERS, ["{root}/test_seccomp.py"]),
    "preload": (HELPERS, ["{root}/test_preload.py"]),
    "attacks": (BPF, ["{root}/test_attacks.py"]),
    "the Python API": (PROGRAMS, ["{root}/test_python_api.py"]),
    "signals under seccomp": (HELPERS, ["{inside}/test_signals.py"]),
    "/proc that hides or is not there": (PLAIN, ["{inside}/test_processes.py"]),
    "SCTP": (PLAIN, ["{inside}/test_sctp.py"]),
    "placed grants": (BPF, ["{root}/test_placed.py"]),
    "the hook of container runtimes": (PLAIN, ["{root}/test_oci_hook.py"]),
    "watch": (PROGRAMS, ["{root}/test_watch.py"]),
    "explain": (PLAIN, ["{root}/test_explain.py"]),
    "few descriptors and processes": (PLAIN, ["{root}/test_resource_limits.py"]),
    "standing grants at the root of cgroup v2": (PLAIN, ["{inside}/test_root_cgroup.py"]),
    "systemd: boot, reload, changes, services": (SYSTEMD, ["{inside}/test_systemd.py"]),
    "systemd: the units of the recipes": (SYSTEMD, ["{inside}/test_units.py"]),
    "soft reboot, with Debian 13's systemd": (
        SOFT,
        ["{inside}/test_soft_reboot.py", "{inside}/test_systemd.py"],
    ),
    "hybrid cgroups": (HYBRID, ["{inside}/test_layouts.py"]),
    "cgroups of v1 only": (LEGACY, ["{inside}/test_layouts.py"]),
}
"""What is promised, by a name for people: in which kind of guest it is tried, and which tests do it."""

SHORT = (
    "what doctor and auto say",
    "`-n`: limits",
    "/proc that hides or is not there",
    "SCTP",
    "standing grants at the root of cgroup v2",
    "systemd: boot, reload, changes, services",
)
"""What is tried in a test of everything, of one kernel."""

OLD = ("what doctor and auto say", "what is refused, and why", "SCTP")
"""What there is to try where ambient alone is offered."""

LEFT_OUT = {
    "musl": "another libc, whose system calls are the same",
    "bytecode": "installs the wheel by pip, which no guest has; what it looks at does not depend on the kernel",
    "test_go or test_rust": "no compiler there; static programs in C make the same system calls",
    "node": "not installed there",
}
"""Words in the names of tests that are not for guests, and why."""

CELLS = ("5.10-amd64", "6.1-amd64", "6.12-amd64", "newest-amd64", "6.1-arm64")

LIMITS_S = {**dict.fromkeys(BARE, 2400), SYSTEMD: 1200, SOFT: 600, HYBRID: 300, LEGACY: 300}
"""How long the tests of a guest may take, by its kind; where another processor is emulated thrice that."""

PATIENCE = {"amd64": 10, "arm64": 30}
"""How slow an emulated machine is that runs beside others (tests/harness/patience.py)."""


class Run(NamedTuple):
    """One guest: its kernel, how it is started, and what is tried in it."""

    cell: str
    kind: str
    rows: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.cell}-{self.kind.replace(' ', '-')}"

    @property
    def series(self) -> str:
        """The series of its kernel."""
        return self.cell.rpartition("-")[0]

    @property
    def arch(self) -> str:
        """Its architecture, in Debian's words."""
        return self.cell.rpartition("-")[2]

    @property
    def root(self) -> str:
        """The release of Debian that is around the kernel."""
        return "trixie" if self.kind == SOFT else "bookworm"

    @property
    def limit_s(self) -> int:
        """How long its tests may take."""
        return LIMITS_S[self.kind] * (3 if self.arch == "arm64" else 1)

    @property
    def start_s(self) -> int:
        """How long it may take to begin with its tests, and to power off after them."""
        return 300 * (3 if self.arch == "arm64" else 1)

    @property
    def patience(self) -> int:
        """By how much its tests wait longer, and try less often."""
        return PATIENCE[self.arch]

    @property
    def tests(self) -> list[str]:
        """The files of its tests."""
        return [test for row in self.rows for test in files(row)]

    @property
    def selection(self) -> str:
        """Which of the tests in these files, as `pytest -k` takes it."""
        return f"not ({' or '.join(LEFT_OUT)})"


def files(row: str) -> list[str]:
    """The files of a row's tests."""
    return [test.format(inside=INSIDE, root=ROOT) for test in ROWS[row][1]]


def not_run(cell: str, row: str) -> str:
    """Why something is not tried on a kernel; empty where it is."""
    kind = ROWS[row][0]
    if cell.startswith("5.10") and row not in OLD:
        return "only ambient is offered there"
    if not cell.startswith("5.10") and row == "what is refused, and why":
        return "nothing is refused there"
    if cell.endswith("arm64") and kind in (HYBRID, LEGACY):
        return "how cgroups are laid out does not depend on the processor"
    if cell.startswith("6.1-") and kind == SOFT:
        return "Debian 12's systemd, which goes with this kernel, has no soft reboot (systemd 254 has it)"
    return ""


def runs(wanted: str, *, short: bool) -> list[Run]:
    """The guests to start for what KERNELS names: "all", or series or cells ("6.1", "6.1-arm64"), comma-separated."""
    names = wanted.replace(",", " ").split()
    known = {name: [cell for cell in CELLS if name in ("all", cell, cell.rpartition("-")[0])] for name in names}
    cells = [cell for cell in CELLS if any(cell in meant for meant in known.values())]
    if short:
        cells = ["6.1-amd64"]
    if not all(known.values()) or not cells:
        raise ValueError(f"KERNELS names no kernel of ours: {wanted} (one of: all {' '.join(CELLS)}, or a series)")
    found = []
    for cell in cells:
        for kind in WORDS:
            rows = [row for row, (where, _) in ROWS.items() if where == kind and not not_run(cell, row)]
            if short:
                rows = [row for row in rows if row in SHORT]
            if rows:
                found.append(Run(cell, kind, tuple(rows)))
    return found


def wanted() -> list[Run]:
    """The guests that KERNELS asks for; where it is not set, a few tests on Debian 12's own kernel."""
    names = os.environ.get("KERNELS", "")
    return runs(names or "6.1", short=not names)
