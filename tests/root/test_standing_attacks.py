"""What other users try against standing grants, and what odd names and odd things in the kernel do to the commands."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from privbind.account import Account, become
from privbind.errors import PrivbindError
from privbind.grant.policy import Policy
from privbind.linux import bpf
from privbind.standing import load, program
from privbind.standing.resolve import UID, Key

from ..harness.cases import Bind
from ..harness.forks import CLONE_NEWUSER, forked, unshare
from ..harness.standing import ALICE, BOB, GRANTS, StandingHost, foreign_program, put

GOOD = '[[grant]]\nuser = "alice"\nallow = "tcp:80"\n'
PR_SET_DUMPABLE = 4  # linux/prctl.h
NO_PROGRAM = 0xFFFFFFFF
IN_FORCE = {f"uid {ALICE}": ("tcp:80",)}


def plain_user() -> None:
    become(Account(ALICE, ALICE, ()))


def root_of_a_user_namespace() -> None:
    become(Account(ALICE, ALICE, ()))
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0  # so that its files in /proc are its own
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {ALICE} 1")
    Path("/proc/self/gid_map").write_text(f"0 {ALICE} 1")
    assert os.geteuid() == 0


@pytest.mark.parametrize("become_who", [plain_user, root_of_a_user_namespace])
def test_no_user_takes_anything_off_or_puts_anything_there(
    standing: StandingHost, become_who: Callable[[], None]
) -> None:
    """Not with the cgroup's descriptor in hand. One of the program's would be enough, so nobody else may open that."""

    def run() -> list[str]:
        with standing.target() as target:
            put(target, "tcp:80")
            (number,) = bpf.query(target.cgroup.fd, bpf.INET4_BIND)[1]

            def attack() -> list[str]:
                become_who()
                tries: dict[str, Callable[[], object]] = {
                    "detach whatever is there": lambda: bpf.detach(target.cgroup.fd, NO_PROGRAM, bpf.INET4_BIND),
                    "make a program": foreign_program,
                    "query": lambda: bpf.query(target.cgroup.fd, bpf.INET4_BIND),
                    "open": lambda: bpf.open_program(number),
                    "create": lambda: bpf.create_hash("x", 8, 40, 1),
                    "lock": lambda: os.open(load.LOCK, os.O_RDONLY),
                    "load": lambda: put(target, "tcp:1"),
                    "unload": lambda: load.unload(target),
                }
                done = []
                for name, attempt in tries.items():
                    try:
                        attempt()
                        done.append(name)
                    except (OSError, PrivbindError):
                        pass
                return done

            return forked(attack)

    assert standing.inside(run) == []
    assert standing.in_force() == IN_FORCE


def test_nobody_holds_up_a_load(standing: StandingHost) -> None:
    """Every user can lock the cgroup's directory; that is not what a load waits for."""

    def run() -> bool:
        with standing.target() as target:

            def lock() -> int:
                become(Account(BOB, BOB, ()))
                fd = os.open(standing.cgroup, os.O_RDONLY)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd

            held, stop = os.pipe()
            ready, told = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(stop)
                    lock()
                    os.write(told, b"x")
                    os.read(held, 1)
                finally:
                    os._exit(0)
            assert os.read(ready, 1) == b"x"
            load._PATIENCE_S = 0
            loaded = put(target, "tcp:80")
            os.close(stop)
            os.waitpid(pid, 0)
            return loaded

    assert standing.inside(run)


def test_the_owner_of_a_delegated_cgroup(standing: StandingHost, programs: Path) -> None:
    """Moving about below it gives nothing, and takes nothing from another who is there."""
    standing.load(GOOD)
    standing.tree.make("bobs")
    for name in ("bobs", "bobs/cgroup.procs", "bobs/cgroup.threads", "bobs/cgroup.subtree_control"):
        os.chown(f"{standing.cgroup}/{name}", BOB, BOB)
    bind = Bind("tcp", "4", "127.0.0.1", 80)
    below = f"{standing.cgroup}/bobs"
    found = {}
    for who in ("bob", "alice"):
        script = f'echo 0 > {below}/cgroup.procs; exec "$@"'
        argv = standing.words_as(who, [programs / "trybind", *bind.words()])
        found[who] = standing.run(["sh", "-ec", script, "sh", *argv]).lines
    assert found == {"bob": ["EACCES"], "alice": ["ok 127.0.0.1 80"]}
    made = standing.as_user("bob", ["mkdir", f"{below}/own"])
    assert made.status == 0
    assert standing.as_user("bob", [standing.ctl_path, "load", f"--cgroup={below}"]).status == 125


HOSTILE = r"a\u001b[2J\nb\r\u202e"


def test_odd_names_do_nothing_to_a_terminal(standing: StandingHost) -> None:
    """In files, in the names of files and of members of groups: each message is one line of what can be printed."""
    (standing.etc / "group").write_text((standing.etc / "group").read_text() + "odd:x:4055:a\x1b[2Jb,alice\n")
    standing.write(f'[[grant]]\nuser = "{HOSTILE}"\ngroup = "odd"\nallow = "tcp:80"\n', "odd\x1b[2J\nname.toml")
    for words in (["check"], ["load"], ["check", "--diff"], ["ls"]):
        found = standing.ctl(*words).ok()
        for line in (*found.out.splitlines(), *found.err.splitlines()):
            assert line.isprintable(), words
        assert all(line.startswith("privbindctl: ") for line in found.err.splitlines())
    (standing.grants / "odd\x1b[2J\nname.toml").unlink()
    key, rule = f'"{HOSTILE}" = 1\n', f'user = "alice"\nallow = "{HOSTILE}"\n'
    for text in (key, f"[[grant]]\n{key}", f"[[grant]]\n{rule}"):
        standing.write(text)
        found = standing.ctl("check")
        assert (found.status, found.out, found.err.count("\n")) == (125, "", 1)
        assert found.err.removesuffix("\n").isprintable()


def test_a_line_of_subuid_that_is_no_number(standing: StandingHost) -> None:
    """Python reads no number of thousands of digits: such a line is left out, as any other that makes no sense."""
    digits = "9" * 5000
    (standing.etc / "subuid").write_text(f"alice:{digits}:1\nalice:1:{digits}\nalice:500000:256\nalice:x:y\n")
    standing.write('[[grant]]\nuser = "alice"\nallow = "tcp:80"\nsubids = true\n')
    assert standing.ctl("check").ok().lines[-1].startswith("  uids 500000-500255 of alice: ")


def test_something_else_that_has_our_names(standing: StandingHost) -> None:
    """A program called as ours, without a slot, or a table of nonsense: said in one line; the next load mends it."""

    def nameless() -> None:
        for hook, name in program.NAMES.items():
            if hook == bpf.INET4_BIND:
                fd = foreign_program(name)
                bpf.attach(standing.tree.fd, fd, hook)
                os.close(fd)

    def nonsense() -> None:
        with standing.target() as target:
            rules = Policy.parse(["tcp:80"]).rules or ()
            load.load(target, lambda: ({Key(UID, ALICE): rules}, b"nonsense"))

    standing.write(GOOD)
    for spoil in (nameless, nonsense):
        standing.inside(spoil)
        found = standing.ctl("check", "--diff")
        assert found.err.count("\n") == (1 if spoil is nonsense else 0)
        assert found.status == (125 if spoil is nonsense else 0), found
        assert "Traceback" not in standing.ctl("ls").ok().err
        assert standing.ctl("load").ok().out.startswith("loaded: ")
        assert standing.in_force() == IN_FORCE
        assert standing.programs() == [[name] for name in program.NAMES.values()]


def test_a_file_that_somebody_could_write(standing: StandingHost) -> None:
    """A folder further up that is not root's alone is refused as well: whoever writes there can exchange the files."""
    standing.load(GOOD)
    for place in (standing.grants.parent, standing.grants):
        place.chmod(0o775)
        found = standing.ctl("load")
        assert (found.status, found.err.count("\n")) == (125, 1)
        assert "others than its owner may write it: its mode is 0775" in found.err
        place.chmod(0o755)
    link = standing.grants.with_name("elsewhere")
    standing.grants.rename(link)
    standing.grants.symlink_to(link)
    found = standing.ctl("load")
    assert (found.status, found.err) == (
        125,
        f"privbindctl: {GRANTS}: not a folder, or a symbolic link to one (make it a folder)\n",
    )
    assert standing.in_force() == IN_FORCE


def test_a_command_line_to_undo_can_be_pasted(standing: StandingHost) -> None:
    """A name that means something to a shell is quoted."""
    odd = "a b;$(touch x)"
    passwd = standing.etc / "passwd"
    passwd.write_text(passwd.read_text() + f"{odd}:x:4077:4077::/:/bin/sh\n")
    found = standing.ctl("allow", odd, "tcp:[::1]:80").ok()
    assert found.lines[-1] == f"to undo: privbindctl disallow '{odd}' 'tcp:[::1]:80' --cgroup={standing.cgroup}"
    assert (standing.grants / f"user-{odd}.toml").exists()
