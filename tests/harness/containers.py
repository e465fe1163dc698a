"""A node that runs containers: a network namespace and mounts of a test's own, the system's log, a root file system."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from .forks import unified_mount
from .host import Host, Result, wait_for
from .launches import Tree
from .needs import need

MOUNTS = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$NODE"
cp -a /etc "$NODE"/etc
mkdir -p "$NODE"/etc/privbind/grants.d
mount --bind "$NODE"/etc /etc
mkdir "$NODE"/dev
mount --rbind /dev "$NODE"/dev
mount -t tmpfs -o mode=755 tmpfs /dev
for name in null zero full random urandom tty net fuse shm mqueue pts; do
    if [ -d "$NODE"/dev/$name ]; then
        mkdir /dev/$name
    elif [ -e "$NODE"/dev/$name ]; then
        : > /dev/$name
    else
        continue
    fi
    mount --rbind "$NODE"/dev/$name /dev/$name
done
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
: > /dev/log
mount --bind "$LOG" /dev/log
mount -t tmpfs -o mode=755 tmpfs /var/lib/containers 2>/dev/null || :
mkdir "$NODE"/above "$NODE"/work
mount -t overlay -o lowerdir=/usr/local,upperdir="$NODE"/above,workdir="$NODE"/work overlay /usr/local
mkdir -p /usr/local/libexec
"""
"""What is written into /etc and /usr/local stays here; the log is the test's own, and /dev has what containers need."""

PURE = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
"""
"""For runtimes that take no host with both versions of cgroups."""

CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
UID = 1000

RAN: dict[str, str] = {}
"""The runtimes that tests have run containers with, and in which version; shown at the end."""


class Node(Host):
    """Where runtimes run, and their containers: in the host's network, which is the test's own."""

    def __init__(self, privbind: Path, folder: Path, programs: Path, *, pure: bool = False) -> None:
        super().__init__(privbind)
        self.folder = folder
        self.hook = privbind.parent / "privbind-oci-hook"
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log.bind(str(folder / "log"))
        self._log.setblocking(False)
        node = folder / "node"
        node.mkdir()
        self._mounts = self.popen(
            ["unshare", "--mount", "sh", "-ec", f"{MOUNTS}{PURE if pure else ''}\necho ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"LOG": str(folder / "log"), "NODE": str(node)},
        )
        assert self._mounts.stdout is not None
        assert self._mounts.stdout.readline() == "ready\n"
        self.enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self._mounts.pid}/ns/mnt", "--"]
        self.cgroups = "/sys/fs/cgroup" if pure else unified_mount()
        self.tree = Tree()
        self.root = folder / "root"
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "run", "var"):
            (self.root / name).mkdir(parents=True)
        for program in ("trybind", "procs"):
            shutil.copy(programs / f"{program}-static", self.root / "bin" / program)
        shutil.copy("/bin/busybox", self.root / "bin/busybox")
        for name in ("sh", "cat", "sleep", "true"):
            (self.root / "bin" / name).symlink_to("busybox")
        (self.root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")

    def close(self) -> None:
        """End all that runs in the network namespace, and remove what the runtimes left of the cgroups."""
        super().close()
        self._log.close()
        wait_for(self._remove, "the end of all containers")
        # What runc makes in the hierarchies of version 1, for the controllers that are there.
        for place in Path("/sys/fs/cgroup").glob(f"*/{self.tree.name}"):
            for below, _, _ in os.walk(place, topdown=False):
                os.rmdir(below)

    def _remove(self) -> bool:
        with contextlib.suppress(OSError):
            self.tree.remove()
            return True
        self.tree.fd = os.open(self.tree.name, os.O_RDONLY, dir_fd=self.tree._own.fd)
        return False

    def grants(self, text: str) -> None:
        """Write the administrator's file."""
        self.run(["sh", "-c", "cat > /etc/privbind/grants.d/test.toml"], input=text).ok()

    def logged(self) -> list[str]:
        """What the hook has sent to the system's log since this was last asked, without its head."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                head, _, text = self._log.recv(4096).decode().partition("]: ")
                assert "privbind-oci-hook[" in head
                found.append(text)
        return found

    def ctl(self, *words: object) -> Result:
        """Run privbindctl."""
        return self.run([self.hook.parent / "privbindctl", *words])

    def placed(self, path: str) -> list[dict[str, Any]]:
        """The placed grants on cgroups below a path."""
        found = json.loads(self.ctl("ls", "--json").ok().out)["grants"]
        return [grant for grant in found if grant["kind"] == "placed" and path in grant["place"]]


BINDS = ("tcp 4 127.0.0.1 80", "tcp 4 127.0.0.1 81", "tcp 6 ::1 80", "udp 4 127.0.0.1 80", "tcp 4 127.0.0.1 8080")
TRY = " ".join(("/bin/trybind", *BINDS))
"""What a container binds."""

NOTHING = ["EACCES", "EACCES", "EACCES", "EACCES", "ok"]
TCP_80 = ["ok", "EACCES", "ok", "EACCES", "ok"]


def binds(found: Result) -> list[str]:
    """What `TRY` printed."""
    return [line.split()[0] for line in found.lines if line.strip()]


class Runtime:
    """Containers by runc or crun, in the node's network: uid 1000, no capabilities, no_new_privs."""

    def __init__(self, node: Node, program: str) -> None:
        need(program)
        self.node = node
        self.program = program
        self.state = node.folder / program
        RAN[program] = self.command("--version").ok().lines[0].removeprefix(f"{program} version ")

    def bundle(
        self,
        name: str,
        *,
        annotations: dict[str, str] | None = None,
        hook: tuple[str, ...] | None = (),
        args: str = TRY,
        **changes: Any,
    ) -> Path:
        """Write one whose hook has these arguments; none of it where they are None."""
        bundle = self.node.folder / name
        bundle.mkdir(exist_ok=True)
        self.node.run(["sh", "-ec", f"cd {bundle}; rm -f config.json; {self.program} spec"]).ok()
        spec = json.loads((bundle / "config.json").read_text())
        spec["root"] = {"path": str(self.node.root), "readonly": True}
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": UID, "gid": UID},
            "args": args.split(),
            "capabilities": {kind: [] for kind in CAPABILITIES},
            "noNewPrivileges": True,
        }
        spec["process"].pop("rlimits")
        spec["linux"]["namespaces"] = [kind for kind in spec["linux"]["namespaces"] if kind["type"] != "network"]
        spec["linux"].pop("resources", None)
        spec["linux"]["cgroupsPath"] = f"{self.node.tree.path}/{name}"
        spec["mounts"] = [m for m in spec["mounts"] if m["type"] in ("proc", "tmpfs")]
        spec["annotations"] = annotations or {}
        if hook is not None:
            entry = {"path": str(self.node.hook), "args": ["privbind-oci-hook", *hook]}
            spec["hooks"] = {"createRuntime": [entry]}
        spec |= changes
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def command(self, *words: str | Path, **options: Any) -> Result:
        """Run it."""
        return self.node.run([self.program, "--root", self.state, *words], **options)

    def run(self, name: str, **bundle: Any) -> list[str]:
        """What the binds of a new container give; it is gone then."""
        found = self.command("run", "--bundle", self.bundle(name, **bundle), name)
        assert found.out, found
        return binds(found)


def podman(node: Node, *words: object, **options: Any) -> Result:
    """Run podman, with all its state in the test's folder."""
    place = node.folder / "podman"
    places = (f"--root={place}/root", f"--runroot={place}/run", f"--tmpdir={place}/tmp")
    return node.run(
        ["podman", *places, "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", *words],
        **options,
    )


def oci_layout(node: Node, annotations: dict[str, str]) -> Path:
    """An image of the node's root file system with these annotations in its manifest, as a folder."""
    place = node.folder / "image"
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(node.root, arcname=".")
    layer = blob(packed.getvalue(), "layer.v1.tar")
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
        "annotations": annotations,
    }
    listed = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    listed["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place
