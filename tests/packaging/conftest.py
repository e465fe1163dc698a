"""The ways to install privbind, each as its user would, and the sh launcher under other systems' /bin/sh."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.budget import LONG
from ..harness.debian import Built
from ..harness.install import PYTHON, ROOT, Install, bare_venv, copy_for_all, run, world_readable_folder
from ..harness.needs import skip_without_root

SUITES = ("bookworm", "trixie") if LONG else ("bookworm",)
SHELLS = ("bash", "busybox")

# In the long form only: PRIVBIND_TEST_LONG=1.
collect_ignore_glob = [] if LONG else ["test_*_long.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is installed is started here, and that needs root."""
    skip_without_root(items, Path(__file__).parent, "to start privbind")


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder that every user may enter, for all installs."""
    with world_readable_folder(writable=False) as folder:
        yield folder


@pytest.fixture(scope="session")
def checkout(place: Path) -> Path:
    """A copy of the sources, as a clone has them."""
    return copy_for_all(ROOT, place / "checkout")


@pytest.fixture(scope="session")
def sdist(place: Path, checkout: Path) -> Path:
    """The source distribution."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", place / "sdist", cwd=checkout)
    (built,) = (place / "sdist").glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def pip(place: Path, wheel: Path) -> Install:
    """`pip install WHEEL`."""
    run(*bare_venv(place / "pip"), "--no-index", wheel)
    return Install("pip", place / "pip/bin/privbind", compiled=True)


@pytest.fixture(scope="session")
def pipx(place: Path, wheel: Path) -> Install:
    """`pipx install WHEEL`: the command is a link into an environment of its own."""
    places = {
        "PIPX_HOME": str(place / "pipx"),
        "PIPX_BIN_DIR": str(place / "pipx-bin"),
        "PIPX_MAN_DIR": str(place / "pipx-man"),
    }
    run(sys.executable, "-m", "pipx", "install", "--python", PYTHON, wheel, changes=places)
    return Install("pipx", place / "pipx-bin/privbind", compiled=True)


@pytest.fixture(scope="session")
def uv(place: Path, wheel: Path) -> Install:
    """`uv tool install WHEEL`: the same, without the man page."""
    places = {"UV_TOOL_DIR": str(place / "uv"), "UV_TOOL_BIN_DIR": str(place / "uv-bin"), "UV_OFFLINE": "1"}
    run(sys.executable, "-m", "uv", "tool", "install", "--compile-bytecode", "--python", PYTHON, wheel, changes=places)
    return Install("uv", place / "uv-bin/privbind", compiled=True)


@pytest.fixture(scope="session")
def editable(place: Path, checkout: Path) -> Install:
    """`pip install -e CHECKOUT`."""
    run(*bare_venv(place / "editable"), "-e", checkout)
    return Install("editable", place / "editable/bin/privbind", compiled=True)


@pytest.fixture(scope="session")
def uncompiled(place: Path, checkout: Path) -> Install:
    """`pip install CHECKOUT` where the compiler fails: the sh launcher and no shim."""
    run(*bare_venv(place / "uncompiled"), checkout, changes={"CC": "false"})
    return Install("uncompiled", place / "uncompiled/bin/privbind", compiled=False)


@pytest.fixture(params=["pip", "pipx", "uv", "editable", "uncompiled", *SHELLS])
def install(request: pytest.FixtureRequest, place: Path) -> Install:
    """Each install in turn, and the sh launcher as a system runs it whose /bin/sh is another shell."""
    if request.param not in SHELLS:
        found: Install = request.getfixturevalue(request.param)
        return found
    uncompiled: Install = request.getfixturevalue("uncompiled")
    shell = request.param
    command = uncompiled.command.with_name(f"privbind-{shell}")
    if not command.exists():
        path = shutil.which(shell)
        assert path, f"{shell} is missing"
        sh = place / f"by-{shell}" / "sh"  # both look at the name they are started with
        sh.parent.mkdir()
        sh.symlink_to(path)
        first, rest = uncompiled.command.read_text().split("\n", 1)
        assert first == "#!/bin/sh"
        command.write_text(f"#!{sh}\n{rest}")
        command.chmod(0o755)
    return Install(shell, command, compiled=False)


@pytest.fixture(scope="session", params=SUITES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The Debian package of a suite."""
    return Built(request.param, tmp_path_factory.mktemp(request.param))
