"""Programs of all kinds under the bpf mechanism, built here: static, musl, Go, Rust, 32-bit, raw calls, io_uring."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.forks import NOBODY, in_host
from ..harness.install import PROGRAMS, world_readable_folder
from ..harness.launches import execute, prepared
from ..harness.needs import build_i386

pytestmark = pytest.mark.usefixtures("nothing_stays")

TCP = ["tcp", "4", "127.0.0.1", "80", "tcp", "6", "::1", "80", "tcp", "4", "127.0.0.1", "81"]
UDP = ["udp", "4", "127.0.0.1", "53", "udp", "6", "::1", "53", "udp", "4", "127.0.0.1", "54"]


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """A folder for programs that are built here, which every user may enter."""
    with world_readable_folder(writable=False) as folder:
        yield folder


def outcomes(program: Path, *arguments: str) -> list[str]:
    """The first word of each line that a program prints under the grant tcp:80,udp:53."""

    def host() -> str:
        launch = prepared("tcp:80,udp:53")
        out = execute(launch, [program, *arguments])
        launch.cancel()
        return out

    return [line.split()[0] for line in in_host(host).splitlines()]


def build(argv: list[str | Path], target: Path, **environment: str) -> Path:
    """Run a compiler."""
    done = subprocess.run(argv, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("raw", [(), ("-raw",)], ids=["libc", "raw"])
@pytest.mark.parametrize("kind", ["", "-static", "-musl", "-musl-static"])
def test_c(programs: Path, kind: str, raw: tuple[str, ...]) -> None:
    """glibc and musl, dynamic and static, through the C library and by the system call alone."""
    if "musl" in kind and shutil.which("musl-gcc") is None:
        pytest.skip("not installed: musl-gcc")
    program = programs / f"trybind{kind}"
    assert outcomes(program, *raw, *TCP) == ["ok", "ok", "EACCES"]
    assert outcomes(program, *raw, *UDP) == ["ok", "ok", "EACCES"]


def test_libcs_own_binders(programs: Path) -> None:
    """rresvport and bindresvport do for nobody what they do for root."""

    def host() -> tuple[str, str]:
        as_root = subprocess.run([programs / "rresvport"], capture_output=True, text=True, check=False).stdout
        launch = prepared()
        granted = execute(launch, [programs / "rresvport"])
        launch.cancel()
        return as_root, granted

    # Which port they find is chance; the case and what came of it are not.
    as_root, granted = (dict(line.split()[:2] for line in out.splitlines()) for out in in_host(host))
    granted = {case: what if what.startswith(("ok", "E")) else "" for case, what in granted.items()}
    as_root = {case: what if what.startswith(("ok", "E")) else "" for case, what in as_root.items()}
    assert granted["bindresvport"] == granted["rresvport"] == "ok"
    assert granted == as_root


def test_io_uring(programs: Path) -> None:
    """IORING_OP_BIND is a bind like any other."""
    found = outcomes(programs / "net_uring", "127.0.0.1", "80", "81", "8080")
    if "missing" in found:
        pytest.skip("IORING_OP_BIND needs Linux 6.11 and io_uring enabled")
    assert found == ["ok", "EACCES", "ok"]


@pytest.mark.parametrize("raw", [(), ("-raw",)], ids=["libc", "raw"])
def test_i386(built: Path, raw: tuple[str, ...]) -> None:
    assert outcomes(build_i386("trybind", built), *raw, *TCP) == ["ok", "ok", "EACCES"]


def test_i386_socketcall(built: Path) -> None:
    assert outcomes(build_i386("net_socketcall", built), "127.0.0.1", "80", "81", "8080") == ["ok", "EACCES", "ok"]


LISTEN = ("127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "127.0.0.1:8080")


def test_go(built: Path) -> None:
    """Go without the C library."""
    if shutil.which("go") is None:
        pytest.skip("not installed: go")
    target = built / "go"
    settings = {"CGO_ENABLED": "0", "GOCACHE": str(built / "cache"), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    build(["go", "build", "-o", target, PROGRAMS / "net_bind.go"], target, **settings)
    assert outcomes(target, *LISTEN) == ["ok", "ok", "EACCES", "ok"]


def test_rust(built: Path) -> None:
    """Rust, static: with musl where that is installed, else with glibc."""
    if shutil.which("rustc") is None:
        pytest.skip("not installed: rustc")
    target = built / "rust"
    musl = f"{platform.machine()}-unknown-linux-musl"
    sysroot = Path(
        subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    )
    kind = ["--target", musl] if (sysroot / "lib/rustlib" / musl).is_dir() else ["-C", "target-feature=+crt-static"]
    build(["rustc", *kind, "-o", target, PROGRAMS / "net_bind.rs"], target)
    assert b"/ld-" not in target.read_bytes()[:4096], "it has an interpreter, so it is not static"
    assert outcomes(target, *LISTEN) == ["ok", "ok", "EACCES", "ok"]


def test_the_command_has_no_privilege_and_no_company() -> None:
    """No capability in any set but the bounding one, nobody's ids, and no process beside it."""

    def host() -> tuple[str, set[str]]:
        launch = prepared("tcp:80", limit=1)
        before = children(os.getpid())
        status = execute(launch, [Path("/bin/cat"), "/proc/self/status"])
        after = children(os.getpid())
        launch.cancel()
        return status, before ^ after

    status, company = in_host(host)
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    for field in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(fields[field], 16) == 0
    assert fields["Uid"].split() == [str(NOBODY)] * 4
    assert fields["Gid"].split() == [str(NOBODY)] * 4
    assert fields["NoNewPrivs"] == "0"
    assert fields["Seccomp"] == "0"
    assert company == set()


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
