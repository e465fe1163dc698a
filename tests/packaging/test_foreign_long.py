"""The wheels where they are for: under a Python with musl, and on aarch64, which is emulated."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

import dist
from deb.tree import tree
from kernels.payload import install
from privbind import __version__

from ..harness import musl
from ..harness.host import MANY, Host
from ..harness.install import run, world_readable_folder

REGISTER = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F"
)
"""binfmt_misc's line for aarch64's programs (qemu's qemu-binfmt-conf.sh)."""

EMULATED = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf %s "$REGISTER" >/proc/sys/fs/binfmt_misc/register
ip link set lo up
mount --bind "$TREE" "$TREE"
mount --bind "$PREFIX" "$TREE/home"
mount --rbind /proc "$TREE/proc"
cd "$TREE"
exec chroot . sh -c "$SCRIPT"
"""
"""In a user namespace, which has a binfmt_misc of its own (Linux 6.7): the machine's is not touched."""

SCRIPT = f"""
cd /
uname -m
/home/bin/privbind --version
setpriv --reuid=65534 --regid=65534 --clear-groups python3 -I -c '{MANY}' 80 81
/home/bin/privbind -u nobody --via ambient -- /usr/bin/python3 -I -c '{MANY}' 80 81
/home/bin/privbindctl doctor --json
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels by their platform."""
    files = dist.make(tmp_path_factory.mktemp("dist") / "files")
    return {path.stem.rpartition("-")[2]: path for path in files}


def test_under_musl(made: dict[str, Path]) -> None:
    """pip takes the musl wheel there and not the other; launches work by each mechanism, and the doctor is content."""
    with world_readable_folder(writable=False) as folder:
        python = folder / "venv/bin/python3"
        run(musl.python(), "-m", "venv", "--without-pip", folder / "venv")
        pip = ("python3", "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
        with pytest.raises(AssertionError, match="not a supported wheel on this platform"):
            run(*pip, made["manylinux_2_17_x86_64"])
        run(*pip, made["musllinux_1_2_x86_64"])
        command = [musl.python(), "-I", "-c", MANY, "80", "81"]
        with contextlib.closing(Host(folder / "venv/bin/privbind")) as host:
            assert host.plain(command).ok().out == "EACCES EACCES\n"
            for way in ("bpf", "seccomp", "preload"):
                found = host.granted(command, "--via", way, "--allow", "tcp:80")
                assert found.ok().out == "ok EACCES\n", way
            doctor = json.loads(host.run([folder / "venv/bin/privbindctl", "doctor", "--json"]).ok().out)
    assert doctor["installation"]["how"] == "pip"
    assert doctor["installation"]["faults"] == []
    assert doctor["shim"]["loads"] is True


def test_on_aarch64(made: dict[str, Path]) -> None:
    """qemu's user emulation knows no seccomp, bpf or network namespaces' cookies, so ambient is what binds there.

    The same wheel binds by the other mechanisms in the guests of `make test-kernels KERNELS=6.1-arm64`.
    """
    root = tree("bookworm", ("python3", "util-linux", "netbase"), "arm64")
    with world_readable_folder(writable=False) as folder:
        install(made["manylinux_2_17_aarch64"], folder / "prefix")
        variables = {"REGISTER": REGISTER, "TREE": str(root), "PREFIX": str(folder / "prefix"), "SCRIPT": SCRIPT}
        process = subprocess.Popen(
            [
                *("env", *(f"{name}={value}" for name, value in variables.items())),
                *(
                    "unshare",
                    "--user",
                    "sh",
                    "-ec",
                    'echo ready; read _; exec unshare --mount --net sh -ec "$0"',
                    EMULATED,
                ),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536\n")
        out, _ = process.communicate("\n")
    machine, said, control, bound, *rest = out.splitlines()
    assert (machine, said) == ("aarch64", f"privbind {__version__}")
    assert (control, bound) == ("EACCES EACCES", "ok ok")
    doctor = json.loads("\n".join(rest))
    assert doctor["kernel"]["machine"] == "aarch64"
    assert doctor["shim"]["loads"] is True
