"""A Debian of a test's own to install packages in: a tree of tools/deb, in namespaces and a cgroup of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from deb.build import build
from deb.tree import MOUNTS, SYSTEM, tree

from .host import Host, Result
from .install import ROOT, run
from .launches import Tree
from .machine import children_of

_START = """
mkdir -p mnt
mount --bind "$WORK" mnt
mount --bind "$OWN_CGROUP" sys/fs/cgroup
exec chroot . sh -ec 'echo ready; exec cat'
"""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WRAPPER = """\
#!/bin/sh
# For the test's own cgroup, not for the root that the machine has.
case $1 in
load | unload | allow | disallow) exec /usr/sbin/privbindctl.real "$@" --cgroup=/sys/fs/cgroup ;;
*) exec /usr/sbin/privbindctl.real "$@" ;;
esac
"""


class Debian(Host):
    """A small Debian, as it is new. What is in ``work`` can be seen as /mnt there.

    It has process ids of its own. Whatever runs there is in a cgroup of the test's own, and sees no other.
    """

    def __init__(self, suite: str, work: Path, *, network: bool = False, packages: tuple[str, ...] = ()) -> None:
        """``network``: it is in the machine's network namespace, to reach the mirrors; ``packages``: further ones."""
        self.work = work
        self._tree = Tree()
        self._place = tempfile.mkdtemp(prefix="privbind-debian-", dir="/tmp")
        own = os.readlink(f"/proc/self/fd/{self._tree.fd}")
        variables = {"TREE": tree(suite, (*SYSTEM, *packages)), "PLACE": self._place, "WORK": work, "OWN_CGROUP": own}
        prepare = "".join(f'{name}="{value}"\n' for name, value in variables.items()) + MOUNTS + _START
        namespaces = ("--mount", "--pid", "--fork", *(() if network else ("--net",)))
        super().__init__(Path("/usr/sbin/privbind"), prepare, namespaces)
        (self.first,) = children_of(self.pid)
        kinds = ("--mount", "--pid", "--net", "--root", "--wdns=/")
        join = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
        environment = (f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8")
        self.enter = [
            *("sh", "-ec", join, "sh", own, "nsenter", f"--target={self.first}", *kinds, "--"),
            *("env", "-i", *environment, "DEBIAN_FRONTEND=noninteractive"),
        ]

    def close(self) -> None:
        """End everything there, and take it down."""
        super().close()
        self._tree.remove()
        os.rmdir(self._place)

    def _all_ended(self) -> bool:
        """In its cgroup; what else there is of its processes ends with the first one."""
        self._tree.write("cgroup.kill", "1")
        return "populated 0" in Path(f"/proc/self/fd/{self._tree.fd}/cgroup.events").read_text()

    def sh(self, script: str) -> Result:
        """Run a shell script there, which must succeed."""
        return self.run(["sh", "-ec", script], stdin=subprocess.DEVNULL).ok()

    def path(self, name: str) -> Path:
        """A file there, seen from outside."""
        return Path(f"/proc/{self.first}/root{name}")

    def files(self) -> set[str]:
        """All files, but for what package management writes down for itself."""
        found = self.sh("find / -xdev -not -type d -print; find / -xdev -type d -printf '%p/\\n'").lines
        own = re.compile(r"/(var/(lib/(dpkg|apt|systemd/deb-systemd-helper-\w+)|log|cache)|tmp|run|mnt)(/|$)")
        return {name for name in found if not own.match(name)}

    def apt(self, *words: str) -> Result:
        """Run apt-get, which must succeed."""
        return self.run(["apt-get", "-y", "-o", "APT::Sandbox::User=root", *words], stdin=subprocess.DEVNULL).ok()

    def keep_to_own_cgroup(self) -> None:
        """Whatever calls privbindctl there, standing grants are the own cgroup's."""
        self.sh("dpkg-divert --rename --divert /usr/sbin/privbindctl.real --add /usr/sbin/privbindctl")
        wrapper = self.path("/usr/sbin/privbindctl")
        wrapper.write_text(_WRAPPER)
        wrapper.chmod(0o755)

    def unit_command(self, name: str) -> list[str]:
        """A command of the installed privbind.service."""
        unit = next(path for path in (self.path(f"{usr}/lib/systemd/system/privbind.service") for usr in ("", "/usr")))
        found = re.search(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
        assert found
        return found[1].split()


def repacked(deb: Path, folder: Path, newer: str) -> Path:
    """The same package as another version: its number, and each module another file with another text."""
    tree_ = folder / "newer"
    shutil.rmtree(tree_, ignore_errors=True)
    run("dpkg-deb", "-R", deb, tree_)
    control = tree_ / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {newer}-1", control.read_text(), flags=re.MULTILINE))
    package = tree_ / "usr/share/privbind/privbind"
    for module in package.rglob("*.py"):
        module.write_text(module.read_text() + f"\n# {newer}\n")
    init = package / "__init__.py"
    init.write_text(re.sub(r'(__version__ = ").*"', rf'\g<1>{newer}"', init.read_text()))
    (tree_ / "DEBIAN/md5sums").unlink()
    out = folder / f"privbind_{newer}-1.deb"
    run("dpkg-deb", "--root-owner-group", "-b", tree_, out)
    shutil.rmtree(tree_)
    return out


class Built:
    """The package of a suite, in a folder that is alone its own."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite = suite
        self.folder = folder
        self.said = build(ROOT, suite, folder)
        (self.deb,) = folder.glob("privbind_*.deb")

    def debian(self, *, network: bool = False) -> contextlib.closing[Debian]:
        return contextlib.closing(Debian(self.suite, self.folder, network=network))
