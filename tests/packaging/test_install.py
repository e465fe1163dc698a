"""What an install contains, and that each kind of it works."""

from __future__ import annotations

import json
import os
import platform
import stat
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from privbind import __version__

from ..harness.install import PYTHON, Install, bare_venv, run

if TYPE_CHECKING:
    from pathlib import Path

BIND = "import os, socket; socket.create_server(('127.0.0.1', 80)); print(os.getresuid())"


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_each_install_runs_a_command_that_binds(install: Install) -> None:
    """But for one without a compiler, which says that preload was not built, and how to get it."""
    launch = ["unshare", "-n", str(install.command), "--via", "preload", "-u", "nobody", "--allow", "tcp:80"]
    script = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *launch[2:], PYTHON, "-c", BIND]
    done = subprocess.run([*launch[:2], *script], capture_output=True, text=True, check=False)
    if install.compiled:
        assert (done.returncode, done.stdout) == (0, "(65534, 65534, 65534)\n"), done.stderr
    else:
        assert done.stderr == (
            "privbind: preload: its shim was not built (install a C compiler and make, then install privbind again)\n"
        )
        assert (done.returncode, done.stdout) == (125, "")


def test_each_install_says_its_version(install: Install) -> None:
    """The package is found from wherever the command is installed."""
    assert run(install.command, "--version") == f"privbind {__version__}\n"
    assert run(install.command.resolve().with_name("privbindctl"), "--version") == f"privbindctl {__version__}\n"
    assert run(install.command.resolve().with_name("privbind-oci-hook"), "--help").startswith(
        "Usage: privbind-oci-hook"
    )


API = """
import os, privbind, subprocess
argv = privbind.command(["id", "-u"], user="daemon", via="bpf", allow="tcp:80")
print(argv[0], subprocess.run(argv, capture_output=True, text=True).stdout.strip())
print(privbind.become("nobody", via="bpf", allow="tcp:80").user, os.getuid(), os.getgroups())
"""


def test_each_install_serves_python_programs(install: Install) -> None:
    """Those of its own environment: the command that is found is its own."""
    command = install.command.resolve()
    told = run("unshare", "-n", command.with_name("python3"), "-I", "-c", API).splitlines()
    assert told == [f"{command.with_name('privbind')} 1", "nobody 65534 [65534]"]


HOW = {"pip": "pip", "pipx": "pipx", "uv": "uv tool", "editable": "the sources in ", "uncompiled": "pip"}


@pytest.mark.parametrize("kind", HOW)
def test_the_doctor_says_how_it_was_installed(kind: str, request: pytest.FixtureRequest) -> None:
    """And that nothing is wrong with it."""
    install: Install = request.getfixturevalue(kind)
    told = installation(install)
    assert told["how"].startswith(HOW[kind])
    bound = (
        None if kind == "editable" else run(PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    )
    assert told["bound_to"] == bound
    assert told["faults"] == []


def test_the_doctor_says_what_would_break_it(place: Path, wheel: Path) -> None:
    """Each fault in turn, and none when it is mended."""
    venv = place / "broken"
    run(*bare_venv(venv), "--no-index", wheel)
    install = Install("pip", venv / "bin/privbind", compiled=True)
    (package,) = venv.glob("lib/python3*/site-packages/privbind")

    def fault() -> str:
        (told,) = installation(install)["faults"]
        return str(told)

    (package / "errors.py").chmod(0o666)
    assert fault().startswith(f"everybody may write '{package}/errors.py': they decide what root runs")
    (package / "errors.py").chmod(0o644)
    os.chown(package / "errors.py", 4711, 0)
    assert fault().startswith(f"uid 4711 may write '{package}/errors.py'")
    os.chown(package / "errors.py", 0, 0)
    venv.chmod(0o700)
    assert fault().startswith(f"not every user may enter '{venv}', so preload fails")
    venv.chmod(0o755)
    (package / "_preload/libprivbind.so").chmod(0o600)
    assert fault().startswith(f"not every user may read '{package}/_preload/libprivbind.so'")
    (package / "_preload/libprivbind.so").chmod(0o755)
    assert installation(install)["faults"] == []
    (venv / "bin/python3").unlink()
    (venv / "bin/python3").symlink_to("/nonexistent/python3")
    assert fault().startswith(f"'{venv}/bin/python3' leads to nothing, and /usr/bin/python3 runs privbind instead")
    text = run(install.command.with_name("privbindctl"), "doctor")
    assert "beware     '" in text


def installation(install: Install) -> dict[str, Any]:
    """What privbindctl doctor says of it."""
    ctl = install.command.resolve().with_name("privbindctl")
    done = subprocess.run([ctl, "doctor", "--json"], capture_output=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)["installation"]
    return found


def test_the_wheel_serves_every_python_on_this_architecture(wheel: Path) -> None:
    """Shim, launcher and what belongs to them are in it, and no entry point that would start Python its own way."""
    assert wheel.name == f"privbind-{__version__}-py3-none-linux_{platform.machine()}.whl"
    files = contents(wheel)
    data = f"privbind-{__version__}.data"
    assert "privbind/_preload/libprivbind.so" in files
    assert not [name for name in files if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{data}/scripts/privbind")[:4] == b"\x7fELF"


def test_installed_files_are_readable_by_every_user(pip: Install) -> None:
    """The command's user must be able to read the shim."""
    root = pip.command.parent.parent
    (shim,) = root.glob("lib/python3*/site-packages/privbind/_preload/libprivbind.so")
    assert shim.stat().st_mode & stat.S_IROTH
    assert pip.command.stat().st_mode & stat.S_IXOTH
    assert (root / "share/man/man1/privbind.1").exists()


def test_nothing_is_needed_beside_python(wheel: Path) -> None:
    """No dependency, at any Python from 3.11."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"privbind-{__version__}.dist-info/METADATA").decode()
    assert "Requires-Dist" not in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_source_distribution_builds_the_same_wheel(sdist: Path, wheel: Path, place: Path) -> None:
    """It has the C sources of both parts."""
    folder = place / "from-sdist"
    folder.mkdir()
    run("tar", "-xf", sdist, "-C", folder)
    (source,) = folder.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place / "from-sdist-dist", cwd=source)
    (built,) = (place / "from-sdist-dist").iterdir()
    assert built.name == wheel.name
    assert contents(built) == contents(wheel)


def test_without_make_the_install_still_works(checkout: Path, place: Path) -> None:
    """The wheel is then for any platform, and warns where the shim would have been."""
    pip_install = bare_venv(place / "no-make")
    empty = place / "empty"
    empty.mkdir()
    told = run(*pip_install, "-v", checkout, changes={"PATH": str(empty)})
    assert "no shim is built, so preload will not be there: make is missing" in told
    command = place / "no-make/bin/privbind"
    assert command.read_bytes().startswith(b"#!/bin/sh\n")
    assert run(command, "--version") == f"privbind {__version__}\n"


def test_a_release_is_never_built_without_the_shim(checkout: Path, place: Path) -> None:
    """`make wheel` insists on the compiler."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "insisting")]
    insisting = os.environ | {"CC": "false", "PRIVBIND_REQUIRE_COMPILER": "1"}
    done = subprocess.run(build, cwd=checkout, env=insisting, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CannotCompileError" in done.stderr


def test_pipx_links_the_command_and_the_man_page(pipx: Install, place: Path) -> None:
    """Both are where pipx shows them to its user."""
    assert pipx.command.is_symlink()
    assert (place / "pipx-man/man1/privbind.1").is_symlink()


def test_an_editable_install_runs_the_checkout(editable: Install, checkout: Path) -> None:
    """A change of the source is in effect at once."""
    usage = checkout / "src/privbind/commands/usage.py"
    before = usage.read_text()
    usage.write_text(before + '\nVERSION_LINE = "edited\\n"\n')
    try:
        assert run(editable.command, "--version") == "edited\n"
    finally:
        usage.write_text(before)
