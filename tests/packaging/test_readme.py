"""The README's own commands, in a fresh clone, as a new user types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from privbind import __version__

from ..harness.install import ROOT, copy_for_all
from ..harness.readme import DRIVER, EXAMPLE_SAYS, block

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    """A clone in a folder that nobody but root may enter; of an unpacked source distribution, a copy."""
    with tempfile.TemporaryDirectory(prefix="privbind-readme-", dir="/tmp") as name:
        place = Path(name) / "privbind"
        if (ROOT / ".git").exists():
            subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, place], check=True)
        else:
            copy_for_all(ROOT, place)
        assert Path(name).stat().st_mode & 0o777 == 0o700
        yield place


def new_user(clone: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the clone with the environment of a new shell."""
    environment = {name: os.environ[name] for name in os.environ if name.lower().endswith(("_proxy", "pip_index_url"))}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    environment |= {"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
    return subprocess.run(argv, cwd=clone, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_make_demo(clone: Path) -> None:
    """The first of the two commands, below a folder that the server's user may not enter."""
    first = block(clone, "make demo").splitlines()[0]
    done = new_user(clone, "sh", "-ec", first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 OK" in done.stdout
    for user in ("nobody", "alice"):
        assert f"This page is served by {user}." in done.stdout
    assert done.stdout.count("[Errno 13] Permission denied") == 4


def test_make_help(clone: Path) -> None:
    """It lists both."""
    done = new_user(clone, "make", "help")
    assert done.returncode == 0
    assert "make demo" in done.stdout
    assert "make test" in done.stdout


HIDE = """
mkdir -p /usr/local/share/man
for place in /opt /usr/local/sbin /usr/local/share/man; do mount -t tmpfs -o mode=755 tmpfs $place; done
"""


def test_install_and_first_example(clone: Path) -> None:
    """From source, then the example at the top: it serves as the README says, and has no other port."""
    pip = block(clone, "python3 -m venv")
    assert "`/opt/privbind/bin/pip install .`" in (clone / "README.md").read_text()
    source = re.sub("(pip install) privbind", r"\1 .", pip)
    example = block(clone, "privbind -u nobody").strip()
    run = 'exec unshare --net sh -ec \'ip link set lo up; exec "$@"\' sh /usr/bin/python3 -I -c "$@"'
    done = new_user(clone, "unshare", "--mount", "sh", "-ec", f"{HIDE}{source}\n{run}", "sh", DRIVER, example)
    assert done.returncode == 0, done.stdout + done.stderr
    found = done.stdout.splitlines()[-4:]
    assert found == EXAMPLE_SAYS, done.stdout + done.stderr


@pytest.mark.parametrize("start", ["PIPX_HOME=", "UV_TOOL_DIR=", "python3 -m venv"])
def test_installed_as_it_says(clone: Path, wheel: Path, start: str) -> None:
    """By each tool, from a wheel: the commands, a launch whose user must read the shim, and the manual pages."""
    script = re.sub("(?<=install)(.*) privbind$", rf"\1 {wheel}", block(clone, start), flags=re.MULTILINE)
    assert str(wheel) in script
    try_it = """
for command in privbind privbindctl privbind-oci-hook; do command -v $command; done
privbind --version
privbind -u nobody --via preload --allow tcp:80 id -un
for page in privbind privbindctl privbind-oci-hook privbind-grants; do man -w $page; done
"""
    tools = f"PATH=$PATH:{Path(sys.executable).parent} UV_OFFLINE=1\nexport PATH UV_OFFLINE\n"
    done = new_user(clone, "unshare", "--mount", "sh", "-ec", f"{HIDE}{tools}{script}{try_it}")
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [f"/usr/local/sbin/{name}" for name in ("privbind", "privbindctl", "privbind-oci-hook")]
    pages = ["man1/privbind.1", "man1/privbindctl.1", "man1/privbind-oci-hook.1", "man5/privbind-grants.5"]
    found = done.stdout.splitlines()[-9:]
    found[-4:] = [path.rpartition("/man/")[2] for path in found[-4:]]
    assert found == [*commands, f"privbind {__version__}", "nobody", *pages], done.stdout + done.stderr


def test_the_man_page_of_the_clone(clone: Path) -> None:
    """`man -l man/privbind.1`, as the README has it."""
    assert "`man -l man/privbind.1`" in (clone / "README.md").read_text()
    done = new_user(clone, "man", "-l", "man/privbind.1")
    assert done.returncode == 0, done.stderr
    assert "SYNOPSIS" in done.stdout
