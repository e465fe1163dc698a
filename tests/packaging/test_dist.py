"""What a release consists of: each file's contents, and that its tags are true."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

import dist
from privbind import __version__

from ..harness.install import MODULES, ROOT

NAME = f"privbind-{__version__}"
PROGRAMS = {"privbind", "privbindctl", "privbind-oci-hook"}
SHIM = "privbind/_preload/libprivbind.so"
TAGS = [f"{platform}_{machine}" for machine in dist.ARCHITECTURES for platform in dist.PLATFORMS]
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # linux/elf-em.h
IN_TREE = {"README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md", "Makefile", "hatch_build.py", "pyproject.toml"}

DATA = {
    *("share/man/man1/privbind.1", "share/man/man1/privbindctl.1", "share/man/man1/privbind-oci-hook.1"),
    "share/man/man5/privbind-grants.5",
    *("share/bash-completion/completions/privbind", "share/bash-completion/completions/privbindctl"),
    "share/zsh/site-functions/_privbind",
    *("share/fish/vendor_completions.d/privbind.fish", "share/fish/vendor_completions.d/privbindctl.fish"),
    *("share/privbind/grants.d/README", "share/privbind/grants.d/example.toml", "share/privbind/openrc/privbind"),
    *("lib/systemd/system/privbind.service", "lib/systemd/system/privbind-load.service"),
    *("lib/systemd/system/privbind.path", "lib/systemd/system/privbind-changed.service"),
    "lib/systemd/system/privbind-audit.service",
}
"""What is installed beside the package and the commands."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All files of a release, by name."""
    return {path.name: path for path in dist.make(tmp_path_factory.mktemp("dist") / "files")}


def wheel_of(made: dict[str, Path], tag: str) -> Path:
    return made[f"{NAME}-py3-none-{tag}.whl"]


def test_there_is_one_for_each(made: dict[str, Path]) -> None:
    """Architecture and C library; not for each Python."""
    assert set(made) == {f"{NAME}.tar.gz", *(f"{NAME}-py3-none-{tag}.whl" for tag in TAGS)}


def test_the_index_and_auditwheel_agree(made: dict[str, Path]) -> None:
    dist.check([*made.values()])


def test_a_tag_that_is_not_true_is_found(made: dict[str, Path], tmp_path: Path) -> None:
    """auditwheel says musl 1.2 of it."""
    (tmp_path / f"{NAME}-py3-none-musllinux_1_1_x86_64.whl").write_bytes(
        wheel_of(made, "musllinux_1_2_x86_64").read_bytes()
    )
    with pytest.raises(dist.DistError, match="musllinux_1_2_x86_64 only"):
        dist.check([*tmp_path.iterdir()])


@pytest.mark.parametrize(
    ("found", "claimed", "serves"),
    [
        ("manylinux_2_5_x86_64", "manylinux_2_17_x86_64", True),
        ("manylinux_2_17_x86_64", "manylinux_2_17_x86_64", True),
        ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", False),
        ("manylinux_2_17_aarch64", "manylinux_2_17_x86_64", False),
        ("manylinux_2_17_x86_64", "musllinux_2_17_x86_64", False),
        ("linux_x86_64", "manylinux_2_17_x86_64", False),
    ],
)
def test_which_tag_is_true(found: str, claimed: str, serves: bool) -> None:
    assert dist.serves(found, claimed) is serves


@pytest.mark.parametrize("tag", TAGS)
def test_every_file_of_a_wheel(made: dict[str, Path], tag: str) -> None:
    """All may be read by everybody and written by their owner alone; none is bytecode; programs are for the machine."""
    with zipfile.ZipFile(wheel_of(made, tag)) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o7777 for entry in archive.infolist()}
        info, data = f"{NAME}.dist-info", f"{NAME}.data"
        programs = {f"{data}/scripts/{name}" for name in PROGRAMS}
        assert modes.keys() == {
            *MODULES,
            SHIM,
            *programs,
            *(f"{data}/data/{name}" for name in DATA),
            *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")),
        }
        for name, mode in modes.items():
            assert mode == (0o755 if name in {*programs, SHIM} else 0o644), name
        for name in (*programs, SHIM):
            start = archive.read(name)[:20]
            assert start[:4] == b"\x7fELF"
            assert int.from_bytes(start[18:], "little") == ELF_MACHINES[tag.split("_", 3)[3]]
        told = archive.read(f"{info}/WHEEL").decode()
        assert f"\nTag: py3-none-{tag}\n" in told
        assert "Root-Is-Purelib: false" in told


@pytest.mark.parametrize("machine", dist.ARCHITECTURES)
def test_both_wheels_of_an_architecture_have_the_same_files(made: dict[str, Path], machine: str) -> None:
    """What is compiled is for any C library; only the tag differs."""
    contents = []
    for platform in dist.PLATFORMS:
        with zipfile.ZipFile(wheel_of(made, f"{platform}_{machine}")) as archive:
            names = [name for name in archive.namelist() if not name.endswith(("/WHEEL", "/RECORD"))]
            contents.append({name: archive.read(name) for name in names})
    assert contents[0] == contents[1]


def test_every_file_of_the_source_distribution(made: dict[str, Path]) -> None:
    """They are nobody's, nothing of them is compiled, and all sources are there."""
    with tarfile.open(made[f"{NAME}.tar.gz"]) as tar:
        entries = {entry.name.partition("/")[2]: entry for entry in tar}
    for name, entry in entries.items():
        assert entry.isfile(), name
        assert (entry.uid, entry.gid, entry.mode & 0o7022) == (0, 0, 0), name
        assert not name.endswith((".pyc", ".so", ".o")), name
        assert not set(name.split("/")) & {"__pycache__", "build", "dist", ".venv", ".git"}, name
    folders = [ROOT / name for name in ("src", "preload", "launcher", "man", "packaging")]
    sources = [path for folder in folders for path in folder.rglob("*")]
    built = {"__pycache__", "build", "_preload"}
    assert {
        *(str(path.relative_to(ROOT)) for path in sources if path.is_file() and not built & {*path.parts}),
        *IN_TREE,
    } <= entries.keys()
