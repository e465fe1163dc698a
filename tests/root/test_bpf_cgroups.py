"""Cgroups under the bpf mechanism: kinds of hosts, what is refused and why, and that nothing is left."""

from __future__ import annotations

import os
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from privbind.errors import PrivbindError, UnsupportedError
from privbind.linux import bpf as calls
from privbind.linux import capabilities, cgroup, prctl
from privbind.linux.cgroup import Cgroup
from privbind.mechanisms import bpf
from privbind.mechanisms.bpf import own_cgroup
from privbind.mechanisms.bpf.assembly import R0, Assembly

from ..harness.forks import (
    CLONE_NEWCGROUP,
    CLONE_NEWUSER,
    MS_BIND,
    MS_RDONLY,
    MS_REMOUNT,
    NOBODY,
    become_nobody,
    forked,
    in_host,
    mount,
    private_mounts,
    try_bind,
    unified_mount,
    unmount,
    unshare,
)
from ..harness.launches import (
    COMMAND,
    Tree,
    a_grant,
    as_command,
    here,
    holder,
    launches_in,
    leftover,
    outside,
    prepared,
)
from ..harness.patience import fewer

pytestmark = pytest.mark.usefixtures("nothing_stays")

ELSEWHERE = "Kubernetes: capabilities.add; systemd: CapabilityBoundingSet="

T = TypeVar("T")


def refusal(limit: int = 0) -> str:
    """Why nothing can be prepared here: what probe says, or else what prepare says."""
    wanted = a_grant(limit=limit)
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    try:
        try:
            bpf.probe(wanted, here(), COMMAND)
        except UnsupportedError as error:
            return f"probe: {error}"
        launch = bpf.prepare(wanted, holder(), here(), COMMAND)
    except UnsupportedError as error:
        if before:
            assert os.listdir("/proc/self/fd") == before
        return f"prepare: {error}"
    launch.cancel()
    return "none"


def works() -> list[str]:
    """Binds of a granted and of another port by a command, from where this process is."""
    launch = prepared("tcp:80", limit=3)
    try:
        return as_command(lambda: [try_bind(80), try_bind(81), try_bind(80, "::1")])
    finally:
        launch.cancel()


WORKS = ["ok", "EACCES", "ok"]


class TestKindsOfHosts:
    """Where the own cgroup is found, and the grant holds."""

    def test_in_a_cgroup_below_others(self, tree: Tree) -> None:
        tree.make("a")
        tree.make("a/b c\\d")

        def host() -> list[str]:
            tree.enter("a/b c\\d")
            return works()

        assert in_host(host) == WORKS

    def test_a_cgroup_namespace_with_a_mount_of_its_own(self, tree: Tree) -> None:
        """As in a container: the depth that can be seen is not the real one."""
        tree.make("a")

        def host() -> list[str]:
            tree.enter("a")
            unshare(CLONE_NEWCGROUP)
            private_mounts()
            target = unified_mount()
            unmount(target)
            mount("cgroup2", target, "cgroup2")
            return [Path("/proc/self/cgroup").read_text().splitlines()[-1], *works()]

        assert in_host(host) == ["0::/", *WORKS]

    def test_a_cgroup_namespace_with_the_hosts_mount(self, tree: Tree) -> None:
        """The path leads elsewhere; the kernel's own number for the cgroup leads there."""
        tree.make("a")

        def host() -> list[str]:
            tree.enter("a")
            unshare(CLONE_NEWCGROUP)
            return works()

        need_cgroup_ids()
        assert in_host(host) == WORKS

    def test_above_the_namespaces_root(self, tree: Tree) -> None:
        tree.make("a")

        def host() -> list[str]:
            tree.enter("a")
            unshare(CLONE_NEWCGROUP)
            tree.enter()
            assert "0::/.." in Path("/proc/self/cgroup").read_text()
            return works()

        need_cgroup_ids()
        assert in_host(host) == WORKS

    def test_a_mount_of_a_part_that_holds_it(self, tree: Tree) -> None:
        tree.make("a")

        def host() -> list[str]:
            tree.enter("a")
            private_mounts()
            target = unified_mount()
            mount(target + tree.path, "/mnt", None, MS_BIND)
            unmount(target)
            return works()

        assert in_host(host) == WORKS

    def test_a_mount_of_another_part(self, tree: Tree) -> None:
        tree.make("a")
        tree.make("b")

        def host() -> list[str]:
            tree.enter("a")
            private_mounts()
            target = unified_mount()
            mount(f"{target}{tree.path}/b", "/mnt", None, MS_BIND)
            unmount(target)
            return works()

        need_cgroup_ids()
        assert in_host(host) == WORKS

    def test_something_mounted_over_it(self, tree: Tree) -> None:
        """A folder of the same name on another file system is not taken for the cgroup."""

        def host() -> list[str]:
            tree.enter()
            private_mounts()
            target = unified_mount()
            mount("tmpfs", target, "tmpfs")
            os.makedirs(target + tree.path)
            return [refusal()]

        (found,) = in_host(host)
        assert "is not below any cgroup v2 mount that can be seen here" in found

    def test_a_unified_host(self, tree: Tree) -> None:
        """cgroup2 at /sys/fs/cgroup, no version 1 in sight."""

        def host() -> list[str]:
            tree.enter()
            private_mounts()
            mount(unified_mount(), "/mnt", None, MS_BIND)
            for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
                if line.split()[4].startswith("/sys/fs/cgroup"):
                    unmount(line.split()[4])
            mount("/mnt", "/sys/fs/cgroup", None, MS_BIND)
            unmount("/mnt")
            return works()

        assert in_host(host) == WORKS

    def test_delegated_to_a_user(self, tree: Tree) -> None:
        """CAP_BPF and CAP_NET_ADMIN are enough where the cgroup is the user's."""
        for name in (".", "cgroup.procs"):
            os.chown(name, NOBODY, NOBODY, dir_fd=tree.fd)

        def host() -> str:
            tree.enter()
            become_user_with(capabilities.CAP_BPF, capabilities.CAP_NET_ADMIN)
            prepared("tcp:80").enter()
            capabilities.put(0, 0, 0)
            return try_bind(80)

        assert in_host(host) == "ok"


def need_cgroup_ids() -> None:
    """Skip where the kernel does not tell a process's cgroup by its number."""
    if not cgroup._own_identity():
        pytest.skip("PIDFD_GET_INFO needs Linux 6.13")


def become_user_with(*held: int) -> None:
    """Become nobody, keeping these capabilities, as a service manager may start a program."""
    prctl.set_keep_capabilities(True)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    mask = capabilities.mask(*held)
    capabilities.put(mask, mask, 0)


def without(*dropped: int) -> None:
    permitted, effective, _ = capabilities.get()
    mask = ~capabilities.mask(*dropped)
    capabilities.put(permitted & mask, effective & mask, 0)


class TestRefusals:
    """Each host that cannot has its own reason, in one line, and is left as it was."""

    @pytest.mark.parametrize(("where", "kind"), [(".", "domain threaded"), ("t", "threaded")])
    def test_threaded(self, tree: Tree, where: str, kind: str) -> None:
        tree.make("t")
        tree.write("t/cgroup.type", "threaded")
        shown = tree.path if where == "." else f"{tree.path}/t"

        def host() -> str:
            tree.enter(where)
            return refusal()

        assert in_host(host) == (
            f"probe: bpf: this process's cgroup '{shown}' is {kind}, so no process could be in a new cgroup below it"
            " (start privbind from a cgroup of type 'domain')"
        )

    @pytest.mark.parametrize("limit", ["cgroup.max.descendants", "cgroup.max.depth"])
    def test_no_more_cgroups_here(self, tree: Tree, limit: str) -> None:
        tree.write(limit, "0")

        def host() -> str:
            tree.enter()
            return refusal()

        assert in_host(host) == (
            f"probe: bpf: no further cgroup may be made below '{tree.path}'"
            " (raise cgroup.max.depth or cgroup.max.descendants there or above)"
        )

    @pytest.mark.parametrize("limit", ["cgroup.max.descendants", "cgroup.max.depth"])
    def test_no_more_cgroups_further_up(self, tree: Tree, limit: str) -> None:
        tree.make("a")
        tree.write(limit, "1")

        def host() -> str:
            tree.enter("a")
            return refusal()

        assert in_host(host) == (
            f"prepare: bpf: no further cgroup may be made below '{tree.path}/a'"
            " (raise cgroup.max.depth or cgroup.max.descendants there or above)"
        )

    def test_not_mounted(self) -> None:
        def host() -> str:
            private_mounts()
            unmount(unified_mount())
            return refusal()

        assert in_host(host) == "probe: bpf: cgroup v2 is not mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup)"

    def test_no_proc(self) -> None:
        def host() -> str:
            private_mounts()
            unmount("/proc")
            return refusal()

        expected = "probe: bpf: cannot read /proc/self/cgroup: No such file or directory (mount /proc)"
        assert in_host(host) == expected

    def test_read_only(self, tree: Tree) -> None:
        def host() -> str:
            tree.enter()
            private_mounts()
            target = unified_mount()
            mount(target, target, None, MS_BIND)
            mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
            return refusal()

        assert in_host(host) == (
            f"probe: bpf: cgroup v2 is mounted read-only, so no cgroup can be made below '{tree.path}'"
            " (mount it read-write)"
        )

    def test_not_delegated(self, tree: Tree) -> None:
        def host() -> str:
            tree.enter()
            become_user_with(capabilities.CAP_BPF, capabilities.CAP_NET_ADMIN)
            return refusal()

        assert in_host(host) == (
            f"probe: bpf: this user may not make a cgroup below '{tree.path}'"
            " (run as root, or have that cgroup delegated)"
        )

    BPF, NET, ADMIN = capabilities.CAP_BPF, capabilities.CAP_NET_ADMIN, capabilities.CAP_SYS_ADMIN

    @pytest.mark.parametrize(
        ("dropped", "reason"),
        [
            ((BPF, NET, ADMIN), "CAP_BPF and CAP_NET_ADMIN are missing"),
            ((BPF, ADMIN), "CAP_BPF is missing"),
            ((NET, ADMIN), "CAP_NET_ADMIN is missing"),
            ((BPF, NET), None),
            ((ADMIN,), None),
        ],
    )
    def test_capabilities(self, dropped: tuple[int, ...], reason: str | None) -> None:
        """CAP_SYS_ADMIN stands for both; but older kernels take CAP_NET_ADMIN alone to say what is on a cgroup."""

        def host() -> tuple[str, bool]:
            without(*dropped)
            with cgroup.own() as own:
                try:
                    calls.query(own.fd, calls.INET4_BIND)
                except PermissionError:
                    return refusal(limit=1), False
            return refusal(limit=1), True

        found, may_ask = in_host(host)
        if not may_ask:
            assert self.NET in dropped
            reason = reason or "CAP_NET_ADMIN is missing"
        missing = re.findall(r"CAP_(\w+)", reason or "")
        remedy = f"docker or podman run {' '.join(f'--cap-add={name}' for name in missing)}; {ELSEWHERE}"
        assert found.partition(": ")[2] == (f"bpf: {reason} ({remedy})" if reason else "")

    def test_in_a_user_namespace(self) -> None:
        def host() -> str:
            unshare(CLONE_NEWUSER)
            return refusal()

        assert in_host(host) == (
            "probe: bpf: bpf(2) is not permitted inside a user namespace (run it in the first user namespace)"
        )


def attached(tree: Tree, flags: int, result: int = 1, hook: int = calls.INET4_BIND) -> int:
    """Put a program of another's on a test's cgroup; its descriptor."""
    asm = Assembly("another's")
    asm.move(R0, result)
    asm.exit()
    fd = calls.load("another", hook, asm.code({}))
    calls._call(calls._PROG_ATTACH, bytearray(calls._ATTACH.pack(tree.fd, fd, hook, flags, 0)))
    return fd


class TestAncestors:
    """Programs that others have put on a cgroup above."""

    @pytest.mark.parametrize("steps", [0, 1, 2])
    @pytest.mark.parametrize("hook", [calls.INET4_BIND, calls.INET6_BIND, calls.INET4_POST_BIND, calls.INET6_POST_BIND])
    @pytest.mark.parametrize(
        ("flags", "reason"),
        [
            (0, "has a bind program that forbids any other below"),
            (calls.ALLOW_OVERRIDE, "has a bind program that ours would put out of effect"),
            (calls.ALLOW_MULTI, None),
        ],
    )
    def test_flags(self, tree: Tree, flags: int, reason: str | None, hook: int, steps: int) -> None:
        """What attaching ours would be refused by, or would silence, is a refusal that names the cgroup."""
        place = "."
        for _ in range(steps):
            place = tree.make(f"{place}/x")

        def host() -> str:
            fd = attached(tree, flags, hook=hook)
            tree.enter(place)
            try:
                return refusal(limit=1)
            finally:
                Path(unified_mount(), "cgroup.procs").write_text("0")
                calls.detach(tree.fd, fd, hook)

        remedy = "attach that one with BPF_F_ALLOW_MULTI"
        assert in_host(host) == (f"probe: bpf: cgroup '{tree.path}' {reason} ({remedy})" if reason else "none")

    def test_a_hook_that_is_not_needed(self, tree: Tree) -> None:
        """Without a limit there is no post-bind program, so one above is in nobody's way."""

        def host() -> str:
            fd = attached(tree, 0, hook=calls.INET4_POST_BIND)
            tree.enter()
            try:
                return refusal()
            finally:
                Path(unified_mount(), "cgroup.procs").write_text("0")
                calls.detach(tree.fd, fd, calls.INET4_POST_BIND)

        assert in_host(host) == "none"

    @pytest.mark.parametrize(
        ("flags", "reason"),
        [
            (0, "a cgroup above that cannot be seen from here has a bind program that forbids any other below"),
            (
                calls.ALLOW_OVERRIDE,
                "a cgroup above that cannot be seen from here has a bind program that ours would put out of effect",
            ),
        ],
    )
    def test_out_of_sight(self, tree: Tree, flags: int, reason: str) -> None:
        """In a container, what is on a cgroup above cannot be asked, but it shows in what is in effect."""
        tree.make("a")

        def host() -> str:
            fd = attached(tree, flags)
            tree.enter("a")
            unshare(CLONE_NEWCGROUP)
            private_mounts()
            target = unified_mount()
            root = os.open(target, os.O_RDONLY)
            unmount(target)
            mount("cgroup2", target, "cgroup2")
            try:
                return refusal()
            finally:
                procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=root)
                os.write(procs, b"0")
                calls.detach(tree.fd, fd, calls.INET4_BIND)

        assert in_host(host) == f"prepare: bpf: {reason} (attach that one with BPF_F_ALLOW_MULTI)"

    def test_a_ban_above_wins(self, tree: Tree) -> None:
        """privbind only adds: what a service manager forbids stays forbidden."""

        def host() -> list[str]:
            fd = attached(tree, calls.ALLOW_MULTI, result=0)
            tree.enter()
            launch = prepared("tcp:80")
            found = as_command(lambda: [try_bind(80), try_bind(80, "::1")])
            launch.cancel()
            Path(unified_mount(), "cgroup.procs").write_text("0")
            calls.detach(tree.fd, fd, calls.INET4_BIND)
            return found

        assert in_host(host) == ["EPERM", "ok"]


class TestSweep:
    """Empty cgroups of ended launches go; one that is being made stays."""

    WORKERS, ROUNDS = 8, fewer(200)

    def test_many_launches_at_once(self, tree: Tree) -> None:
        """None of them fails, and none is left behind."""

        def once() -> str:
            prepared("tcp:80").enter()
            become_nobody()
            return try_bind(80, f"127.0.{os.getpid() >> 8 & 255}.{os.getpid() & 255}")

        def worker() -> list[str]:
            tree.enter()
            return [found for _ in range(self.ROUNDS) if (found := forked(once)) not in ("ok", "EADDRINUSE")]

        def host() -> list[list[str]]:
            readers = []
            for _ in range(self.WORKERS):
                reader, writer = os.pipe()
                pid = os.fork()
                if pid == 0:
                    try:
                        answer = "\n".join(worker())
                    except BaseException as error:  # noqa: BLE001
                        answer = f"{type(error).__name__}: {error}"
                    os.write(writer, answer.encode()[:4000])
                    os._exit(0)
                os.close(writer)
                readers.append((reader, pid))
            found = []
            for reader, pid in readers:
                with os.fdopen(reader) as file:
                    found.append(file.read().splitlines())
                os.waitpid(pid, 0)
            return found

        assert in_host(host) == [[]] * self.WORKERS
        own_cgroup.sweep(tree.fd)
        assert launches_in(tree.fd) == []

    def test_what_is_being_made_is_not_taken(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another launch's sweep comes at the worst moment: when the cgroup is there and nobody is inside."""
        swept = []
        enter = Cgroup.enter

        def late(made: Cgroup) -> None:
            swept.append(forked(lambda: own_cgroup.sweep(tree.fd)))
            enter(made)

        def host() -> list[object]:
            tree.enter()
            monkeypatch.setattr(Cgroup, "enter", late)
            launch = prepared("tcp:80")
            monkeypatch.undo()
            entered = forked(lambda: own_cgroup.sweep(tree.fd))
            found = as_command(lambda: try_bind(80))
            launch.cancel()
            return [swept, entered, found]

        assert in_host(host) == [[0], 0, "ok"]

    def test_what_was_being_made_for_long_is_taken(self, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
        """A launch that was killed between making its cgroup and entering it; only its age tells."""

        def host() -> None:
            tree.enter()
            monkeypatch.setattr(Cgroup, "enter", killed)
            prepared("tcp:80")

        with pytest.raises(EOFError):
            in_host(host)
        assert len(launches_in(tree.fd)) == 1
        assert own_cgroup.sweep(tree.fd) == 0
        now = time.time()
        monkeypatch.setattr(own_cgroup, "time", lambda: now + own_cgroup._MAKING_S + 1)
        assert own_cgroup.sweep(tree.fd) == 1
        assert launches_in(tree.fd) == []

    @pytest.mark.parametrize("step", ["open", "enter"])
    def test_its_cgroup_is_removed_before_it_is_in_it(
        self, tree: Tree, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As whoever owns the cgroup above may do: another one is made."""
        seen: list[str] = []
        open_ours, enter = own_cgroup._open_ours, Cgroup.enter

        def remove_the_first(name: str) -> None:
            seen.append(name.rpartition("/")[2])
            if len(seen) == 1:
                os.rmdir(seen[0], dir_fd=tree.fd)

        def late_open(parent: Cgroup, name: str) -> Cgroup | None:
            remove_the_first(name)
            return open_ours(parent, name)

        def late_enter(made: Cgroup) -> None:
            remove_the_first(made.path)
            enter(made)

        def host() -> list[object]:
            tree.enter()
            with monkeypatch.context() as patch:
                if step == "open":
                    patch.setattr(own_cgroup, "_open_ours", late_open)
                else:
                    patch.setattr(Cgroup, "enter", late_enter)
                launch = prepared("tcp:80")
            found = [
                [name.rpartition(".")[2] for name in seen],
                launch._name == seen[1],
                as_command(lambda: try_bind(80)),
            ]
            launch.cancel()
            return found

        assert in_host(host) == [["0", "1"], True, "ok"]

    def test_a_cgroup_of_anothers_with_that_name_is_not_entered(
        self, tree: Tree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was put in the place of the one that was made: it is left as it is, and another one is made."""
        open_ours = own_cgroup._open_ours
        seen: list[str] = []

        def late_open(parent: Cgroup, name: str) -> Cgroup | None:
            seen.append(name)
            if len(seen) == 1:
                os.chown(name, NOBODY, NOBODY, dir_fd=tree.fd)
            return open_ours(parent, name)

        def host() -> tuple[bool, bool, int]:
            tree.enter()
            with monkeypatch.context() as patch:
                patch.setattr(own_cgroup, "_open_ours", late_open)
                launch = prepared("tcp:80")
            found = launch._name == seen[1], sorted(launches_in(tree.fd)) == sorted(seen), own_cgroup.sweep(tree.fd)
            launch.cancel()
            return found

        assert in_host(host) == (True, True, 0)

    def test_an_ended_launch_with_another_inside(self, tree: Tree) -> None:
        """Both of their cgroups go at once."""

        def host() -> None:
            tree.enter()
            prepared("tcp:80")
            prepared("tcp:81")

        in_host(host)
        assert len(launches_in(tree.fd)) == 1
        assert own_cgroup.sweep(tree.fd) == 2
        assert launches_in(tree.fd) == []

    def test_a_bounded_number_is_looked_at(self, tree: Tree) -> None:
        """A launch beside a thousand others takes no longer for it, and later ones remove what is left."""
        for number in range(2 * own_cgroup._MAX_LOOKS + 1):
            tree.make(f"privbind.999999999.{number}")
        assert [own_cgroup.sweep(tree.fd) for _ in range(4)] == [own_cgroup._MAX_LOOKS] * 2 + [1, 0]

    def test_cgroups_of_others_stay(self, tree: Tree) -> None:
        tree.make("other")
        tree.make("privbind")
        assert own_cgroup.sweep(tree.fd) == 0

    def test_an_empty_one_of_another_users_stays(self, tree: Tree) -> None:
        """The control is root's own, with the same name before and after."""
        tree.make("privbind.999999999.0")
        os.chown("privbind.999999999.0", NOBODY, NOBODY, dir_fd=tree.fd)
        assert own_cgroup.sweep(tree.fd) == 0
        os.chown("privbind.999999999.0", 0, 0, dir_fd=tree.fd)
        assert own_cgroup.sweep(tree.fd) == 1

    @pytest.mark.parametrize("step", ["create_array", "load", "attach", "effective", "enter"])
    def test_a_crash_leaves_an_empty_cgroup_at_most(
        self, tree: Tree, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed at any step, what is left goes with the next launch."""

        def host() -> None:
            tree.enter()
            if step == "enter":
                prepared("tcp:80").enter()
                killed()
            bpf.probe(a_grant("tcp:80"), here(), COMMAND)
            if step == "effective":
                attached(tree, calls.ALLOW_MULTI)
                real = calls.attach

                def attach_and_die(*of: int) -> None:
                    real(*of)
                    killed()

                monkeypatch.setattr(calls, "attach", attach_and_die)
            else:
                monkeypatch.setattr(calls, step, killed)
            bpf.prepare(a_grant("tcp:80"), holder(), here(), COMMAND)

        def next_launch() -> None:
            tree.enter()
            prepared("tcp:80").cancel()

        with pytest.raises(EOFError):
            in_host(host)
        assert len(launches_in(tree.fd)) == 1
        in_host(next_launch)
        assert launches_in(tree.fd) == []


def killed(*_: object) -> NoReturn:
    """What a call does in a process that is killed at that moment."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o777])
def test_a_launch_that_fails_later_leaves_the_callers_cgroup_as_it_was(
    tree: Tree, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is back in it, with its own one gone, and who may look into it has not changed."""
    os.fchmod(tree.fd, 0o555)
    enter = Cgroup.enter
    modes: list[int] = []

    def noted(made: Cgroup) -> None:
        modes.append(stat.S_IMODE(os.fstat(made.fd).st_mode))
        enter(made)

    def host() -> tuple[list[int], bool]:
        tree.enter()
        os.umask(umask)
        with monkeypatch.context() as patch:
            patch.setattr(Cgroup, "enter", noted)
            launch = prepared("tcp:80")
        (name,) = launches_in(tree.fd)
        modes.append(stat.S_IMODE(os.stat(name, dir_fd=tree.fd).st_mode))
        launch.enter()
        launch.cancel()
        with cgroup.own() as own:
            return modes, own.path == tree.path

    assert in_host(host) == ([0o700 & ~umask, 0o755], True)
    assert stat.S_IMODE(os.fstat(tree.fd).st_mode) == 0o555
    assert launches_in(tree.fd) == []


@pytest.mark.parametrize(
    "step", ["enter", "create_array", "write_array", "freeze", "load", "bind_map", "attach", "effective"]
)
def test_a_failure_leaves_nothing(tree: Tree, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call fails, no cgroup and no descriptor stays, and the error is one line."""

    def failing(*_: object) -> NoReturn:
        if step == "load":
            raise calls.LoadError(12, "Cannot allocate memory", "")
        raise OSError(12, "Cannot allocate memory")

    def host() -> tuple[str, bool, list[str]]:
        tree.enter()
        monkeypatch.setattr(Cgroup if step == "enter" else calls, step, failing)
        before = os.listdir("/proc/self/fd")
        told = ""
        try:
            bpf.prepare(a_grant("tcp:80", limit=1), holder(), here(), COMMAND)
        except PrivbindError as error:
            told = str(error)
        assert os.listdir("/proc/self/fd") == before
        with cgroup.own() as own:
            return told, own.path == tree.path, launches_in(tree.fd)

    told, back, left = in_host(host)
    assert told.startswith(("cannot ", "bpf: "))
    assert "\n" not in told
    assert back
    assert left == []


def test_leftover_is_what_the_fixture_looks_for() -> None:
    with cgroup.own() as own:
        os.mkdir("privbind.999999999.0", dir_fd=own.fd)
        os.chmod("privbind.999999999.0", 0o755, dir_fd=own.fd)  # whatever the umask is
        assert "privbind.999999999.0" in leftover(own)
        while "privbind.999999999.0" in leftover(own):
            assert own_cgroup.sweep(own.fd)


def run_in(tree: Tree, work: Callable[[], T]) -> T:
    def host() -> T:
        tree.enter()
        return work()

    return in_host(host)


def test_the_callers_cgroup_carries_no_program(tree: Tree) -> None:
    """What else is started where privbind was started gets nothing of the grant."""

    def work() -> tuple[list[int], str, str]:
        launch = prepared("tcp:80", limit=1)
        hooks = (calls.INET4_BIND, calls.INET6_BIND, calls.INET4_POST_BIND, calls.INET6_POST_BIND)
        ids = [number for hook in hooks for number in calls.query(launch._parent.fd, hook)[1]]
        found = outside(launch, lambda: try_bind(80)), as_command(lambda: try_bind(80))
        launch.cancel()
        return ids, *found

    assert run_in(tree, work) == ([], "EACCES", "ok")
