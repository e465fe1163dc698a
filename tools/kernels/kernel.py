# SPDX-License-Identifier: MIT
"""A kernel of Debian's: fetched, with the part of its initramfs that is its own: modules, and busybox."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
from pathlib import Path

from . import CACHE, ROOT_SUITES, SERIES, FailedError, Kernel, run, write
from .archive import Archive

_TO_START = ("virtio_pci", "virtio_mmio", "virtio_blk", "ext4")
"""Modules that a guest needs to reach its root file system, where they are not built in."""
_TO_TEST = ("sctp", "overlay", "autofs4", "tun", "dm_mod", "nf_tables", "veth")
"""Modules that tests use; a kernel may have none of them."""
_REQUIRED = ("BPF_SYSCALL", "CGROUP_BPF", "SECCOMP_FILTER", "AUDIT", "BPF_JIT_DEFAULT_ON", "DEVTMPFS", "IPV6")
_VERSION = "1"  # of what is made here; a higher one makes everything anew


def fetch(series: str, arch: str, *, anew: bool = True) -> Kernel:
    """The newest kernel of a series; with ``anew`` unset, the one that is there already."""
    folder = CACHE / "kernels" / f"{series}-{arch}"
    told = folder / "kernel.json"
    if told.exists() and not anew:
        return _read(told)
    suites = next(entry.suites for entry in SERIES if entry.name == series)
    archive = Archive(suites, arch)
    meta = f"linux-image-cloud-{arch}"
    image = next((name for name, _ in archive.depends(meta) if name.startswith("linux-image-")), None)
    if image is None:
        raise FailedError(f"{meta} of {suites[0]} names no kernel")
    made = f"{archive.version(image)} {_VERSION}"
    if told.exists() and json.loads(told.read_text())["made"] == made:
        return _read(told)
    shutil.rmtree(folder, ignore_errors=True)
    unpacked = folder / "unpacked"
    unpacked.mkdir(parents=True)
    # Newer ones are split: the image names its parts with their exact version.
    parts = [name for name, version in archive.depends(image) if version and name.startswith("linux-")]
    archive.unpack([image, *parts], unpacked)
    (kernel,) = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("usr/lib/modules/*/vmlinuz")][:1]
    (modules,) = [*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*")][:1]
    _check([*unpacked.glob("boot/config-*"), *modules.glob("config")][0])
    shutil.copy(kernel, folder / "vmlinuz")
    _make_initramfs(modules, arch, folder)
    shutil.rmtree(unpacked)
    facts = {"made": made, "series": series, "arch": arch, "release": modules.name, "version": archive.version(image)}
    write(told, json.dumps(facts))
    return _read(told)


def _read(told: Path) -> Kernel:
    facts = json.loads(told.read_text())
    return Kernel(
        facts["series"],
        facts["arch"],
        facts["release"],
        facts["version"],
        told.with_name("vmlinuz"),
        told.with_name("initramfs"),
    )


def _check(config: Path) -> None:
    text = config.read_text()
    missing = [name for name in _REQUIRED if f"\nCONFIG_{name}=y\n" not in text]
    if missing:
        raise FailedError(f"{config.name} has not built in: {', '.join(missing)}")


def _make_initramfs(modules: Path, arch: str, folder: Path) -> None:
    tree = folder / "tree"
    for name in ("bin", "dev", "proc", "sys", "root"):
        (tree / name).mkdir(parents=True)
    busybox = folder / "busybox"
    Archive(ROOT_SUITES, arch).unpack(["busybox-static"], busybox)
    shutil.copy(busybox / "bin/busybox", tree / "bin/busybox")
    shutil.rmtree(busybox)
    run("depmod", "-b", _base(modules), modules.name)
    wanted = _with_dependencies(modules, _TO_START)
    place = f"lib/modules/{modules.name}"
    (tree / "to-start").write_text("".join(f"/{place}/{path.removesuffix('.xz')}\n" for path in wanted))
    for path in [*wanted, *_with_dependencies(modules, _TO_TEST)]:
        target = tree / place / path.removesuffix(".xz")
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (modules / path).read_bytes()
        target.write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    for built_in in modules.glob("modules.builtin*"):
        shutil.copy(built_in, tree / place)
    (tree / place / "modules.order").touch()
    run("depmod", "-b", tree, modules.name)
    pack(tree, folder / "initramfs")
    shutil.rmtree(tree)


def pack(tree: Path, archive: Path) -> None:
    """Make an archive of a folder as the kernel unpacks it at its start; several may follow each other."""
    names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))).encode()
    run("cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-F", archive, cwd=tree, given=names)


def _base(modules: Path) -> Path:
    """What `depmod -b` takes: the folder that lib/modules is in."""
    return modules.parent.parent.parent


def _with_dependencies(modules: Path, names: tuple[str, ...]) -> list[str]:
    """The files of these modules, and before each what it needs; those that are built in or not there are left out."""
    lines = (line.partition(":") for line in (modules / "modules.dep").read_text().splitlines())
    needs = {path: rest.split() for path, _, rest in lines}
    by_name = {re.sub(r"\.ko.*$", "", os.path.basename(path)).replace("-", "_"): path for path in needs}
    found: list[str] = []
    for name in names:
        if path := by_name.get(name):
            # Each is listed before what it needs itself.
            found += [part for part in [*reversed(needs[path]), path] if part not in found]
    return found
