"""With how little privilege privbind works, and what it says when something is missing."""

from __future__ import annotations

import shlex

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import Host, python

BIND = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print(open('/proc/self/status').read())"
THREE = ("setuid", "setgid", "net_bind_service")

NEEDS = {"preload": THREE}
"""The capabilities that each mechanism needs when the caller is not root."""


def as_user_1000(*capabilities: str, bounding: bool = False) -> list[str]:
    """Start a program as uid 1000 with these as ambient capabilities, and no others permitted."""
    listed = ",".join(f"+{name}" for name in capabilities)
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    if listed:
        words += [f"--inh-caps=-all,{listed}", f"--ambient-caps=-all,{listed}"]
    if bounding:
        words.append(f"--bounding-set=-all{',' if listed else ''}{listed}")
    return words


def capabilities_of(status: str) -> dict[str, int]:
    """The five sets in a /proc/PID/status."""
    return {line.split()[0][:-1]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}


@pytest.mark.parametrize("user", ["nobody", "1000"])
@pytest.mark.parametrize("bounding", [False, True], ids=["full bounding set", "cut bounding set"])
@pytest.mark.parametrize("mechanism", [name for name in MECHANISMS if name in NEEDS])
def test_just_the_capabilities_it_uses_are_enough(host: Host, mechanism: str, bounding: bool, user: str) -> None:
    """As uid 1000 with ambient capabilities, which a change of uid does not clear: none is left in the command."""
    options = [f"--via={mechanism}", *(["-g", "1000"] if user == "1000" else [])]
    command = host.command(python(BIND), *options, user=user)
    found = host.run([*as_user_1000(*NEEDS[mechanism], bounding=bounding), *command]).ok()
    sets = capabilities_of(found.out)
    assert [sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    control = host.run([*as_user_1000(), *python(BIND)])
    assert "Permission denied" in control.err


@pytest.mark.parametrize("missing", THREE)
def test_the_one_that_is_missing_is_named(host: Host, missing: str) -> None:
    """One line that says which."""
    kept = [name for name in THREE if name != missing]
    command = host.command(["true"], "--via=preload")
    found = host.run([*as_user_1000(*kept, bounding=True), *command])
    assert found.status == 125
    assert f"CAP_{missing.upper()}" in found.err
    assert len(found.err.splitlines()) == 1
    for name in kept:
        assert f"CAP_{name.upper()}" not in found.err


def test_without_any_privilege(host: Host) -> None:
    """An ordinary user is told what to do."""
    found = host.plain(host.command(["true"], user="daemon"))
    assert found.status == 125
    assert found.err == (
        "privbind: cannot become daemon: CAP_SETUID and CAP_SETGID are missing (sudo privbind -u daemon -- true)\n"
    )


@pytest.mark.parametrize("mechanism", [name for name in MECHANISMS if name in NEEDS])
def test_in_a_container_with_just_those_capabilities(host: Host, mechanism: str) -> None:
    """Root with a bounding set of three, no CAP_SETPCAP, CAP_DAC_OVERRIDE or CAP_SYS_ADMIN, as containers have it."""
    listed = ",".join(f"+{name}" for name in NEEDS[mechanism])
    shell = f"exec setpriv --bounding-set=-all,{listed} --inh-caps=-all "
    command = host.command(python(BIND), f"--via={mechanism}", "-v")
    found = host.run(["sh", "-c", shell + shlex.join(command)]).ok()
    assert capabilities_of(found.out)["CapEff"] == 0


def in_user_namespace(flags: int, *argv: str) -> list[str]:
    """Run a program as root of a new user namespace that maps 65536 ids, and in other new namespaces."""
    code = (
        "import ctypes, os, sys\n"
        "r, w = os.pipe(); r2, w2 = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        " assert ctypes.CDLL(None).unshare(0x10000000 | int(sys.argv[1])) == 0\n"
        " os.write(w, b'x'); os.read(r2, 1)\n"
        " for fd in (r, w, r2, w2): os.close(fd)\n"
        " os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)\n"
        " os.execvp(sys.argv[2], sys.argv[2:])\n"
        "os.read(r, 1)\n"
        "for kind in ('uid', 'gid'):\n"
        " with open(f'/proc/{pid}/{kind}_map', 'w') as f: f.write('0 100000 65536')\n"
        "os.write(w2, b'x')\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    return python(code, str(flags), *argv)


CLONE_NEWNET = 0x40000000


def test_a_network_namespace_of_another_owner_is_refused(host: Host) -> None:
    """In a user namespace of its own privbind has every capability, but not over this network namespace."""
    found = host.run(in_user_namespace(0, *host.command(["true"], "--via=preload")))
    assert found.status == 125, found
    assert "this network namespace belongs to another user namespace" in found.err
    assert len(found.err.splitlines()) == 1, found


def test_in_a_user_namespace_with_a_network_namespace_of_its_own(host: Host) -> None:
    """A rootless container: ids that are mapped, and the right over its own network namespace."""
    code = BIND.replace("127.0.0.1", "0.0.0.0")
    show = ["sh", "-c", "cat /proc/self/uid_map; exec " + shlex.join(python(code))]
    found = host.run(in_user_namespace(CLONE_NEWNET, *host.command(show, "--via=preload"))).ok()
    assert found.lines[0].split() == ["0", "100000", "65536"]
    drop = ["setpriv", "--reuid=65534", "--clear-groups"]
    assert "Permission denied" in host.run(in_user_namespace(CLONE_NEWNET, *drop, *python(code))).err


def test_a_user_namespace_that_maps_no_id_for_the_helper(host: Host) -> None:
    """One mapped id is root's: neither the account nor a helper can be somebody else."""
    found = host.run(["unshare", "--user", "--map-root-user", "--net", *host.command(["true"], "-g0", user="1")])
    assert found.status == 125
    assert found.err == ("privbind: cannot look at files as daemon uid=1 gid=0 groups=0: Operation not permitted\n"), (
        found
    )


def test_setuid_installation_warns_loudly_and_goes_on(host: Host) -> None:
    """Real and effective ids differ: one line, then the launch."""
    other = "import os, sys; os.setresuid(1000, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    found = host.run([*python(other), *host.command(["id", "-u"], "--via=preload")]).ok()
    assert found.out == "65534\n"
    assert found.err.startswith("privbind: WARNING: privbind is installed setuid or setgid")
    assert len(found.err.splitlines()) == 1
    group = "import os, sys; os.setresgid(1000, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    assert "WARNING" in host.run([*python(group), *host.command(["id", "-u"], "--via=preload")]).ok().err
    assert host.granted(["id", "-u"], "--via=preload").ok().err == ""
