"""How the parts hang together: which way imports point, what a launch loads, and constants against the headers."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent.parent / "src"
PACKAGE = SOURCE / "privbind"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# What each part may import of ours; what is not named here may import everything.
LAYERS: dict[str, set[str]] = {
    "policy": set(),
    "errors": set(),
    "linux": {"errors", "linux"},
    "account": {"errors", "linux", "policy"},
    "command": {"account", "errors", "policy"},
    "request": {"account", "command", "policy"},
    "helper": {"__version__", "account", "errors", "helper", "linux", "policy", "record", "request"},
}
LAYERS["mechanisms"] = {*LAYERS["helper"], "command", "mechanisms"}


def part_of(path: Path) -> str:
    """The first name of a module below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def own_imports(path: Path) -> set[str]:
    """The parts of ours that a module imports, for types only ones included."""
    found = set()
    package = ["privbind", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
            for name in names:
                full = [*base, *name][1:]
                if full:
                    found.add(full[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """cli → launch → mechanisms → helper → linux; policy imports nothing of ours."""
    allowed = LAYERS.get(part_of(path))
    if allowed is not None:
        assert own_imports(path) <= allowed | {part_of(path)}


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
        if part_of(path) in ("cli", "ctl"):
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
        "import privbind.cli, privbind.launch; from privbind import mechanisms; "
        f"mechanisms.load({mechanism!r}); print(*sorted(set(sys.modules) - before))"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & SLOW
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
    "prctl": (
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
    "capabilities": (
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
    "sockets": (
        "sys/socket.h>\n#include <asm/socket.h>\n#include <netinet/in.h",
        {
            "SO_LINGER": "SO_LINGER",
            "SO_REUSEPORT": "SO_REUSEPORT",
            "SO_DOMAIN": "SO_DOMAIN",
            "SO_COOKIE": "SO_COOKIE",
            "SO_NETNS_COOKIE": "SO_NETNS_COOKIE",
            "SOCK_DCCP": "SOCK_DCCP",
            "IPPROTO_MPTCP": "IPPROTO_MPTCP",
        },
    ),
    "process": (
        "sys/resource.h>\n#include <sys/wait.h",
        {
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
    """Each number in linux/ is what a C program gets from the header that is named beside it."""
    from importlib import import_module

    headers, names = CONSTANTS[module]
    ours = import_module(f"privbind.linux.{module}")
    values = printed(tmp_path, "cc", headers, list(names))
    assert values is not None, "a C compiler is needed"
    assert values == [getattr(ours, name) for name in names.values()]


def test_system_call_numbers_are_the_headers(tmp_path: Path) -> None:
    """For this machine; the other machine's table has the same names but for those that it does not have."""
    from privbind.linux import call

    numbers = call._NUMBERS[call.machine()]
    values = printed(tmp_path, "cc", "sys/syscall.h", [f"SYS_{name}" for name in numbers])
    assert values == list(numbers.values())
    assert set(call._NUMBERS["aarch64"]) <= set(call._NUMBERS["x86_64"])


def test_system_call_numbers_of_aarch64(tmp_path: Path) -> None:
    """Against asm-generic/unistd.h, which aarch64 uses, through its cross compiler's headers."""
    from privbind.linux import call

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
