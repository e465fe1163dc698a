"""auto: on simulated hosts, which mechanism is taken for which request, and why not the others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from ..harness.host import Host, Result, python
from ..harness.install import PYTHON

FEW = ("setuid", "setgid", "net_bind_service")
"""What a plain container has, of what privbind can use."""


def capabilities(*names: str) -> list[str]:
    """Root with no more than these."""
    return ["setpriv", "--inh-caps=-all", f"--bounding-set=-all,{','.join('+' + name for name in names)}", "--"]


def mounts(script: str) -> list[str]:
    """Root in a mount namespace of its own, changed by a script."""
    return ["unshare", "--mount", "sh", "-ec", script + '; exec "$@"', "sh"]


FILTER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def instruction(*fields): return struct.pack("=HBBI", *fields)
def program(numbers, action):
    code = [instruction(0x20, 0, 0, 0)]
    for number in numbers:
        code += [instruction(0x15, 0, 1, number), instruction(0x06, 0, 0, action)]
    return b"".join([*code, instruction(0x06, 0, 0, 0x7FFF0000)])
block = program([int(number) for number in sys.argv[2].split(",")], int(sys.argv[1], 16))
memory = ctypes.create_string_buffer(block)
fprog = ctypes.create_string_buffer(struct.pack("=H6xQ", len(block) // 8, ctypes.addressof(memory)))
listener = libc.syscall(317, 1, 8 if sys.argv[1] == "7fc00000" else 0, fprog)
assert listener >= 0, os.strerror(ctypes.get_errno())
if listener:
    os.set_inheritable(listener, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
ACCT, SECCOMP, BPF = 163, 317, 321


def filtered(action: str, *numbers: int) -> list[str]:
    """Root under a seccomp filter: these system calls give an errno (50000 + N), or are notified (7fc00000)."""
    return python(FILTER, action, ",".join(map(str, numbers)))


EPERM = "50001"
ENOSYS = "50026"
NOTIFY = "7fc00000"

CGROUP2 = "for m in $(grep ' cgroup2 ' /proc/mounts | cut -d' ' -f2); do {}; done"
NO_CGROUP2 = mounts(CGROUP2.format("umount -l $m"))
READ_ONLY_CGROUP2 = mounts(CGROUP2.format("mount -o remount,bind,ro $m"))

NO_SHIM = mounts(
    'mount -t tmpfs tmpfs "$(dirname "$(find "$(dirname "$PRIVBIND")/.." -name libprivbind.so | head -1)")"'
)

POLICY = ["--allow=tcp:80"]
DYNAMIC = "trybind"
STATIC = "trybind-static"


class Case(NamedTuple):
    """A simulated host, a request, the mechanism taken (None: none fits), and words of each reason against others."""

    name: str
    host: list[str]
    options: list[str]
    program: str
    taken: str | None
    passed_over: dict[str, str]


CASES = [
    Case("a host with everything", [], POLICY, DYNAMIC, "bpf", {}),
    Case("a host with everything, a limit", [], [*POLICY, "-n3"], STATIC, "bpf", {}),
    Case("no cgroup2", NO_CGROUP2, POLICY, DYNAMIC, "seccomp", {"bpf": "cgroup v2 is not mounted"}),
    Case("read-only cgroup2", READ_ONLY_CGROUP2, POLICY, STATIC, "seccomp", {"bpf": "mounted read-only"}),
    Case("bpf(2) forbidden", filtered(EPERM, BPF), POLICY, STATIC, "seccomp", {"bpf": "bpf(2) is not permitted"}),
    Case(
        "a container with some capabilities",
        capabilities(*FEW, "sys_ptrace", "sys_admin"),
        POLICY,
        STATIC,
        "seccomp",
        {"bpf": "this user may not make a cgroup"},
    ),
    Case(
        "a container with what bpf needs and a cgroup namespace",
        ["unshare", "--cgroup", *capabilities(*FEW, "net_admin", "bpf", "dac_override")],
        POLICY,
        STATIC,
        "bpf",
        {},
    ),
    Case(
        "a container with CAP_SYS_PTRACE, no_new_privs asked for",
        capabilities(*FEW, "sys_ptrace"),
        [*POLICY, "--no-new-privs"],
        STATIC,
        "seccomp",
        {"bpf": "missing"},
    ),
    Case(
        "a container with CAP_SYS_PTRACE",
        capabilities(*FEW, "sys_ptrace"),
        POLICY,
        DYNAMIC,
        "preload",
        {"bpf": "missing", "seccomp": "CAP_SYS_ADMIN"},
    ),
    Case(
        "a plain container",
        capabilities(*FEW),
        POLICY,
        DYNAMIC,
        "preload",
        {"bpf": "missing", "seccomp": "CAP_SYS_PTRACE"},
    ),
    Case(
        "a plain container, a static program",
        capabilities(*FEW),
        [],
        STATIC,
        "ambient",
        {"bpf": "missing", "seccomp": "CAP_SYS_PTRACE", "preload": "statically linked"},
    ),
    Case(
        "a plain container, a static program and a policy",
        capabilities(*FEW),
        POLICY,
        STATIC,
        None,
        {
            "bpf": "missing",
            "seccomp": "CAP_SYS_PTRACE",
            "preload": "statically linked",
            "ambient": "more than the policy grants",
        },
    ),
    Case(
        "a plain container, a static program and a limit",
        capabilities(*FEW),
        ["-n1"],
        STATIC,
        None,
        {"bpf": "missing", "seccomp": "missing", "preload": "statically linked", "ambient": "cannot be counted"},
    ),
    Case(
        "a listener already there",
        [*NO_CGROUP2, *filtered(NOTIFY, ACCT)],
        POLICY,
        DYNAMIC,
        "preload",
        {"bpf": "cgroup2", "seccomp": "listener"},
    ),
    Case(
        "a profile that forbids bpf(2) and seccomp(2)",
        filtered(EPERM, BPF, SECCOMP),
        POLICY,
        DYNAMIC,
        "preload",
        {"bpf": "bpf(2) is not permitted", "seccomp": "seccomp(2) is not permitted"},
    ),
    Case(
        "a profile that knows none of them",
        filtered(ENOSYS, BPF, SECCOMP),
        POLICY,
        DYNAMIC,
        "preload",
        {"bpf": "bpf(2)", "seccomp": "no seccomp filters"},
    ),
    Case(
        "no shim, a plain container",
        [*NO_SHIM, *capabilities(*FEW)],
        [],
        DYNAMIC,
        "ambient",
        {"preload": "was not built"},
    ),
    Case(
        "no shim, a plain container, a policy",
        [*NO_SHIM, *capabilities(*FEW)],
        POLICY,
        DYNAMIC,
        None,
        {"bpf": "missing", "seccomp": "missing", "preload": "install a C compiler", "ambient": "policy"},
    ),
]


def run(host: Host, programs: Path, case: Case) -> Result:
    """The case's launch, told with -v."""
    command = host.command([programs / case.program, "tcp", "4", "127.0.0.1", "80"], "-v", *case.options)
    return host.run(["env", f"PRIVBIND={host.privbind}", *case.host, *command])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_auto(host: Host, programs: Path, case: Case) -> None:
    """The first in the order bpf, seccomp, preload, ambient that the host offers and that honours the request."""
    found = run(host, programs, case)
    told = dict(re.findall(r"^privbind:(?: passed over:)? +(\w+): (.*)$", found.err, re.MULTILINE))
    if case.taken is None:
        assert found.status == 125, found
        assert found.out == ""
        assert "no mechanism fits this request" in found.err
    else:
        assert f"mechanism: {case.taken} (the first that fits)" in found.err, found
        assert found.status == 0, found
        assert found.out == "ok 127.0.0.1 80\n"
    for name, words in case.passed_over.items():
        assert words in told[name], found
    assert ("warning: ambient" in found.err) == (case.taken == "ambient")


WITHOUT_COOKIE = """
import sys
sys.path.append(sys.argv[1])
from privbind.commands.privbind import main
from privbind.linux import sockets
def missing():
    raise OSError(92, "Protocol not available")
if sys.argv[2] == "older":
    sockets.netns_cookie = missing
sys.exit(main(sys.argv[3:], []))
"""


def test_before_linux_5_14(host: Host) -> None:
    """What lacks SO_NETNS_COOKIE alone: each that takes a policy names the kernel that has it."""
    site = next(Path(host.privbind).parent.parent.glob("lib/*/site-packages"))

    def launch(kernel: str, mechanism: str) -> Result:
        command = ["-u", "nobody", f"--via={mechanism}", "--allow=tcp:80", "echo", "started"]
        return host.run([PYTHON, "-I", "-S", "-B", "-c", WITHOUT_COOKIE, site, kernel, *command])

    for mechanism in ("bpf", "seccomp", "preload"):
        assert launch("this", mechanism).ok().out == "started\n"
        refused = launch("older", mechanism)
        assert (refused.status, refused.out) == (125, "")
        assert refused.err == f"privbind: {mechanism}: the kernel has no SO_NETNS_COOKIE (Linux 5.14 has it)\n"
    none = launch("older", "auto")
    assert (none.status, none.out) == (125, "")
    assert "bpf, seccomp, preload: the kernel has no SO_NETNS_COOKIE (Linux 5.14 has it)\n" in none.err
