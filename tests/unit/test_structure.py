"""How the parts hang together: which way imports point, what a launch loads, and constants against the headers."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from privbind.linux import call

from ..harness.install import ROOT, SOURCE

PACKAGE = SOURCE / "privbind"
MODULES = sorted(PACKAGE.rglob("*.py"))

_GROUND = {"errors", "grant", "linux", "values"}
_HELPER = _GROUND | {"account"}
_MECHANISMS = _HELPER | {"helper", "request"}
_LAUNCH = _MECHANISMS | {"mechanisms"}
_STANDING = _GROUND | {"account", "mechanisms"}
_COMMANDS = _LAUNCH | {"__version__", "inspect", "launch", "placed", "standing"}

LAYERS: dict[str, set[str]] = {
    "__init__": {"api"},
    "errors": set(),
    "values": set(),
    "grant": {"values"},
    "linux": set(),
    "account": {"errors", "grant.policy", "linux"},
    "request": _GROUND | {"account"},
    "helper": _HELPER,
    "mechanisms": _MECHANISMS,
    "inspect": _LAUNCH | {"standing"},
    "launch": _LAUNCH,
    "inprocess": _LAUNCH | {"launch"},
    "placed": _LAUNCH | {"standing"},
    "standing": _STANDING,
    "api": _COMMANDS | {"inprocess"},
    "commands": _COMMANDS | {"api"},
}
"""What each part may import of ours, besides itself: a part, or one module of it."""


def part_of(path: Path) -> str:
    """The first name of a module below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, top: Path) -> Iterator[str]:
    """The full name of everything that a module imports, for type checkers only ones included.

    ``top`` is the folder that relative imports end in.
    """
    package = path.relative_to(top).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else ())]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def is_within(name: str, whole: str) -> bool:
    """Whether a dotted name is another one, or below it."""
    return name == whole or name.startswith(whole + ".")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """commands, api → launch, inspect → standing → mechanisms → helper → grant, linux; grant imports none of ours."""
    own = [name.removeprefix("privbind.") for name in imports(path, SOURCE) if is_within(name, "privbind")]
    allowed = LAYERS[part_of(path)] | {part_of(path)}
    assert [name for name in own if not any(is_within(name, part) for part in allowed)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_own_imports_are_relative(path: Path) -> None:
    """The package is found by its place, never by its name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert not is_within(node.module or "", "privbind")
        elif isinstance(node, ast.Import):
            assert not any(is_within(alias.name, "privbind") for alias in node.names)


TESTS = ROOT / "tests"
HARNESS = "tests.harness"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_imports_another(path: Path) -> None:
    """What tests share is in the harness, which imports none of them either."""
    found = [name for name in imports(path, ROOT) if is_within(name, "tests")]
    assert [name for name in found if not is_within(name, HARNESS)] == []


@pytest.mark.parametrize("folder", ["bench", "tools", "src", "launcher"])
def test_nothing_else_imports_tests(folder: str) -> None:
    """Least of all the benchmarks: a package without tests can be measured."""
    for path in (ROOT / folder).rglob("*.py"):
        assert [name for name in imports(path, ROOT) if is_within(name, "tests")] == [], path


def test_the_walk_sees_each_kind_of_import(tmp_path: Path) -> None:
    """Else the tests before this one would hold of anything."""
    module = tmp_path / "tests/root/module.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "import os\nimport tests.a\nfrom tests import b\nfrom . import c\nfrom .d import e\nfrom .. import f\n"
        "from ..g.h import i\ndef late():\n    from ..j import k\n"
    )
    assert list(imports(module, tmp_path)) == [
        "os", "tests.a", "tests.b", "tests.root.c", "tests.root.d.e", "tests.f", "tests.g.h.i", "tests.j.k",
    ]  # fmt: skip


def test_foreign_functions_only_in_linux() -> None:
    """The kernel's interfaces are in one place."""
    users = {
        part_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module in ("_ctypes", "ctypes"))
        or (isinstance(node, ast.Import) and any(alias.name in ("_ctypes", "ctypes") for alias in node.names))
    }
    assert users == {"linux"}


def test_only_the_command_lines_print_or_exit() -> None:
    """Everything else raises; a forked helper's own end is no exit of the caller's."""
    for path in MODULES:
        if part_of(path) == "commands":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit", "quit"), path
            if isinstance(node, ast.Attribute) and node.attr == "exit":
                assert not (isinstance(node.value, ast.Name) and node.value.id == "sys"), path


SLOW = {
    "argparse",
    "collections",
    "ctypes",
    "contextlib",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "ipaddress",
    "json",
    "logging",
    "os",
    "pathlib",
    "re",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "typing",
}


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload", "ambient"])
def test_a_launch_imports_no_slow_module(mechanism: str) -> None:
    """Start-up time is mostly imports, so a launch loads none that costs milliseconds."""
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); before = set(sys.modules); "
        "import privbind.commands.privbind, privbind.launch; from privbind import mechanisms; "
        f"mechanisms.load({mechanism!r}); print(*sorted(set(sys.modules) - before))"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & SLOW
    assert not loaded & {"privbind.commands.meant", "privbind.grant.meant"}
    others = {"bpf", "seccomp", "preload", "ambient"} - {mechanism}
    assert not loaded & {f"privbind.mechanisms.{name}" for name in others}


def test_importing_the_package_makes_no_system_call_of_ours() -> None:
    """The public module loads nothing else of the package until something is asked of it."""
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); import privbind; "
        "print(*[name for name in sys.modules if name.startswith('privbind')])"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() == ["privbind"]


CONSTANTS = {
    "linux.prctl": (
        "linux/prctl.h",
        {
            "PR_SET_DUMPABLE": "_SET_DUMPABLE",
            "PR_SET_KEEPCAPS": "_SET_KEEPCAPS",
            "PR_SET_NAME": "_SET_NAME",
            "PR_CAPBSET_READ": "_CAPBSET_READ",
            "PR_CAPBSET_DROP": "_CAPBSET_DROP",
            "PR_GET_SECUREBITS": "_GET_SECUREBITS",
            "PR_SET_SECUREBITS": "_SET_SECUREBITS",
            "PR_SET_NO_NEW_PRIVS": "_SET_NO_NEW_PRIVS",
            "PR_GET_CHILD_SUBREAPER": "_GET_CHILD_SUBREAPER",
            "PR_CAP_AMBIENT": "_CAP_AMBIENT",
            "PR_CAP_AMBIENT_RAISE": "_CAP_AMBIENT_RAISE",
            "PR_CAP_AMBIENT_CLEAR_ALL": "_CAP_AMBIENT_CLEAR_ALL",
        },
    ),
    "linux.capabilities": (
        "linux/capability.h",
        {
            "CAP_SETGID": "CAP_SETGID",
            "CAP_SETUID": "CAP_SETUID",
            "CAP_SETPCAP": "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE": "CAP_NET_BIND_SERVICE",
            "CAP_NET_ADMIN": "CAP_NET_ADMIN",
            "CAP_SYS_PTRACE": "CAP_SYS_PTRACE",
            "CAP_SYS_ADMIN": "CAP_SYS_ADMIN",
            "CAP_BPF": "CAP_BPF",
            "_LINUX_CAPABILITY_VERSION_3": "_VERSION_3",
        },
    ),
    "linux.sockets": (
        "sys/socket.h>\n#include <asm/socket.h>\n#include <netinet/in.h",
        {
            "SO_LINGER": "SO_LINGER",
            "SO_REUSEPORT": "SO_REUSEPORT",
            "SO_DOMAIN": "SO_DOMAIN",
            "SO_COOKIE": "SO_COOKIE",
            "SO_NETNS_COOKIE": "SO_NETNS_COOKIE",
        },
    ),
    "grant.decision": (
        "sys/socket.h>\n#include <netinet/in.h",
        {
            "SOCK_DCCP": "_SOCK_DCCP",
            "IPPROTO_MPTCP": "_IPPROTO_MPTCP",
        },
    ),
    "linux.process": (
        "sys/resource.h>\n#include <sys/wait.h>\n#include <linux/sched.h",
        {
            "CLONE_PIDFD": "_CLONE_PIDFD",
            "RLIMIT_CORE": "RLIMIT_CORE",
            "RLIMIT_NPROC": "RLIMIT_NPROC",
            "RLIMIT_NOFILE": "RLIMIT_NOFILE",
            "__WALL": "WAIT_ALL",
        },
    ),
}


def printed(tmp_path: Path, compiler: str, headers: str, names: list[str]) -> list[int] | None:
    """The values that a compiler gives to these names; None where it is not installed."""
    if shutil.which(compiler) is None:
        return None
    lines = "".join(f'printf("%llu\\n", (unsigned long long)({name}));\n' for name in names)
    source = tmp_path / "constants.c"
    source.write_text(
        f"#define _GNU_SOURCE\n#include <{headers}>\n#include <stdio.h>\nint main(void) {{ {lines} return 0; }}\n"
    )
    program = tmp_path / "constants"
    subprocess.run([compiler, "-o", program, source], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("module", CONSTANTS)
def test_constants_are_the_headers(tmp_path: Path, module: str) -> None:
    """Each number is what a C program gets from the header that is named beside it."""
    headers, names = CONSTANTS[module]
    ours = import_module(f"privbind.{module}")
    values = printed(tmp_path, "cc", headers, list(names))
    assert values is not None, "a C compiler is needed"
    assert values == [getattr(ours, name) for name in names.values()]


def test_system_call_numbers_are_the_headers(tmp_path: Path) -> None:
    """For this machine; the other machine's table has the same names but for those that it does not have."""
    numbers = call._NUMBERS[call.machine()]
    values = printed(tmp_path, "cc", "sys/syscall.h", [f"SYS_{name}" for name in numbers])
    assert values == list(numbers.values())
    assert set(call._NUMBERS["aarch64"]) <= set(call._NUMBERS["x86_64"])


def test_system_call_numbers_of_aarch64(tmp_path: Path) -> None:
    """Against asm-generic/unistd.h, which aarch64 uses, through its cross compiler's headers."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("not installed: aarch64-linux-gnu-gcc")
    numbers = call._NUMBERS["aarch64"]
    source = tmp_path / "numbers.c"
    source.write_text("#include <sys/syscall.h>\n" + "".join(f"value {name} SYS_{name}\n" for name in numbers))
    out = subprocess.run([compiler, "-E", "-P", source], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in out.splitlines():
        words = line.split()
        if words[:1] == ["value"]:
            found[words[1]] = int(words[2])
    assert found == numbers
