"""A Python without all of its standard library: one line that says what is missing, and no traceback."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..harness.host import Host, Result
from ..harness.install import PYTHON, ROOT, SOURCE
from ..harness.needs import need

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")
COMMANDS = {
    **{mechanism: ["privbind", "-u", "nobody", f"--via={mechanism}", "true"] for mechanism in MECHANISMS},
    "auto": ["privbind", "-u", "nobody", "--allow=tcp:80", "true"],
    "dry run": ["privbind", "-u", "nobody", "--dry-run", "-v", "true"],
    **{name: ["privbindctl", *name.split()] for name in ("doctor", "doctor --json", "ls", "check", "load --dry-run")},
    "test": ["privbindctl", "test", "nobody", "tcp:80"],
}
REMEDY = "of Python's standard library (install all of it; Debian: apt install python3)"

ASK = """
import sys, sysconfig
print(sysconfig.get_path("platstdlib"))
print(*sys.version_info[:2], sep=".")
print(*sys.modules)
"""
STDLIB, VERSION, ALWAYS = subprocess.run(
    [PYTHON, "-I", "-S", "-c", ASK], capture_output=True, text=True, check=True
).stdout.splitlines()
MINIMAL = (f"libpython{VERSION}-minimal", f"python{VERSION}-minimal")


def imported() -> list[str]:
    """The modules of the standard library that privbind imports, and that Python does not start with."""
    found: set[str] = set()
    for path in (SOURCE / "privbind").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
    return sorted(found - {"__future__", "collections.abc", "typing"} - set(ALWAYS.split()))


def says(found: Result, *missing: str) -> bool:
    """Whether it ended for want of one of these modules; if not, it did what it always does."""
    assert "Traceback" not in found.err, found
    if found.status != 125:
        assert found.status in (0, 1), found
        return False
    assert len(found.err.splitlines()) == 1, found
    assert any(f" lacks {name} " in found.err for name in missing), found
    assert found.err.rstrip().endswith(REMEDY), found
    return True


def with_stdlib(host: Host, copy: Path, command: list[str]) -> Result:
    """Run a command of ours where ``copy`` is what Python finds as its standard library."""
    program = Path(host.privbind).with_name(command[0])
    mount = f'mount --bind "{copy}" "{STDLIB}"; exec "$@"'
    return host.run(["unshare", "--mount", "sh", "-ec", mount, "sh", program, *command[1:]])


def removed(copy: Path, *patterns: str) -> Path:
    """A copy of the standard library without these extension modules."""
    shutil.copytree(STDLIB, copy, ignore=shutil.ignore_patterns("test", "config-*", "dist-packages", "site-packages"))
    for pattern in patterns:
        for path in (copy / "lib-dynload").glob(pattern):
            path.unlink()
    return copy


def test_the_control(host: Host, tmp_path: Path) -> None:
    """With a whole copy of the standard library in its place, all of these commands work."""
    copy = removed(tmp_path / "stdlib")
    assert [name for name, command in COMMANDS.items() if says(with_stdlib(host, copy, command))] == []


@pytest.mark.parametrize("name", ["_ctypes", "mmap"])
def test_without_one_extension_module(host: Host, tmp_path: Path, name: str) -> None:
    """Debian has these apart from Python itself, in a package that python3-minimal does not ask for."""
    copy = removed(tmp_path / "stdlib", f"{name}.*")
    assert not list((copy / "lib-dynload").glob(f"{name}.*"))
    ended = {told for told, command in COMMANDS.items() if says(with_stdlib(host, copy, command), name)}
    assert {"seccomp", "doctor"} <= ended


def test_with_what_python3_minimal_has(host: Host, tmp_path: Path) -> None:
    """All of the standard library that Debian's python3-minimal brings, and nothing else."""
    need("dpkg")
    listed = subprocess.run(["dpkg", "-L", *MINIMAL], capture_output=True, text=True, check=True).stdout
    copy = tmp_path / "stdlib"
    for line in listed.splitlines():
        if line.startswith(f"{STDLIB}/") and os.path.isfile(line):
            place = copy / line.removeprefix(f"{STDLIB}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(line, place)
    for name, command in COMMANDS.items():
        assert says(with_stdlib(host, copy, command), *imported()), name


@pytest.mark.parametrize("name", imported())
def test_without_any_one_module(host: Host, name: str) -> None:
    """Whatever it is, and wherever it is imported; on other systems other modules are packages of their own."""
    sys.path.insert(0, str(ROOT / "launcher"))
    try:
        from embed import PROGRAMS, boot  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    site = next(Path(host.privbind).parent.parent.glob("lib/*/site-packages"))
    for command in COMMANDS.values():
        module = next(module for module, program in PROGRAMS.items() if program == command[0])
        code = f"import sys; sys.modules[{name!r}] = None\n{boot(module)}"
        says(
            host.run([PYTHON, "-I", "-S", "-B", "-X", "utf8", "-c", code, f"src:{site}", "0", "-", *command[1:]]), name
        )
