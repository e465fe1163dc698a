"""What standing grants are refused for: one line that says what, where and what to do; what was in force stays."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privbind.errors import PrivbindError
from privbind.linux import bpf
from privbind.standing import load, table

from ..harness.filters import REFUSE, filtered
from ..harness.forks import Failure
from ..harness.host import Result
from ..harness.standing import ALICE, CGROUP_MOUNTS, GRANTS, StandingHost, foreign_program, put

GOOD = '[[grant]]\nuser = "alice"\nallow = "tcp:80"\n'
FILE = f"{GRANTS}/bad.toml"
IN_FORCE = {f"uid {ALICE}": ("tcp:80",)}


@pytest.fixture(scope="module")
def shared(installed: Path) -> Iterator[StandingHost]:
    host = StandingHost(installed)
    try:
        host.load(GOOD)
        yield host
    finally:
        host.close()


@pytest.fixture
def host(shared: StandingHost) -> Iterator[StandingHost]:
    """A host with a grant in force, which is in force afterwards whatever a test has tried."""
    yield shared
    shared.clear()
    os.chown(shared.grants, 0, 0)
    shared.grants.chmod(0o755)
    shared.write(GOOD)
    assert shared.in_force() == IN_FORCE


def refused(found: Result, line: str) -> None:
    """Check the one line and the exit status."""
    assert (found.status, found.out, found.err) == (125, "", f"privbindctl: {line}\n")


ENTRY = '[[grant]]\nuser = "alice"\n'
TEXTS = {
    "not TOML": ("[[grant]]\nuser = alice\n", ":2: not TOML: Invalid value at column 8 (see privbind-grants(5))"),
    "an unfinished string": ('[[grant]]\nuser = "al', ":2: not TOML: "),
    "an unknown key": (f'{ENTRY}allow = "80"\nports = 3\n', ":1: unknown key 'ports' (did you mean allow?)"),
    "an unknown table": ('[grants]\nuser = "alice"\n', ":1: unknown key 'grants' (a grant begins with [[grant]])"),
    "a wrong type": (f"{ENTRY}allow = 80\n", ":1: allow: the number 80 is not a rule"),
    "no rule": (ENTRY, ":1: allow is missing or empty"),
    "an empty rule": (f"{ENTRY}allow = []\n", ":1: allow is missing or empty"),
    "nobody": ('[[grant]]\nallow = "tcp:80"\n', ":1: it is nobody's grant"),
    "empty lists": ('[[grant]]\nuser = []\ngroup = []\nallow = "80"\n', ":1: it is nobody's grant"),
    "root": ('\n[[grant]]\nuser = "root"\nallow = "80"\n', ":2: user: root may bind every port without a grant"),
    "uid 0": ('[[grant]]\nuser = 0\nallow = "80"\n', ":1: user: root may bind every port"),
    "group 0": ('[[grant]]\ngroup = 0\nallow = "80"\n', ":1: group: group 0 cannot hold a grant"),
    "a uid out of range": ('[[grant]]\nuser = 4294967295\nallow = "80"\n', ":1: user: 4294967295 is not a uid"),
    "a bad rule": (f'{ENTRY}allow = "tcp:0"\n', ":1: rule 'tcp:0': "),
    "a rule that --allow refuses": (f'{ENTRY}allow = "tcp:10.0.0.1/8:80"\n', ":1: rule 'tcp:10.0.0.1/8:80': "),
    "an unknown service": (f'{ENTRY}allow = "tcp:nosuch"\n', ":1: "),
    "subids that are no answer": (
        f'{ENTRY}allow = "80"\nsubids = "yes"\n',
        ":1: subids: text is neither true nor false",
    ),
}
ACTIONS = {
    "load": ["load"],
    "dry run": ["load", "--dry-run"],
    "check": ["check"],
    "diff": ["check", "--diff"],
    "allow": ["allow", "bob", "tcp:81"],
    "disallow": ["disallow", "alice"],
}


@pytest.mark.parametrize(("text", "line"), TEXTS.values(), ids=TEXTS)
def test_what_a_file_may_not_say(host: StandingHost, text: str, line: str) -> None:
    """File and line number, and what to do; for whatever reads the files."""
    host.write(text, "bad.toml")
    said = set()
    for words in ACTIONS.values():
        found = host.ctl(*words)
        assert (found.status, found.out) == (125, ""), found
        assert found.err.count("\n") == 1
        assert found.err.startswith(f"privbindctl: {FILE}{line}"), found
        said.add(found.err)
    assert len(said) == 1
    assert sorted(path.name for path in host.grants.iterdir()) == ["bad.toml", "test.toml"]


def not_roots(path: Path) -> None:
    os.chown(path, ALICE, 0)


def symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("test.toml")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another owner": (not_roots, f"{FILE}: it belongs to uid {ALICE}, not to root (chown 0 {FILE})"),
    "writable by the group": (
        lambda path: path.chmod(0o664),
        f"{FILE}: others than its owner may write it: its mode is 0664 (chmod go-w {FILE})",
    ),
    "writable by all": (
        lambda path: path.chmod(0o646),
        f"{FILE}: others than its owner may write it: its mode is 0646 (chmod go-w {FILE})",
    ),
    "a symbolic link": (symlink, f"{FILE}: it is a symbolic link (put the file itself there)"),
    "a pipe": (fifo, f"{FILE}: it is not a regular file (put a plain file there, or remove it)"),
    "too large": (
        lambda path: path.write_bytes(b"#" * ((1 << 20) + 1)),
        f"{FILE}: it is larger than 1048576 bytes (split it into several files)",
    ),
    "not UTF-8": (
        lambda path: path.write_bytes(b"# a\n# \xff\n"),
        f"{FILE}:2: byte 0xff is not UTF-8 (save the file as UTF-8)",
    ),
    "a folder that is not root's": (
        lambda path: not_roots(path.parent),
        f"{GRANTS}: it belongs to uid {ALICE}, not to root (chown 0 {GRANTS})",
    ),
    "a folder that others may write": (
        lambda path: path.parent.chmod(0o777),
        f"{GRANTS}: others than its owner may write it: its mode is 0777 (chmod go-w {GRANTS})",
    ),
}


@pytest.mark.parametrize(("spoil", "line"), FILES.values(), ids=FILES)
def test_files_that_are_not_to_be_trusted(host: StandingHost, spoil: Callable[[Path], object], line: str) -> None:
    """None of them is read, nor waited for, by any command."""
    spoil(host.write(GOOD, "bad.toml"))
    for words in ACTIONS.values():
        refused(host.ctl(*words), line)


def test_names_that_nobody_knows_are_a_warning_and_all_else_holds(standing: StandingHost) -> None:
    standing.write('[[grant]]\nuser = ["alice", "nosuch", 4999]\ngroup = "nosuch"\nallow = "tcp:80"\n', "bad.toml")
    found = standing.ctl("load").ok()
    assert found.err.splitlines() == [
        f"privbindctl: warning: {FILE}:1: unknown user 'nosuch': left out until a load that finds the name",
        f"privbindctl: warning: {FILE}:1: no user has the number 4999: whoever gets it next has this grant",
        f"privbindctl: warning: {FILE}:1: unknown group 'nosuch': left out until a load that finds the name",
    ]
    assert standing.in_force() == IN_FORCE | {"uid 4999": ("tcp:80",)}


def test_root_is_left_out_of_a_group(standing: StandingHost) -> None:
    """It is listed as a member; so is a name that nobody has."""
    standing.write('[[grant]]\ngroup = "web"\nallow = "tcp:80"\n', "bad.toml")
    found = standing.ctl("load").ok()
    assert found.err == (
        f"privbindctl: warning: {FILE}:1: group web has an unknown member 'gone': left out until a load that finds the "
        "name\n"
    )
    force = standing.in_force()
    assert force is not None
    assert sorted(force) == ["gid 4033", "uid 4003", "uid 4004"]


def test_more_networks_than_fit(host: StandingHost) -> None:
    rules = ", ".join(f'"tcp:10.0.0.{number}:80"' for number in range(table.MAX_NETWORKS + 1))
    host.write(f"{ENTRY}allow = [{rules}]\n", "bad.toml")
    line = "has rules for 65 addresses or networks of IPv4, and 64 fit (name networks instead of their addresses)"
    refused(host.ctl("load"), f"uid {ALICE} {line}")


def test_more_holders_than_fit(host: StandingHost) -> None:
    """The subordinate uids of alice are all that there are."""
    (host.etc / "subuid").write_text("alice:1:4294967294\n")
    try:
        host.write(f'{ENTRY}allow = "80"\nsubids = true\n', "bad.toml")
        refused(
            host.ctl("load"),
            "the kernel's table takes 1000000 entries, and the grants need more than that "
            "(they are for users, groups and blocks of subordinate uids: name fewer)",
        )
    finally:
        (host.etc / "subuid").write_text("")


WITHOUT_CGROUPS = [
    "unshare",
    "--mount",
    "sh",
    "-ec",
    f'for p in $({CGROUP_MOUNTS}); do umount -l "$p"; done; exec "$@"',
    "sh",
]
CAPABILITIES = {
    "none": "--bounding-set=-bpf,-net_admin,-sys_admin",
    "no CAP_SYS_ADMIN": "--bounding-set=-sys_admin",
    "CAP_BPF and CAP_NET_ADMIN alone": "--bounding-set=-all,+bpf,+net_admin,+dac_override",
}


def test_without_cgroups(host: StandingHost) -> None:
    """Neither a cgroup is found nor the root."""
    refused(host.ctl("load", prefix=WITHOUT_CGROUPS), f"cannot open '{host.cgroup}': No such file or directory")
    refused(
        host.run([*WITHOUT_CGROUPS, host.ctl_path, "load"]),
        "cgroup v2 is not mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup)",
    )


def test_in_a_cgroup_namespace(host: StandingHost) -> None:
    """The root of the host cannot be seen there."""
    for words in (["load"], ["unload"], ["check", "--diff"], ["allow", "bob", "tcp:80"]):
        refused(
            host.ctl_in_a_cgroup_namespace(*words),
            "the root of cgroup v2 cannot be seen from this cgroup namespace "
            "(load on the host, or name a cgroup with --cgroup)",
        )


@pytest.mark.parametrize("directory", ["/etc", "/sys/fs/cgroup/memory"])
def test_a_directory_that_is_no_cgroup(host: StandingHost, directory: str) -> None:
    if not Path(directory).exists():
        pytest.skip("no cgroup v1 here")
    for word in ("load", "unload"):
        refused(
            host.run([host.ctl_path, word, f"--cgroup={directory}"]),
            f"'{directory}' is no cgroup (name a directory of a cgroup v2 mount)",
        )


def test_a_cgroup_that_is_not_there_or_no_directory(host: StandingHost) -> None:
    for place, why in ((f"{host.cgroup}/nosuch", "No such file or directory"), ("/etc/passwd", "Not a directory")):
        refused(host.run([host.ctl_path, "load", f"--cgroup={place}"]), f"cannot open '{place}': {why}")


@pytest.mark.parametrize("option", CAPABILITIES.values(), ids=CAPABILITIES)
def test_without_capabilities(host: StandingHost, option: str) -> None:
    """What is missing is said, also where others are there."""
    host.write(GOOD.replace("80", "81"), "bad.toml")
    for word in ("load", "unload"):
        refused(
            host.ctl(word, prefix=["setpriv", option]),
            f"cannot see the programs on cgroup '{host.cgroup}': CAP_SYS_ADMIN is missing (run as root on the host)",
        )


def test_a_first_load_without_capabilities(standing: StandingHost) -> None:
    """Where there is no program yet it is the verifier that refuses ours."""
    standing.write(GOOD)
    refused(
        standing.ctl("load", prefix=["setpriv", "--bounding-set=-all,+bpf,+net_admin,+dac_override"]),
        f"cannot load the grants for cgroup '{standing.cgroup}': CAP_SYS_ADMIN is missing (run as root on the host)",
    )
    assert standing.programs() == [[], []]


def test_with_two_capabilities(standing: StandingHost) -> None:
    """What the units have is enough to load, to replace, to show and to unload."""
    alone = ["setpriv", "--bounding-set=-all,+sys_admin,+net_admin"]
    for port in ("80", "81"):
        standing.write(GOOD.replace("80", port))
        assert standing.ctl("load", prefix=alone).ok().out.startswith("loaded: ")
        assert standing.ctl("check", "--diff", prefix=alone).ok().lines == ["a load would change nothing"]
        assert standing.in_force() == {f"uid {ALICE}": (f"tcp:{port}",)}
    standing.ctl("unload", prefix=alone).ok()
    assert standing.programs() == [[], []]


def test_an_ordinary_user(host: StandingHost) -> None:
    for word in ("load", "unload"):
        argv = [host.ctl_path, word, f"--cgroup={host.cgroup}"]
        found = host.as_user("alice", argv)
        assert (found.status, found.out) == (125, "")
        assert found.err == (
            "privbindctl: cannot open '/run/privbind.lock', which keeps two loads apart: Permission denied "
            "(run this as root)\n"
        )
    found = host.as_user("alice", [host.ctl_path, "allow", "alice", "tcp:81", f"--cgroup={host.cgroup}"])
    assert (found.status, found.out) == (125, "")
    assert found.err.startswith("privbindctl: cannot write /etc/privbind/grants.d/user-alice.toml: ")
    assert found.err.endswith("(run this as root)\n")


def test_when_bpf_is_not_permitted(host: StandingHost) -> None:
    """By a container manager's profile, for instance."""
    host.write(GOOD.replace("80", "81"), "bad.toml")
    found = host.ctl("load", prefix=filtered("bpf", REFUSE))
    assert (found.status, found.out, found.err.count("\n")) == (125, "", 1)
    assert found.err.startswith(
        f"privbindctl: cannot see the programs on cgroup '{host.cgroup}': bpf(2) is not permitted"
    )


@pytest.mark.parametrize("number", range(0, 30, 2))
def test_when_the_kernel_refuses_a_step(host: StandingHost, number: int) -> None:
    """And all after it (lockdown, a security module): one line, and the old set is in force."""

    def run() -> tuple[str, int]:
        real, made = bpf._call, itertools.count()

        def call(command: int, attributes: bytearray) -> int:
            if next(made) >= number:
                raise PermissionError(1, "Operation not permitted")
            return real(command, attributes)

        with host.target() as target:
            bpf._call = call
            try:
                put(target, "tcp:81")
            except PrivbindError as error:
                return str(error), next(made)
        return "loaded", next(made)

    found, calls = host.inside(run)
    if calls <= number:
        assert found == "loaded"
        host.ctl("load").ok()
    else:
        assert found.startswith("cannot ")
        assert "\n" not in found
        assert host.in_force() == IN_FORCE


def attached(host: StandingHost, flags: int, count: int) -> None:
    """Put programs of another's on the cgroup of a host; inside only."""
    real = bpf.ALLOW_MULTI
    bpf.ALLOW_MULTI = flags
    try:
        for _ in range(count):
            fd = foreign_program()
            bpf.attach(host.tree.fd, fd, bpf.INET4_BIND)
            os.close(fd)
    finally:
        bpf.ALLOW_MULTI = real


@pytest.mark.parametrize("flags", [0, bpf.ALLOW_OVERRIDE])
def test_a_program_that_forbids_any_other(standing: StandingHost, flags: int) -> None:
    standing.inside(lambda: attached(standing, flags, 1))
    standing.write(GOOD)
    refused(
        standing.ctl("load"),
        f"cannot load the grants for cgroup '{standing.cgroup}': a program on it forbids any other "
        "(attach that one with BPF_F_ALLOW_MULTI)",
    )
    assert standing.programs() == [["somebody_elses"], []]


def test_a_program_above_that_forbids_any_other(standing: StandingHost) -> None:
    """On a cgroup between the test's and ours."""
    standing.tree.make("below")
    standing.inside(lambda: attached(standing, 0, 1))
    standing.write(GOOD)
    found = standing.run([standing.ctl_path, "load", f"--cgroup={standing.cgroup}/below"])
    assert (found.status, found.out, found.err.count("\n")) == (125, "", 1)
    assert found.err.endswith(
        "/below': a program above it forbids any other (attach that one with BPF_F_ALLOW_MULTI)\n"
    ), found
    assert standing.programs() == [["somebody_elses"], []]


def test_as_many_programs_as_the_kernel_takes(standing: StandingHost) -> None:
    """64 of others' are there already: nothing of ours stays beside them."""
    standing.inside(lambda: attached(standing, bpf.ALLOW_MULTI, 64))
    standing.write(GOOD)
    refused(
        standing.ctl("load"),
        f"cannot load the grants for cgroup '{standing.cgroup}': 64 programs are on it already "
        "(bpftool cgroup show tells which)",
    )
    assert standing.programs() == [["somebody_elses"] * 64, []]


def test_a_lock_that_another_holds(host: StandingHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, but not for ever."""
    monkeypatch.setattr(load, "_PATIENCE_S", 0)

    def run() -> None:
        with Path(load.LOCK).open("w") as held, host.target() as target:
            fcntl.flock(held, fcntl.LOCK_EX)
            put(target, "tcp:81")

    with pytest.raises(Failure) as caught:
        host.inside(run)
    assert str(caught.value) == (
        "PrivbindError: another load has held '/run/privbind.lock' for 0 seconds "
        "(fuser /run/privbind.lock tells which process)"
    )


def test_a_lock_that_others_can_open(host: StandingHost) -> None:
    """Whoever can open it can keep all loads out, so it is refused; a link is not followed, whatever the umask."""

    def run(prepare: Callable[[Path], object]) -> str:
        path = Path(load.LOCK)
        path.unlink(missing_ok=True)
        prepare(path)
        try:
            with host.target() as target:
                put(target, "tcp:80")
            return f"loaded, {path.stat().st_mode & 0o7777:o}"
        except PrivbindError as error:
            return str(error)
        finally:
            path.unlink(missing_ok=True)

    def owned(path: Path) -> None:
        path.touch(0o600)
        os.chown(path, ALICE, 0)

    def readable(path: Path) -> None:
        path.touch()
        path.chmod(0o644)

    open_to_others = "'/run/privbind.lock' is open to others than root (remove it)"
    assert host.inside(lambda: run(owned)) == open_to_others
    assert host.inside(lambda: run(readable)) == open_to_others
    assert "Too many levels of symbolic links" in host.inside(lambda: run(lambda path: path.symlink_to("/etc/passwd")))
    assert host.inside(lambda: run(lambda _: os.umask(0))) == "loaded, 600"
    assert host.inside(lambda: run(lambda _: os.umask(0o777))) == "loaded, 0"
    host.ctl("load").ok()


COMMANDS = {
    "nobody": (["allow"], "allow: no user given (privbindctl allow USER RULE... or --group GROUP)"),
    "no rule": (["allow", "alice"], "no rule given: what may user alice bind? (for example tcp:80)"),
    "no rule for a group": (
        ["allow", "--group", "web"],
        "no rule given: what may group web bind? (for example tcp:80)",
    ),
    "an unknown user": (
        ["allow", "nosuch", "tcp:80"],
        f"unknown user nosuch (for one that does not exist yet, write the grant by hand into {GRANTS})",
    ),
    "a bad rule": (
        ["allow", "alice", "tcp:65536"],
        "rule 'tcp:65536': port '65536' is not a whole number from 1 to 65535",
    ),
    "a path": (
        ["allow", "../alice", "tcp:80"],
        f"user '../alice' cannot be part of a file's name (write the grant by hand into {GRANTS})",
    ),
    "a line break": (
        ["allow", "a\nb", "tcp:80"],
        f"user 'a\\x0ab' cannot be part of a file's name (write the grant by hand into {GRANTS})",
    ),
    "nothing to take back": (
        ["disallow", "bob"],
        "user bob has no grant by privbindctl allow, nor any other (privbindctl check)",
    ),
    "by hand": (
        ["disallow", "alice"],
        f"user alice has no grant by privbindctl allow; others are in {GRANTS}/test.toml:1 (edit them there)",
    ),
    "test without a rule": (["test", "alice"], "test: which user, and what? (privbindctl test USER RULE)"),
    "test of an unknown user": (["test", "nosuch", "80"], None),
    "test of a bad rule": (["test", "alice", "tcp:x:y"], None),
    "test of root": (["test", "root", "80"], None),
}


@pytest.mark.parametrize(("words", "line"), COMMANDS.values(), ids=COMMANDS)
def test_what_is_no_command(host: StandingHost, words: list[str], line: str | None) -> None:
    found = host.ctl(*words)
    if line is not None:
        refused(found, line)
    assert (found.status, found.out, found.err.count("\n")) == (125, "", 1), found
    assert [path.name for path in host.grants.iterdir()] == ["test.toml"]


def test_only_root_asks_for_others(host: StandingHost) -> None:
    found = host.as_user("bob", [host.ctl_path, "test", "alice", "tcp:80"])
    assert (found.status, found.out) == (125, "")
    assert found.err == "privbindctl: test: only root can ask for alice (sudo privbindctl test alice tcp:80)\n"
    assert host.as_user("alice", [host.ctl_path, "test", "alice", "tcp:80"]).status == 0
