"""A node that runs containers: a network namespace and mounts of a test's own, the system's log, a root file system."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from .forks import unified_mount
from .host import Host, Result, kill, wait_for
from .launches import Tree

MOUNTS = """
mount --make-rprivate /
mkdir -p /run/privbind-node
mount -t tmpfs -o mode=755 tmpfs /run/privbind-node
cp -a /etc /run/privbind-node/etc
mkdir -p /run/privbind-node/etc/privbind/grants.d
mount --bind /run/privbind-node/etc /etc
mkdir /run/privbind-node/dev
mount --rbind /dev /run/privbind-node/dev
mount -t tmpfs -o mode=755 tmpfs /dev
for name in null zero full random urandom tty net fuse shm mqueue pts; do
    if [ -d /run/privbind-node/dev/$name ]; then
        mkdir /dev/$name
    elif [ -e /run/privbind-node/dev/$name ]; then
        : > /dev/$name
    else
        continue
    fi
    mount --rbind /run/privbind-node/dev/$name /dev/$name
done
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
: > /dev/log
mount --bind "$LOG" /dev/log
mount -t tmpfs -o mode=755 tmpfs /var/lib/containers 2>/dev/null || :
mount -t tmpfs -o mode=755 tmpfs /usr/local/libexec 2>/dev/null || :
"""
"""/etc is a copy, the log is the test's own; /dev has what containers need."""

PURE = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
"""
"""For runtimes that take no host with both versions of cgroups."""

CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
UID = 1000


class Node(Host):
    """Where runtimes run, and their containers: in the host's network, which is the test's own."""

    def __init__(self, privbind: Path, folder: Path, programs: Path, *, pure: bool = False) -> None:
        super().__init__(privbind)
        self.folder = folder
        self.hook = privbind.parent / "privbind-oci-hook"
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log.bind(str(folder / "log"))
        self._log.setblocking(False)
        self._mounts = self.popen(
            ["unshare", "--mount", "sh", "-ec", f"{MOUNTS}{PURE if pure else ''}\necho ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"LOG": str(folder / "log")},
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
        own = os.readlink(f"/proc/{self.pid}/ns/net")
        assert own != os.readlink("/proc/self/ns/net")
        for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
            with contextlib.suppress(OSError):
                if pid != self.pid and os.readlink(f"/proc/{pid}/ns/net") == own:
                    kill(pid)
        super().close()
        self._log.close()
        wait_for(self._remove, "the end of all containers")

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
