# SPDX-License-Identifier: MIT
"""The root file systems of the guests, the same for all kernels of an architecture: Debian, as its packages make it.

What changes from run to run is not in it, and comes as a payload.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from pathlib import Path

from . import ARM, CACHE, ROOT_PYTHONS, ROOTS, X86, FailedError, run
from .archive import Archive

PACKAGES = (
    "python3-minimal",
    "python3",
    "iproute2",
    "procps",
    "util-linux",
    "libcap2-bin",
    "systemd",
    "systemd-sysv",
    "dbus",
    "kmod",
    "netbase",
    "strace",
    "busybox-static",
    "musl",
    "sudo",
    "gawk",
    "gunicorn",
)
_LEFT_OUT = ("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*", "usr/lib/udev/hwdb.d/*")
_SIZE_MB = 1536  # sparse: it takes what its files do
_VERSION = 3  # of what is made here; a higher one makes everything anew


def make(arch: str, release: str) -> Path:
    """The image of a root file system with this release of Debian, made if there is none like it."""
    known = repr((PACKAGES, ROOTS[release], _LEFT_OUT, _SIZE_MB, _VERSION, arch))
    name = hashlib.sha256(known.encode()).hexdigest()[:12]
    image = CACHE / "root" / f"{release}-{arch}-{name}.img"
    if image.exists():
        return image
    image.parent.mkdir(parents=True, exist_ok=True)
    for old in image.parent.glob(f"{release}-{arch}-*"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="root-", dir=CACHE) as folder:
        tree = Path(folder) / "tree"
        partial = Path(folder) / "image"
        if native(arch):
            _mmdebstrap(arch, release, tree, "--variant=minbase")
        else:
            _unpack(arch, release, tree)
        _image_of(tree, partial)
        shutil.move(partial, image)
    return image


def native(arch: str) -> bool:
    """Whether this machine runs programs of that architecture."""
    return {"x86_64": X86, "aarch64": ARM}.get(platform.machine()) == arch


def _mmdebstrap(arch: str, release: str, tree: Path, *options: str) -> None:
    sources = Archive(ROOTS[release], arch).sources
    run(
        "env",
        f"TMPDIR={tree.parent}",
        "mmdebstrap",
        "--quiet",
        f"--architectures={arch}",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Sandbox::User "root"',
        *(f"--dpkgopt=path-exclude=/{pattern}" for pattern in _LEFT_OUT),
        *options,
        release,
        tree,
        "-",
        given="".join(f"{line}\n" for line in sources).encode(),
    )


def _unpack(arch: str, release: str, tree: Path) -> None:
    """For a machine whose programs cannot be run here: the packages' files, and what their scripts would have made.

    That is little: who the users are, a folder, and the compiled form of Python's own modules, which is the same on all
    machines.
    """
    hooks = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
    _mmdebstrap(arch, release, tree, "--variant=extract", "--include=?essential", hooks)
    for name in ("passwd", "group"):
        shutil.copy(tree / f"usr/share/base-passwd/{name}.master", tree / "etc" / name)
    (tree / "mnt").mkdir(exist_ok=True)
    (tree / "etc/machine-id").touch()  # without this file, systemd asks at a first boot how to set up the system
    for version in ROOT_PYTHONS:
        python, library = f"/usr/bin/python{version}", tree / f"usr/lib/python{version}"
        if Path(python).exists() and library.exists():
            run(python, "-m", "compileall", "-q", "-s", tree, "-p", "/", "-x", "lib2to3/tests", library)


def _image_of(tree: Path, image: Path) -> None:
    # What older kernels cannot mount is left off.
    features = "^orphan_file,^metadata_csum_seed,^has_journal"
    options = ("-q", "-F", "-t", "ext4", "-O", features, "-m", "0", "-d", tree)
    try:
        run("mke2fs", *options, image, f"{_SIZE_MB}M")
    except FailedError as error:
        if "Invalid filesystem option" not in str(error):
            raise
        options = ("-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", tree)  # before e2fsprogs 1.47
        run("mke2fs", *options, image, f"{_SIZE_MB}M")
    shutil.rmtree(tree)
