"""What this kernel offers: what doctor says and what auto takes, held against what is stated of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from privbind.linux import call, seccomp, sockets, target

from ...harness import seccomp_kills
from ...harness.forks import Failure, forked
from ...harness.guests.here import GUEST, ctl, stated
from ...harness.guests.stated import FEATURES
from ...harness.host import Host, python
from ...harness.needs import need

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What doctor says."""
    done = ctl("doctor", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", MECHANISMS)
def test_mechanism(report: dict[str, Any], name: str, record_property: Callable[[str, object], None]) -> None:
    """It is offered, with a policy and with a limit, exactly where it is stated to be, and else the reason is true."""
    (offer,) = (offer for offer in report["mechanisms"] if offer["name"] == name)
    found = tuple(offer[key] for key in ("usable", "policy", "limit"))
    told = f"{offer['reason']} ({offer['remedy']})" if offer["remedy"] else offer["reason"]
    record_property(f"offer:{name}", f"{''.join('-+'[bool(answer)] for answer in found)} {told}".strip())
    assert found == stated().mechanisms[name], offer
    reason, remedy = stated().why.get(name, ("", ""))
    assert reason in offer["reason"], offer
    assert remedy in offer["remedy"], offer


WANTED = {"policy": ["--allow", "tcp:80"], "limit": ["--allow", "tcp:80", "-n", "1"], "neither": []}


@pytest.mark.parametrize("what", WANTED)
def test_auto(host: Host, what: str, record_property: Callable[[str, object], None]) -> None:
    """Auto takes what is stated, and the bind works; or it refuses, and nothing was started."""
    wanted = stated().auto[list(WANTED).index(what)]
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print('bound')"
    assert "Permission denied" in host.plain(python(code)).err
    found = host.granted(python(code), "-v", *WANTED[what])
    taken = re.search(r"^privbind: mechanism: (\w+)", found.err, re.MULTILINE)
    record_property(f"auto:{what}", taken[1] if found.status == 0 and taken else "refused")
    if wanted:
        assert found.ok().lines == ["bound"]
        assert taken, found
        assert taken[1] == wanted, found
    else:
        assert (found.status, found.out) == (125, ""), found


def _landlock_version() -> int:
    try:
        return call.syscall("landlock_create_ruleset", 0, 0, 1)
    except OSError:
        return 0


def _waits_killably() -> bool:
    def install() -> bool:
        seccomp.install(seccomp.notify_binds(), 1 << 3 | 1 << 5)
        return True

    try:
        return forked(install)
    except Failure as failure:
        if "Invalid argument" in str(failure):
            return False
        raise


def _tells_of_pidfds() -> bool:
    fd = os.pidfd_open(os.getpid())
    try:
        fcntl.ioctl(fd, 0xC040FF0B, struct.pack("=Q56x", 4))  # PIDFD_GET_INFO, PIDFD_INFO_CGROUPID
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _has_netns_cookie() -> bool:
    try:
        sockets.netns_cookie()
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True


def _makes_sockets(kind: int, protocol: int) -> bool:
    try:
        socket.socket(socket.AF_INET, kind, protocol).close()
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            raise
        return False
    return True


def _has_sctp() -> bool:
    subprocess.run(["modprobe", "--quiet", "sctp"], check=False)
    return _makes_sockets(socket.SOCK_STREAM, 132)


PROBES: dict[str, Callable[[], bool]] = {
    "netns-cookie": _has_netns_cookie,
    "wait-killable": _waits_killably,
    "opens-threads": target.opens_threads,
    "landlock": lambda: _landlock_version() >= 1,
    "landlock-ports": lambda: _landlock_version() >= 4,
    "pidfd-info": _tells_of_pidfds,
    "mptcp": lambda: _makes_sockets(socket.SOCK_STREAM, 262),
    "udplite": lambda: _makes_sockets(socket.SOCK_DGRAM, 136),
    "sctp": _has_sctp,
}


@pytest.mark.parametrize("name", FEATURES)
def test_kernel(name: str, record_property: Callable[[str, object], None]) -> None:
    """What makes a difference to privbind is there exactly where it is stated to be."""
    there = PROBES[name]()
    record_property(f"kernel:{name}", "yes" if there else "no")
    assert there == (name in stated().kernel)


def test_it_is_the_kernel_that_is_meant() -> None:
    release = os.uname().release
    series = GUEST.rpartition("-")[0]
    assert series == "newest" or release.startswith(f"{series}.")
    need("setpriv", "unshare", "nsenter", "strace", "busybox", "setcap")


@pytest.mark.provokes_sigsys
def test_kills_by_seccomp_filters_are_noticed() -> None:
    """So that a helper which one of its own filters kills fails the run."""
    seccomp_kills.Reports().close()
