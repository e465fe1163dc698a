# SPDX-License-Identifier: MIT
"""What a run brings into its guests: the installed wheel, the tests with what they need, and the units that start them.

It is one tar file for each architecture, which a guest unpacks over its root file system.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from dist import PLATFORMS

from . import ARM, PROJECT, ROOT_PYTHONS, X86, FailedError, run
from .root import native

HOME = "opt/guest"
"""The folder of the tests in the guest."""
INSTALLED = "opt/privbind"
"""The virtual environment that the wheel is installed in."""

GUESTS = PROJECT / "tests/kernels"
"""What is for the guests alone."""

_COMPILERS = {X86: "x86_64-linux-gnu-gcc", ARM: "aarch64-linux-gnu-gcc"}
_TEST_PACKAGES = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
_MASKED = ("serial-getty@.service", "systemd-binfmt.service")
"""Units for which a boot would wait in vain: a device that nobody announces, and a module that the guests lack."""
_NOT_TO_COPY = shutil.ignore_patterns("__pycache__", "*.pyc", "build", "_preload", ".*_cache")


def make(arch: str, wheel: Path, folder: Path) -> Path:
    """Make the tar file for guests of this architecture, in a folder that is emptied for it."""
    shutil.rmtree(folder, ignore_errors=True)
    tree = folder / "tree"
    home = tree / HOME
    home.mkdir(parents=True)
    install(wheel if native(arch) else _foreign_wheel(arch, folder / "wheel"), tree / INSTALLED)
    for name in ("src", "tests", "packaging", "launcher", "tools", "docs"):
        shutil.copytree(PROJECT / name, home / name, ignore=_NOT_TO_COPY)
    shutil.copy(PROJECT / "pyproject.toml", home)
    _copy_test_packages(home / "site")
    _build_programs(arch, home / "programs")
    _add_system_files(tree)
    _compile(tree)
    payload = folder / "payload.tar"
    with tarfile.open(payload, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tree, ".", filter=_as_root)
    shutil.rmtree(tree)
    return payload


def _add_system_files(tree: Path) -> None:
    """The commands where a shell finds them, the units, enabled as `systemctl enable` does, and a standing grant."""
    commands = tree / "usr/local/sbin"
    commands.mkdir(parents=True)
    for name in ("privbind", "privbindctl"):
        (commands / name).symlink_to(f"/{INSTALLED}/bin/{name}")
    units = tree / "etc/systemd/system"
    # The project's own take the place of the stand-in for them.
    for folder in (GUESTS / "units", PROJECT / "packaging/systemd"):
        if folder.is_dir():
            shutil.copytree(folder, units, dirs_exist_ok=True)
    for name in _MASKED:
        (units / name).symlink_to("/dev/null")
    for unit in [path for path in units.iterdir() if path.is_file() and not path.is_symlink()]:
        # The audit service, which only an administrator enables, would be on every hook whose programs a test counts.
        if unit.name == "privbind-audit.service":
            continue
        for target in re.findall(r"^WantedBy=(\S+)$", unit.read_text(), re.MULTILINE):
            wants = units / f"{target}.wants"
            wants.mkdir(exist_ok=True)
            (wants / unit.name).symlink_to(f"../{unit.name}")
    grants = tree / "etc/privbind/grants.d"
    grants.mkdir(parents=True)
    shutil.copy(GUESTS / "inside/boot.toml", grants)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    # Every user of the guest may read it, whatever umask the sources were checked out with.
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def install(wheel: Path, prefix: Path) -> None:
    """Install a wheel as pip does, also one for another machine."""
    usual, *others = ROOT_PYTHONS
    packages = prefix / f"lib/python{usual}/site-packages"
    programs = prefix / "bin"
    programs.mkdir(parents=True)
    packages.mkdir(parents=True)
    for other in others:
        (prefix / f"lib/python{other}").symlink_to(f"python{usual}")
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for name in ("python", "python3"):
        (programs / name).symlink_to("/usr/bin/python3")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for data in packages.glob("*.data"):
        for kind, target in (("scripts", programs), ("data", prefix)):
            if (data / kind).is_dir():
                shutil.copytree(data / kind, target, dirs_exist_ok=True)
        shutil.rmtree(data)
    for path in programs.iterdir():
        if not path.is_symlink():
            path.chmod(0o755)


def _foreign_wheel(arch: str, folder: Path) -> Path:
    # The wheel that `make dist` makes, to the byte.
    environment = {"CC": _COMPILERS[arch], "PRIVBIND_PLATFORM": PLATFORMS[0], "PRIVBIND_REQUIRE_COMPILER": "1"}
    words = [f"{name}={value}" for name, value in environment.items()]
    build = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    run("env", *words, *build, cwd=PROJECT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _copy_test_packages(folder: Path) -> None:
    """What pytest is made of, which has no compiled parts and so runs on every machine."""
    folder.mkdir()
    installed = Path(sysconfig.get_path("purelib"))
    for name in (*_TEST_PACKAGES, "_pytest"):
        shutil.copytree(installed / name, folder / name, ignore=_NOT_TO_COPY)
    for pattern in ("py.py", "pytest-*.dist-info", "pluggy-*.dist-info"):
        for path in installed.glob(pattern):
            copy: Callable[[Path, Path], object] = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, folder / path.name)


def _build_programs(arch: str, folder: Path) -> None:
    folder.mkdir()
    make = ["make", "--silent", f"--jobs={os.cpu_count()}", "-C", PROJECT / "tests/programs", f"OUT={folder}"]
    if native(arch):
        run(*make, "all", "static", "musl", *(["i386"] if arch == X86 else []))
    else:
        run(*make, "all", "static", f"CC={_COMPILERS[arch]}")


def _compile(tree: Path) -> None:
    """Compile the Python files, where this machine has the guests' Python: an emulated machine takes long for it."""
    usual = ROOT_PYTHONS[0]
    for python in (f"/usr/bin/python{usual}", sys.executable):
        try:
            same = run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip() == usual
        except (FailedError, OSError):
            continue
        if same:
            folders = [tree / INSTALLED, tree / HOME / "site", tree / HOME / "src"]
            run(python, "-m", "compileall", "-q", "-s", tree, "-p", "/", *folders)
            return
