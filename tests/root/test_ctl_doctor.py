"""privbindctl doctor on simulated hosts: what it says is what a launch there does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..harness.filters import NEW_LISTENER, NOTIFY, REFUSE, filtered
from ..harness.host import AS_NOBODY, Host, Result

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")
ALL = dict.fromkeys(MECHANISMS, True)
NONE = dict.fromkeys(MECHANISMS, False)

MOUNTS = "findmnt --noheadings --raw --output TARGET --types cgroup2"
READ_ONLY = f'for point in $({MOUNTS}); do mount -o remount,bind,ro "$point"; done; exec "$@"'
ABSENT = f'for point in $({MOUNTS}); do umount "$point"; done; exec "$@"'

SIMULATED = {
    "as it is": ([], ALL, ""),
    "no CAP_BPF": (["setpriv", "--bounding-set=-bpf,-sys_admin"], ALL | {"bpf": False}, "CAP_BPF is missing"),
    "no CAP_NET_ADMIN": (["setpriv", "--bounding-set=-net_admin,-sys_admin"], ALL | {"bpf": False}, "CAP_NET_ADMIN"),
    "no CAP_SYS_ADMIN": (["setpriv", "--bounding-set=-sys_admin"], ALL, "only with --no-new-privs"),
    "no CAP_SYS_PTRACE": (["setpriv", "--bounding-set=-sys_ptrace"], ALL | {"seccomp": False}, "CAP_SYS_PTRACE"),
    "no CAP_NET_BIND_SERVICE": (
        ["setpriv", "--bounding-set=-net_bind_service"],
        NONE | {"bpf": True},
        "CAP_NET_BIND_SERVICE is missing",
    ),
    "no CAP_SETUID": (["setpriv", "--bounding-set=-setuid"], NONE, "CAP_SETUID missing"),
    "cgroups read-only": (
        ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh"],
        ALL | {"bpf": False},
        "cgroup v2 is mounted read-only",
    ),
    "no cgroups": (["unshare", "--mount", "sh", "-ec", ABSENT, "sh"], ALL | {"bpf": False}, "cgroup v2 is not mounted"),
    "a profile without bpf": (filtered("bpf", REFUSE), ALL | {"bpf": False}, "bpf(2) is not permitted"),
    "a profile without pidfd_getfd": (filtered("pidfd_getfd", REFUSE), ALL | {"seccomp": False}, "descriptors"),
    "a profile without seccomp": (filtered("seccomp", REFUSE), None, "seccomp(2) is not permitted"),
    "a listener": (
        filtered("landlock_restrict_self", NOTIFY, NEW_LISTENER),
        ALL | {"seccomp": False},
        "another listener",
    ),
    "a user namespace": (["unshare", "--user", "--map-root-user"], None, ""),
}
"""How each is made, which mechanisms it offers (None: only that doctor and launch agree), and what the doctor says."""


def ctl_of(host: Host) -> str:
    return str(Path(host.privbind).parent / "privbindctl")


def doctor(host: Host, *prefix: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON, started by the words before."""
    found = host.run([*prefix, ctl_of(host), "doctor", "--json"])
    assert found.err == "", found
    return found.status, json.loads(found.out)


def launches(host: Host, prefix: list[str], offer: dict[str, Any], *options: str) -> bool:
    """Whether privbind starts a command by that mechanism there."""
    more = [offer["condition"]] if offer["condition"] else []
    command = host.command(["true"], f"--via={offer['name']}", *more, *options)
    found = host.run([*prefix, *command])
    assert found.status in (0, 125), found
    return found.status == 0


@pytest.mark.parametrize("name", SIMULATED)
def test_what_it_says_is_what_a_launch_does(host: Host, name: str) -> None:
    """For each mechanism: whether it can be used, with a policy, with a limit; and the exit status."""
    prefix, expected, says = SIMULATED[name]
    status, found = doctor(host, *prefix)
    offers = {offer["name"]: offer for offer in found["mechanisms"]}
    assert tuple(offers) == MECHANISMS
    if expected is not None:
        assert {name: offer["usable"] for name, offer in offers.items()} == expected
    for offer in offers.values():
        assert launches(host, prefix, offer) == offer["usable"], offer
        assert launches(host, prefix, offer, "--allow=tcp:80") == offer["policy"], offer
        assert launches(host, prefix, offer, "--allow=tcp:80", "-n1") == (offer["policy"] and offer["limit"]), offer
        assert bool(offer["reason"]) == (not offer["limit"] or bool(offer["condition"])), offer
    assert status == (0 if any(offer["policy"] for offer in offers.values()) else 1)
    assert says in host.run([*prefix, ctl_of(host), "doctor"]).out


@pytest.mark.parametrize(
    ("start", "state", "says"),
    [
        (0, "empty", "no port (ip_unprivileged_port_start is 0): every program may bind every port here"),
        (1, "empty", "no port (ip_unprivileged_port_start is 1)"),
        (80, "lowered", "ports 1 to 79 (lowered: ip_unprivileged_port_start is 80, 1024 is usual"),
        (1024, "usual", "ports 1 to 1023\n"),
        (9000, "raised", "ports 1 to 8999 (raised: ip_unprivileged_port_start is 9000, 1024 is usual)\n"),
    ],
)
def test_reserved_ranges(installed: Path, start: int, state: str, says: str) -> None:
    """Of network namespaces that the test made; what the mechanisms offer is the same in all."""
    host = Host(installed, f"echo {start} >/proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        status, found = doctor(host)
        assert found["reserved"] == {"below": start, "state": state}
        assert {offer["name"]: offer["usable"] for offer in found["mechanisms"]} == ALL
        assert status == 0
        assert f"reserved   {says}" in host.run([ctl_of(host), "doctor"]).out
    finally:
        host.close()


def test_unprivileged(host: Host) -> None:
    """What cannot be told is null, and said; what can be told without privileges is told."""
    status, found = doctor(host, *AS_NOBODY)
    assert status == 1
    for offer in found["mechanisms"]:
        assert offer["usable"] is None
        assert "this user lacks CAP_SETUID" in offer["reason"]
        assert offer["policy"] is (False if offer["name"] == "ambient" else None)
    assert found["uid"] == 65534
    assert found["reserved"]["state"] == "usual"
    assert found["shim"]["loads"] is True
    assert found["cgroups"]["layout"] in ("hybrid", "unified")
    assert found["unseen"] == [
        "whether bpf, seccomp, preload, ambient can be used (run as root, as privbind is)",
        "standing grants (run as root, or ask for a user: privbindctl test USER RULE)",
    ]
    text = host.run([*AS_NOBODY, ctl_of(host), "doctor"])
    assert "not seen   whether bpf" in text.out


def test_unprivileged_where_a_mechanism_cannot_be_there(host: Host) -> None:
    """Without cgroups root would be refused as well: no, not unknown."""
    _, found = doctor(host, "unshare", "--mount", "sh", "-ec", ABSENT, "sh", *AS_NOBODY)
    offers = {offer["name"]: offer["usable"] for offer in found["mechanisms"]}
    assert offers == {"bpf": False, "seccomp": None, "preload": None, "ambient": None}
    assert found["cgroups"]["layout"] in ("legacy", "none")


def test_where_proc_is_not_mounted(host: Host) -> None:
    """Much cannot be seen then, and it says so."""
    hidden = 'mount -t tmpfs none /proc; exec "$@"'
    found = host.run(["unshare", "--mount", "sh", "-ec", hidden, "sh", ctl_of(host), "doctor", "--json"])
    if found.status == 125:  # the sh launcher needs /proc itself
        assert "mount /proc" in found.err
        return
    values = json.loads(found.out)
    assert values["reserved"] == {"below": None, "state": None}
    assert any("the reserved range" in line for line in values["unseen"])
    assert {offer["name"]: offer["usable"] for offer in values["mechanisms"]}["bpf"] is False


class Copy:
    """A copy of the package in a folder of its own, to be spoilt."""

    def __init__(self, folder: Path, host: Host) -> None:
        """Copy the package that the installed command uses."""
        shim = Path(doctor(host)[1]["shim"]["path"])
        self.package = folder / "copy/privbind"
        shutil.copytree(shim.parent.parent, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.shim = self.package / "_preload" / shim.name
        self._host = host
        self._folder = folder

    def run(self, *arguments: str) -> Result:
        """What its privbindctl does, as if it were in the folder."""
        code = "import sys; sys.path.append(sys.argv[1]); from privbind.commands.privbindctl import main; "
        code += "sys.exit(main(sys.argv[3:], sys.argv[2]))"
        argv = ["/usr/bin/python3", "-I", "-S", "-X", "utf8", "-c", code, self.package.parent, self._folder, *arguments]
        return self._host.run(argv)

    def preload(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What it says of the shim and of the mechanism that needs it."""
        found = json.loads(self.run("doctor", "--json").out)
        return found["shim"], next(offer for offer in found["mechanisms"] if offer["name"] == "preload")


@pytest.fixture
def copy(folder: Path, host: Host) -> Copy:
    """A copy of the package."""
    return Copy(folder, host)


def test_without_a_shim(copy: Copy) -> None:
    """preload is not there, and what to do is said."""
    copy.shim.unlink()
    shim, preload = copy.preload()
    assert (shim["built"], shim["loads"]) == (False, False)
    assert preload["usable"] is False
    assert preload["reason"] == "its shim was not built"
    assert "install a C compiler" in preload["remedy"]


@pytest.mark.parametrize("spoil", ["text", "truncated", "other machine", "needs what is not there"])
def test_a_shim_that_does_not_load(copy: Copy, folder: Path, spoil: str) -> None:
    """ld.so would only say so and go on; the doctor says no."""
    content = bytearray(copy.shim.read_bytes())
    if spoil == "text":
        content = bytearray(b"not a library")
    elif spoil == "truncated":
        del content[600:]
    elif spoil == "other machine":
        content[18] = 40
    else:
        source = folder / "x.c"
        source.write_text("int nowhere(void); int use(void) { return nowhere(); }\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-z,now", "-o", folder / "x.so", source], check=True)
        content = bytearray((folder / "x.so").read_bytes())
    copy.shim.write_bytes(content)
    shim, preload = copy.preload()
    assert shim["loads"] is False
    assert preload["usable"] is preload["policy"] is preload["limit"] is False
    assert preload["reason"]


def test_a_shim_that_loads(copy: Copy) -> None:
    """The negative control."""
    shim, preload = copy.preload()
    assert (shim["built"], shim["loads"], shim["reason"]) == (True, True, "")
    assert preload["usable"] is True


def test_an_installation_with_privileges(copy: Copy, folder: Path) -> None:
    """setuid, setgid and file capabilities are warned of; a plain one is not."""
    command = folder / "privbind"
    command.write_text("#!/bin/false\n")
    found = {}
    for name, mode in (("plain", 0o755), ("setuid", 0o4755), ("both", 0o6755)):
        command.chmod(mode)
        values = json.loads(copy.run("doctor", "--json").out)
        (found[name],) = (entry for entry in values["installed"] if entry["path"] == str(command))
    assert (found["plain"]["setuid"], found["plain"]["setgid"]) == (False, False)
    assert (found["setuid"]["setuid"], found["setuid"]["setgid"]) == (True, False)
    assert (found["both"]["setuid"], found["both"]["setgid"]) == (True, True)
    assert f"{command} is setuid and setgid: every user" in copy.run("doctor").out
    command.chmod(0o755)
    assert f"{command} (no privileges by itself" in copy.run("doctor").out


def test_it_finds_the_installed_command(host: Host) -> None:
    """The one beside it."""
    paths = [entry["path"] for entry in doctor(host)[1]["installed"]]
    assert any(Path(path).samefile(host.privbind) for path in paths)


def test_it_leaves_nothing_behind(host: Host) -> None:
    """No cgroup, and no process of its own."""
    points = subprocess.run(MOUNTS.split(), capture_output=True, text=True, check=True).stdout.split()
    process = host.popen([ctl_of(host), "doctor"], stdout=-1)
    process.communicate()
    assert process.returncode == 0
    left = [path for point in points for path in Path(point).rglob(f"privbind.{process.pid}.*")]
    assert left == []
