# SPDX-License-Identifier: MIT
"""Trees: small Debians in folders, made by mmdebstrap from this machine's mirrors, and running programs in them."""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
import time
from pathlib import Path

from kernels import run
from kernels.archive import Archive

from . import CACHE, SUITES

BUILD = ("build-essential", "debhelper", "dh-python", "python3", "lintian")
"""To build a package, and to look at it."""
SYSTEM = ("apt", "iproute2", "man-db", "netbase", "python3", "systemd", "util-linux")
"""To install it."""

_LEFT_OUT = ("usr/share/doc/*", "usr/share/locale/*", "usr/share/info/*")
_FRESH_S = 7 * 24 * 60 * 60
_VERSION = 1  # of what is made here; a higher one makes everything anew

MOUNTS = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
mount -t overlay -o "lowerdir=$TREE,upperdir=$PLACE/upper,workdir=$PLACE/work" overlay "$PLACE/root"
cd "$PLACE/root"
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    : > dev/$name
    mount --bind /dev/$name dev/$name
done
mkdir -m 1777 dev/shm
ln -s /proc/self/fd dev/fd
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
"""
"""Shell commands for new mount and process id namespaces: a tree ($TREE) as a system in $PLACE/root.

What is changed in it is in memory, and ends with the namespace.
"""


def architecture() -> str:
    """This machine's architecture, as Debian calls it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def tree(suite: str, packages: tuple[str, ...], arch: str = "") -> Path:
    """A Debian of this suite with these packages, made anew where there is none of this week.

    Of another architecture (``arch``) the packages are unpacked only, and none of their programs is run.
    """
    arch = arch or architecture()
    known = repr((suite, packages, _LEFT_OUT, _VERSION, arch))
    place = CACHE / f"{suite}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    if place.exists() and time.time() - place.stat().st_mtime < _FRESH_S:
        return place
    sources = "\n".join(Archive(SUITES[suite].sources, arch).sources) + "\n"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tree-", dir=CACHE) as folder:
        made = Path(folder) / "tree"
        how = ["--variant=minbase"]
        if arch != architecture():
            how = ["--variant=extract", "--include=?essential", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
        run(
            *("env", f"TMPDIR={folder}", "mmdebstrap", "--quiet", *how, f"--architectures={arch}"),
            f"--include={','.join(packages)}",
            '--aptopt=APT::Sandbox::User "root"',
            *(f"--dpkgopt=path-exclude=/{pattern}" for pattern in _LEFT_OUT),
            # So that what is installed here later has all its files, and no server is started.
            "--customize-hook=rm -f $1/etc/dpkg/dpkg.cfg.d/*mmdebstrap*",
            *("--format=directory", suite, made, "-"),
            given=sources.encode(),
        )
        for name in ("passwd", "group"):
            if not (made / "etc" / name).exists():  # base-passwd's own scripts would have made them
                shutil.copy(made / f"usr/share/base-passwd/{name}.master", made / "etc" / name)
        made.touch()
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)
    return place


def inside(root: Path, script: str, folder: Path) -> str:
    """Run a shell script in a tree without a network, as root; ``folder`` is /mnt there. What it printed."""
    with tempfile.TemporaryDirectory(prefix="privbind-tree-") as place:
        enter = 'mkdir -p mnt\nmount --bind "$WORK" mnt\nexec chroot . /bin/sh -ec "$1"'
        variables = {
            "TREE": root,
            "PLACE": place,
            "WORK": folder,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
        }
        return run(
            *("env", "-i", *(f"{name}={value}" for name, value in variables.items())),
            *("unshare", "--mount", "--pid", "--net", "--fork"),
            *("sh", "-ec", MOUNTS + enter, "sh", script),
        )
