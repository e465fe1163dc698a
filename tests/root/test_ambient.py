"""ambient: the capability itself, for requests that ask for no less than all reserved ports."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ..harness.host import Host, python, read_line, status_of
from ..harness.install import PYTHON

NET_BIND_SERVICE = 1 << 10
BIND = "import socket; s = socket.socket(); s.bind(('127.0.0.1', {})); print('bound', flush=True)"


@pytest.mark.parametrize("program", ["trybind", "trybind-static", "trybind-musl", "trybind-musl-static"])
def test_any_reserved_port_from_any_program(host: Host, programs: Path, program: str) -> None:
    """Static ones and raw system calls too."""
    binds = ["tcp", "4", "127.0.0.1", "1", "udp", "6", "::1", "1023", "mptcp", "4", "0.0.0.0", "80"]
    for argv in ([programs / program, *binds], [programs / program, "-raw", *binds]):
        assert [line.split()[0] for line in host.granted(argv, "--via=ambient").ok().lines] == ["ok"] * 3
        assert host.plain(argv).lines == ["EACCES"] * 3


def test_one_capability_and_no_other_privilege(host: Host) -> None:
    """The exception to "no privilege is left" is one bit, in all sets but the bounding set."""
    process = host.start(python(BIND.format(80) + "; input()"), "--via=ambient", stdin=-1, stdout=-1)
    assert read_line(process) == "bound\n"
    status = status_of(process.pid)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == NET_BIND_SERVICE, name
    assert status["Uid"].split() == ["65534"] * 4
    process.communicate("\n")


def test_children_keep_it(host: Host) -> None:
    """Through exec, and with no_new_privs."""
    argv = ["sh", "-c", f'env A=1 /usr/bin/python3 -c "{BIND.format(80)}"; :']
    assert host.granted(argv, "--via=ambient").ok().out == "bound\n"
    assert host.granted(argv, "--via=ambient", "--no-new-privs").ok().out == "bound\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--allow=tcp:80"], "more than the policy grants"),
        (["-n1"], "-n cannot be kept"),
        (["-r80"], "-r cannot set SO_REUSEPORT"),
        (["-r8080"], "-r cannot set SO_REUSEPORT"),
    ],
)
def test_what_it_cannot_honour_exactly_it_refuses(host: Host, options: list[str], why: str) -> None:
    """It never grants more than was asked for."""
    found = host.granted(["true"], "--via=ambient", *options)
    assert found.status == 125
    assert why in found.err
    assert len(found.err.splitlines()) == 1


def test_where_the_capability_cannot_be_handed_on(host: Host) -> None:
    """Not in the bounding set, or ambient capabilities forbidden: one line that says so."""
    command = host.command(["true"], "--via=ambient")
    found = host.run(["setpriv", "--bounding-set=-net_bind_service", *command])
    assert found.status == 125
    assert "CAP_NET_BIND_SERVICE is missing" in found.err
    # What root has in the inheritable set, it keeps through exec, whatever the bounding set is.
    found = host.run(
        ["setpriv", "--inh-caps=+net_bind_service", "setpriv", "--bounding-set=-net_bind_service", *command]
    )
    assert found.status == 125
    assert "CAP_NET_BIND_SERVICE is missing in the bounding set" in found.err
    forbid = "import ctypes, os, sys; ctypes.CDLL(None).prctl(28, 1 << 6, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    found = host.run([*python(forbid), *command])
    assert found.status == 125
    assert "the securebits forbid ambient capabilities" in found.err


@pytest.mark.parametrize("gains", ["setuid", "file capabilities"])
def test_a_program_that_gains_privileges(host: Host, folder: Path, gains: str) -> None:
    """Executing it clears the capability; with --no-new-privs not if it is setuid, but still if it has others."""
    program = folder / "program"
    shutil.copy(PYTHON, program)
    if gains == "setuid":
        program.chmod(0o4755)
    else:
        subprocess.run(["setcap", "cap_chown=ep", program], check=True)
    bind = [program, "-I", "-c", BIND.format(80)]
    found = host.granted(bind, "--via=ambient")
    assert (found.status, found.out) == (125, "")
    assert f"'{program}': " in found.err
    assert found.err.endswith(", and executing it clears ambient capabilities\n")
    found = host.granted(bind, "--via=ambient", "--no-new-privs")
    assert (found.status, found.out) == ((0, "bound\n") if gains == "setuid" else (125, ""))


def test_it_says_that_it_is_wider(host: Host) -> None:
    """In the story that -v tells."""
    assert "wider than the other mechanisms" in host.granted(["true"], "--via=ambient", "-v").ok().err
