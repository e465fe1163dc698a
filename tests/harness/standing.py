"""Hosts for standing grants: a cgroup, a network namespace, and an /etc and a /run of the test's own.

Nothing that is done through `StandingHost` can reach the machine: what loads is told the test's cgroup, and users,
groups, files of grants and the lock are private.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from privbind.grant.policy import Policy
from privbind.linux import bpf
from privbind.mechanisms.bpf.assembly import R0, Assembly
from privbind.standing import load as loading
from privbind.standing import text
from privbind.standing.resolve import UID, Key
from privbind.standing.text import Granted

from .cases import Bind
from .forks import forked, setns
from .host import Host, Result
from .launches import Tree

T = TypeVar("T")

ALICE, BOB, CAROL, DAVE = 4001, 4002, 4003, 4004
WEB = 4033
USERS = {"alice": (ALICE, ALICE), "bob": (BOB, BOB), "carol": (CAROL, CAROL), "dave": (DAVE, WEB)}
"""Their uids and primary gids. carol is a member of the group web, dave has it as primary group."""
SUBIDS = (4_000_000, 65_536)
"""alice's subordinate uids."""

GRANTS = "/etc/privbind/grants.d"
LOADS = ("load", "unload", "allow", "disallow")

NO_PRIVILEGES = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
"""For setpriv: with them not even a capability could be gained."""

_ENTER = 'echo 0 > "$0/cgroup.procs"; exec "$@"'
_PREPARE = """
mount --make-rprivate /
mount --bind "$FOLDER/etc" /etc
mount -t tmpfs -o mode=755 run /run
"""


class StandingHost(Host):
    """A host on which standing grants are loaded for one cgroup; everything that is run is in that cgroup."""

    def __init__(self, privbind: Path) -> None:
        self.tree = Tree()
        self.cgroup = os.readlink(f"/proc/self/fd/{self.tree.fd}")
        self._folder = tempfile.TemporaryDirectory(prefix="privbind-test-", dir="/tmp")
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        self.etc = folder / "etc"
        shutil.copytree("/etc", self.etc, symlinks=True, ignore=_unreadable)
        _write_accounts(self.etc)
        self.grants = self.etc / "privbind/grants.d"
        self.grants.mkdir(parents=True)
        for made in (self.etc, self.grants, self.grants.parent):
            made.chmod(0o755)
        self.ctl_path = privbind.parent / "privbindctl"
        super().__init__(privbind, _PREPARE.replace("$FOLDER", str(folder)), unshared=("--net", "--mount"))
        namespaces = [f"--{kind}=/proc/{self.pid}/ns/{kind}" for kind in ("net",)]
        mounts = f"--mount=/proc/{self.pid}/ns/mnt"
        self.enter = ["sh", "-c", _ENTER, self.cgroup, "nsenter", *namespaces, mounts, "--"]

    def close(self) -> None:
        """End everything that was started, and remove what was made."""
        super().close()
        self.tree.remove()
        self._folder.cleanup()

    # Files.

    def write(self, text: str, name: str = "test.toml") -> Path:
        """Write a file of grants; where it is, seen from outside."""
        path = self.grants / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def clear(self) -> None:
        """Remove all files of grants."""
        for path in self.grants.iterdir():
            path.unlink()

    # Commands.

    def ctl(self, *words: str, prefix: Sequence[object] = (), **options: Any) -> Result:
        """Run privbindctl, as root; for this host's cgroup, whatever command it is."""
        assert "--cgroup" not in " ".join(words), "it is added here"
        for_cgroup = words[:1] and (words[0] in LOADS or {"check", "--diff"} <= set(words))
        more = [f"--cgroup={self.cgroup}"] if for_cgroup and "--dry-run" not in words else []
        return self.run([*prefix, self.ctl_path, *words[:1], *more, *words[1:]], **options)

    def ctl_in_a_cgroup_namespace(self, *words: str, **options: Any) -> Result:
        """The same without --cgroup, in a cgroup namespace, from which the machine's root cannot be seen."""
        script = 'mount -t cgroup2 none "$0"; exec "$@"'
        own = ["unshare", "--cgroup", "--mount", "sh", "-ec", script, "/mnt"]
        hidden = ["sh", "-ec", f'for p in $({CGROUP_MOUNTS}); do umount -l "$p"; done; exec "$@"', "sh"]
        return self.run(["unshare", "--mount", *hidden, *own, self.ctl_path, *words], **options)

    def load(self, text: str) -> Result:
        """Load the grants of one file, which must go well."""
        self.write(text)
        return self.ctl("load").ok()

    def as_user(self, user: str | int, argv: Sequence[object], *more: str, **options: Any) -> Result:
        """Run a program as a user, by name or uid, with no capability; with what setpriv is told besides."""
        return self.run(self.words_as(user, argv, *more), **options)

    def words_as(self, user: str | int, argv: Sequence[object], *more: str) -> list[object]:
        """The command line for that."""
        uid, gid = USERS[user] if isinstance(user, str) else (user, user)
        usual = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
        given = " ".join(more)
        replaced = ("--regid" in given and "--regid", "--groups" in given and "--clear-groups")
        kept = [word for word in usual if word.partition("=")[0] not in replaced]
        return ["setpriv", *kept, *more, "--", *argv]

    def binds(self, user: str | int, program: Path, *binds: Bind, more: Sequence[str] = ()) -> list[str]:
        """What binds of the trybind program give for a user: "ok" or the errno's name, in order."""
        argv = [program, *(word for bind in binds for word in bind.words())]
        return [line.split()[0] for line in self.as_user(user, argv, *more).lines]

    # Without the command line.

    def inside(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in a child that is root, in this host's cgroup and namespaces."""

        def child() -> T:
            self.tree.enter()
            setns(f"/proc/{self.pid}/ns/net")
            setns(f"/proc/{self.pid}/ns/mnt")
            return work()

        return forked(child)

    def target(self) -> loading.Target:
        """This host's cgroup and network namespace; inside only."""
        return loading.Target.open(self.cgroup)

    def in_force(self) -> dict[str, tuple[str, ...]] | None:
        """What is in force, as rules by holder; None for nothing."""

        def look() -> dict[str, tuple[str, ...]] | None:
            with self.target() as target:
                found = loading.in_force(target)
            if found is None:
                return None
            assert found.complete
            return {f"{key.kind} {key.first}": held.rules for key, held in text.decode(found.text).items()}

        return self.inside(look)

    def programs(self) -> list[list[str]]:
        """The names of the programs on this host's cgroup, by hook."""

        def look() -> list[list[str]]:
            names = []
            for hook in (bpf.INET4_BIND, bpf.INET6_BIND):
                names.append([name_of(number) for number in bpf.query(self.tree.fd, hook)[1]])
            return names

        return self.inside(look)


def put(target: loading.Target, rules: str, user: int = ALICE) -> bool:
    """Load these rules for one user; inside only."""
    key = Key(UID, user)
    policy = Policy.parse([rules])
    granted = {key: Granted("alice", ((tuple(map(str, policy.rules or ())), "f:1"),))}
    return loading.load(target, lambda: ({key: policy.rules or ()}, text.encode(granted)))


def foreign_program(name: str = "somebody_elses") -> int:
    """A program of another's that allows everything and lifts nothing; its descriptor."""
    asm = Assembly("another's")
    asm.move(R0, 1)
    asm.exit()
    return bpf.load(name, bpf.INET4_BIND, asm.code({}))


def name_of(number: int) -> str:
    """The name of a program with this id."""
    fd = bpf.open_program(number)
    try:
        return bpf.program_info(fd)[1]
    finally:
        os.close(fd)


CGROUP_MOUNTS = "findmnt --noheadings --raw --output TARGET --types cgroup2"


def _unreadable(folder: str, names: list[str]) -> list[str]:
    """What a copy of /etc leaves out: sockets, pipes and devices, and what is large and means nothing here."""
    kept = [name for name in names if os.path.isdir(f"{folder}/{name}") or os.path.isfile(f"{folder}/{name}")]
    links = [name for name in names if os.path.islink(f"{folder}/{name}")]
    return [name for name in names if name not in (*kept, *links) or name in ("privbind", "authbind")]


def _write_accounts(etc: Path) -> None:
    """Users and groups of the test's own, in the place of any that have their names or numbers."""
    passwd = [f"{name}:x:{uid}:{gid}::/:/bin/sh" for name, (uid, gid) in USERS.items()]
    group = [f"{name}:x:{uid}:" for name, (uid, gid) in USERS.items() if uid == gid]
    _put(etc / "passwd", passwd)
    _put(etc / "group", [*group, f"web:x:{WEB}:carol,gone,root"])
    (etc / "subuid").write_text(f"alice:{SUBIDS[0]}:{SUBIDS[1]}\n")
    (etc / "subgid").write_text(f"alice:{SUBIDS[0]}:{SUBIDS[1]}\n")
    # The files alone count: no daemon, no directory service.
    (etc / "nsswitch.conf").unlink(missing_ok=True)
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nservices: files\n")


def _put(path: Path, lines: list[str]) -> None:
    taken = {line.split(":")[place] for line in lines for place in (0, 2)}
    kept = [line for line in path.read_text().splitlines() if not {*line.split(":")[:3:2]} & taken]
    path.write_text("".join(f"{line}\n" for line in (*kept, *lines)))
