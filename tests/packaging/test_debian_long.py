"""The Debian package from one release to another, and built a second time; for these the mirrors are needed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from deb.build import build, source
from deb.tree import BUILD, architecture, inside, tree
from kernels.archive import Archive

from ..harness.debian import Debian
from ..harness.host import MANY
from ..harness.install import ROOT

PYTHON = "/usr/bin/python3"
MAY_80 = [PYTHON, "-I", "-c", MANY, "80", "81"]

ELSEWHERE = """
umask 027
export TZ=Asia/Tokyo LC_ALL=C.UTF-8 USER=somebody
mkdir -p "/somewhere/else-with-a-longer-name"
cd "/somewhere/else-with-a-longer-name"
cp -Rp /mnt/* .
cd privbind-*/
dpkg-buildpackage -us -uc >/dev/null 2>../log || { cat ../log >&2; exit 1; }
cp ../*.deb ../*.dsc ../*.debian.tar.xz /mnt
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of both releases, and the one that bullseye had."""
    folder = tmp_path_factory.mktemp("packages")
    for suite in ("bookworm", "trixie"):
        build(ROOT, suite, folder)
    Archive(("bullseye",), architecture()).download(["privbind"], folder)
    return folder


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_built_elsewhere_it_has_the_same_bytes(suite: str, packages: Path, tmp_path: Path) -> None:
    """In another folder, with another umask, locale and time zone."""
    source(ROOT, suite, tmp_path)
    inside(tree(suite, BUILD), ELSEWHERE, tmp_path)
    again = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.suffix for path in again} == {".deb", ".dsc", ".xz", ".gz"}
    for path in again:
        assert path.read_bytes() == (packages / path.name).read_bytes(), path.name


def test_the_old_privbind_is_upgraded(packages: Path) -> None:
    """Version 1 as Debian had it: its files go, and its command lines still work."""
    line = ["privbind", "-u", "nobody", "-g", "nogroup", "-n", "1", *MAY_80]
    with contextlib.closing(Debian("bookworm", packages)) as debian:
        (old,) = packages.glob("privbind_1.2*.deb")
        debian.apt("install", f"/mnt/{old.name}")
        assert debian.run(line).out == "ok EACCES\n"
        assert debian.path("/usr/lib/privbind/privbind.so").exists()
        (new,) = packages.glob("privbind_2*deb12*.deb")
        told = debian.apt("install", f"/mnt/{new.name}").out
        assert "1 upgraded" in told
        assert not debian.path("/usr/lib/privbind").exists()
        assert debian.run(line).out == "ok EACCES\n"


def test_a_debian_that_becomes_the_next_one(packages: Path) -> None:
    """Python 3.11 becomes 3.13 under the package, and later comes the new release's own package."""
    with contextlib.closing(Debian("bookworm", packages, network=True)) as debian:
        (first,) = packages.glob("privbind_2*deb12*.deb")
        (second,) = packages.glob("privbind_2*deb13*.deb")
        debian.apt("install", f"/mnt/{first.name}")
        debian.sh("sed -i s/bookworm/trixie/g /etc/apt/sources.list")
        debian.apt("update")
        debian.apt("install", "python3")
        assert debian.sh("python3 -c 'import sys; print(sys.version_info[1])'").out == "13\n"
        compiled = debian.sh("find /usr/share/privbind -name '*.pyc'").lines
        assert compiled
        assert all(name.endswith(".cpython-313.pyc") for name in compiled)
        line = ["privbind", "-u", "nobody", "--allow", "tcp:80", *MAY_80]
        launch = ["unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh", *line]
        assert debian.run(launch).ok().out == "ok EACCES\n"
        debian.apt("install", f"/mnt/{second.name}")
        assert debian.run(launch).ok().out == "ok EACCES\n"
        debian.apt("purge", "privbind")
        assert not [name for name in debian.files() if "privbind" in name]
