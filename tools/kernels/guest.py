# SPDX-License-Identifier: MIT
"""A guest: a kernel under qemu with a root file system, what it said on its console, and what it left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from . import ARM, CACHE, FailedError, Kernel, write
from .kernel import pack
from .root import native

_INIT = Path(__file__).with_name("init.sh")
_PROBE_S = 20
_LEFT_BEHIND_SIZE = 64 << 20

_MACHINES = {
    # qemu's program, its options, and the console's name
    "amd64": ("qemu-system-x86_64", (), "ttyS0"),
    ARM: ("qemu-system-aarch64", ("-M", "virt"), "ttyAMA0"),
}


class Guest:
    """A guest that runs; it ends with the block at the latest, and takes the changes to its disk with it."""

    def __init__(
        self,
        kernel: Kernel,
        root: Path,
        *,
        payload: Path | None = None,
        init: str = "/sbin/init",
        words: tuple[str, ...] = (),
        accelerator: str | None = None,
        memory_mb: int = 2048,
    ) -> None:
        """Start it.

        ``payload`` is a tar file that is unpacked over the root file system; ``words`` go onto the kernel's command
        line. Changes to the root file system are dropped.
        """
        self.said = ""
        self._folder = tempfile.TemporaryDirectory(prefix="guest-", dir=CACHE)
        folder = Path(self._folder.name)
        self._console = folder / "console"
        self._left = folder / "left"
        try:
            with self._left.open("wb") as file:
                # A full disk is told now, not after an hour.
                os.posix_fallocate(file.fileno(), 0, _LEFT_BEHIND_SIZE)
            self.accelerator = accelerator or choose_accelerator(kernel, root)
            initramfs = _initramfs(kernel, folder)
            disks = [
                # Where this machine's disk is full, the guest is told so: else qemu would stop it, and say nothing.
                f"file={root},format=raw,if=virtio,snapshot=on,werror=report",
                *([f"file={payload},format=raw,if=virtio,readonly=on"] if payload else []),
                f"file={self._left},format=raw,if=virtio,werror=report",
            ]
            self._process = self._start(kernel, initramfs, disks, (f"privbind.init={init}", *words), memory_mb)
        except BaseException:
            self._folder.cleanup()
            raise

    def _start(
        self, kernel: Kernel, initramfs: Path, disks: list[str], words: tuple[str, ...], memory_mb: int
    ) -> subprocess.Popen[str]:
        # Two emulated processors wait for each other more than they work.
        processors = 2 if self.accelerator == "kvm" else 1
        program, options, console = _MACHINES[kernel.arch]
        line = ["console=" + console, "panic=-1", "loglevel=4", "log_buf_len=16M", *words]
        command = [
            # It ends with us, also where we are killed.
            *("setpriv", "--pdeathsig", "KILL", "nice", "-n", "5", program, *options),
            *("-accel", self.accelerator, "-cpu", "host" if self.accelerator == "kvm" else "max"),
            *("-smp", str(processors), "-m", str(memory_mb)),
            *("-nic", "none", "-no-reboot", "-display", "none", "-monitor", "none"),
            *(word for disk in disks for word in ("-drive", disk)),
            *("-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", " ".join(line)),
            *("-serial", f"file:{self._console}"),
        ]
        # TMPDIR: qemu writes the changes to disks there, for snapshot=on.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": self._folder.name},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._folder.cleanup()

    def wait(self, limit_s: float, *, sign: str = "", sign_s: float = 0) -> str:
        """Wait until it has powered off; what it said. Raises FailedError where that takes too long.

        After ``sign_s`` seconds it must have said ``sign``, if one is given.
        """
        late = ""
        qemu = ""
        try:
            try:
                qemu, _ = self._process.communicate(timeout=sign_s if sign else limit_s)
            except subprocess.TimeoutExpired:
                if not sign:
                    raise
                if sign not in self._read():
                    late = f"the guest had not said '{sign}' after {sign_s:.0f} s"
                    raise
                qemu, _ = self._process.communicate(timeout=limit_s - sign_s)
        except subprocess.TimeoutExpired:
            late = late or f"the guest was still running after {limit_s:.0f} s"
            self._process.kill()
            self._process.wait()
        self.said = self._read()
        if late:
            raise FailedError(f"{late}:\n{self.said[-4000:]}")
        if self._process.returncode != 0:
            raise FailedError(f"qemu ended with {self._process.returncode}: {qemu}\n{self.said[-4000:]}")
        return self.said

    def _read(self) -> str:
        return self._console.read_text("utf-8", "replace") if self._console.exists() else ""

    def left(self) -> dict[str, bytes]:
        """The files that it left behind, by name; none where it did not come to that."""
        try:
            with tarfile.open(self._left, "r:") as tar:  # of zeros alone, others take long to guess
                return {entry.name.removeprefix("./"): file.read() for entry in tar if (file := tar.extractfile(entry))}
        except tarfile.ReadError:
            return {}


def _initramfs(kernel: Kernel, folder: Path) -> Path:
    """The kernel's own part, and what is the same for all of them."""
    tree = folder / "tree"
    tree.mkdir()
    shutil.copy(_INIT, tree / "init")
    (tree / "init").chmod(0o755)
    pack(tree, folder / "init")
    found = folder / "initramfs"
    found.write_bytes(kernel.initramfs.read_bytes() + (folder / "init").read_bytes())
    return found


def choose_accelerator(kernel: Kernel, root: Path) -> str:
    """kvm where a guest really starts under it (that /dev/kvm exists is not enough), else qemu's own translation."""
    told = CACHE / "accelerator"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not native(kernel.arch) or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg,thread=multi"
    if told.exists() and (known := told.read_text().split())[0] == boot:
        return known[1]
    found = "tcg,thread=multi"
    try:
        with Guest(kernel, root, init="/bin/echo", accelerator="kvm") as guest:
            if "Attempted to kill init" in guest.wait(_PROBE_S):  # it started, and echo was its init
                found = "kvm"
    except FailedError:
        pass
    write(told, f"{boot} {found}")
    return found
