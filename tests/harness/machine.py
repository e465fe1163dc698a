"""A machine to run recipes on: namespaces of a test's own in which it is set up as the pages of docs/ describe it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from privbind.linux import cgroup

from .host import Host, Result, python, status_of, wait_for
from .install import ROOT, copy_for_all, world_readable_folder
from .launches import Tree

WWW_DATA = 33  # Debian's base-passwd
ALICE = 4711
BOB = 4712

GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1/" + sys.argv[1], timeout=30).read().decode(), end="")
"""
LISTENING = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
except ConnectionRefusedError:
    raise SystemExit(1)
"""
ASK_DNS = """
import socket, struct
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + b"\\5hello\\4test\\0" + struct.pack("!2H", 1, 1)
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.settimeout(30)
    s.sendto(query, ("127.0.0.1", 53))
    print(socket.inet_ntoa(s.recv(512)[-4:]))
with socket.create_connection(("127.0.0.1", 53)) as s:
    s.sendall(struct.pack("!H", len(query)) + query)
    print(socket.inet_ntoa(s.recv(514)[-4:]))
"""
MACHINE = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
ln -s "/srv/privbind/bin/${PRIVBIND##*/}" /usr/local/sbin/privbind
ln -s /srv/privbind/bin/privbindctl /usr/local/sbin/privbindctl
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/etc
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
rm -rf /etc/systemd/system
mkdir -p /etc/systemd/system
for user in alice:4711 bob:4712; do
    name=${user%:*} id=${user#*:}
    echo "$name:x:$id:$id::/home/$name:/bin/sh" >> /etc/passwd
    echo "$name:x:$id:" >> /etc/group
    echo "$name:*:19000:0:99999:7:::" >> /etc/shadow
done
mount -t tmpfs -o mode=755 tmpfs /home
mkdir -m 700 /home/alice /home/bob
chown 4711:4711 /home/alice
chown 4712:4712 /home/bob
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/privbind /srv/site
mount --bind "${PRIVBIND%/bin/*}" /srv/privbind
mount --bind "$SITE" /srv/site
"""
"""A machine as the pages of docs/ have it: privbind in /usr/local/sbin, users alice and bob, files in /srv/site.

/etc, /run, /home and /srv are its own.
"""

ONE_CGROUP = """
mount --bind "$OWN_CGROUP" "$HIERARCHY"
mount -t tmpfs -o mode=1777 tmpfs /tmp
"""
"""Of cgroup v2 only the test's own cgroup can be seen, so nothing can be put on the real root. /tmp is its own, too."""


@contextlib.contextmanager
def a_site() -> Iterator[Path]:
    """What is in /srv/site: the test servers' files, where all users can read them."""
    with world_readable_folder() as folder:
        copy_for_all(ROOT / "tests/servers", folder)
        folder.chmod(0o1777)
        (folder / "hello.txt").write_text("hello\n")
        (folder / "Caddyfile").write_text(
            "{\n skip_install_trust\n admin off\n}\n"
            'http://:80 {\n respond "hello"\n}\nhttps://localhost {\n tls internal\n respond "hello"\n}\n'
        )
        (folder / "dnsmasq.conf").write_text(
            "no-resolv\nno-hosts\nbind-interfaces\nlisten-address=127.0.0.1\naddress=/hello.test/192.0.2.7\n"
        )
        yield folder


class Machine(Host):
    """A network namespace and a mount namespace of a test's own, set up as the page describes."""

    def __init__(self, privbind: Path, site: Path, prepare: str = "", mounts: str = "", **variables: str) -> None:
        """``prepare``: shell commands run in the network namespace first; ``mounts``: more of them behind MACHINE."""
        super().__init__(privbind, prepare)
        self.path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/srv/site/pm2/bin"
        self._mounts = self.popen(
            ["unshare", "--mount", "sh", "-ec", f"{MACHINE}{mounts}\necho ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PRIVBIND": str(privbind), "SITE": str(site)} | variables,
        )
        assert self._mounts.stdout is not None
        assert self._mounts.stdout.readline() == "ready\n"
        self.root = Path(f"/proc/{self._mounts.pid}/root")
        self.enter = [
            *("nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self._mounts.pid}/ns/mnt", "--"),
            *("env", f"PATH={self.path}"),
        ]

    def serves(self, process: subprocess.Popen[Any], port: int = 80) -> None:
        """Wait until a program that was started here listens; it fails when the program ends instead."""

        def listening() -> bool:
            assert process.poll() is None, process.communicate()
            return self.run(python(LISTENING, str(port))).status == 0

        wait_for(listening, f"a server on port {port}")

    def page(self, name: str = "hello.txt") -> str:
        """What the server on port 80 answers."""
        return self.run(python(GET, name)).ok().out

    def answers(self) -> None:
        """Wait for the page: what forwards a port listens before the server behind it does."""
        wait_for(lambda: self.run(python(GET, "hello.txt")).out == "hello\n", "the page")


class Granted(Machine):
    """A machine whose users can have standing grants: all that runs on it is in a cgroup of the test's own.

    The cgroup is at `self.cgroup` there, and the root of the hierarchy cannot be seen.
    """

    def __init__(self, privbind: Path, site: Path, tree: Tree, prepare: str = "", mounts: str = "") -> None:
        """``tree`` is the cgroup."""
        own = os.readlink(f"/proc/self/fd/{tree.fd}")
        hierarchy = next(point for _, _, point in cgroup.mounts("cgroup2") if own.startswith(f"{point}/"))
        super().__init__(privbind, site, prepare, f"{ONE_CGROUP}{mounts}", OWN_CGROUP=own, HIERARCHY=hierarchy)
        self.cgroup = hierarchy
        self._tree = tree
        join = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
        self.enter += ["sh", "-ec", join, "sh", hierarchy]

    def ctl(self, *words: str) -> Result:
        """Run privbindctl for the test's own cgroup."""
        return self.run(["privbindctl", *words, f"--cgroup={self.cgroup}"])

    def close(self) -> None:
        """End everything here, also what made namespaces of its own, and wait until the cgroup is empty."""
        self._tree.write("cgroup.kill", "1")
        super().close()
        events = Path(f"/proc/self/fd/{self._tree.fd}/cgroup.events")
        wait_for(lambda: "populated 0" in events.read_text(), "the end of all processes")


def as_user(uid: int, argv: list[str]) -> list[str]:
    """A command line as a user without privileges."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", *argv]


def denied(found: Result) -> None:
    """The control: the program did not get its port."""
    assert re.search("ermission denied|EACCES|BindException", found.out + found.err), found


def unprivileged(pid: int, uid: int = WWW_DATA, capabilities: int = 0) -> None:
    """Check whose process it is, and that it has no more than these capabilities."""
    status = status_of(pid)
    assert status["Uid"].split() == [str(uid)] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == capabilities


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    """All processes below a process."""
    below = children_of(pid)
    return below + [further for child in below for further in descendants(child)]
