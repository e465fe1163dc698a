"""Programs that do what programs do: threads, processes, daemons, signals, games with descriptors, and attacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import Host, python, table
from ..harness.needs import need
from ..harness.patience import fewer, period_us

pytestmark = pytest.mark.parametrize("mechanism", MECHANISMS)

LIBRARIES = ("", "-musl")
"""How a program is linked: with glibc or with musl, dynamically."""


def run(host: Host, mechanism: str, argv: Sequence[object], *options: str) -> dict[str, str]:
    """What a program printed under privbind, after the control that it is refused without."""
    if "musl" in str(argv[0]):
        need("musl-gcc")
    return table(host.granted(argv, f"--via={mechanism}", *options).ok())


@pytest.mark.parametrize("library", LIBRARIES)
def test_16_threads_with_50_binds_each(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """All at once, each socket checked with getsockname."""
    argv = [programs / f"threads{library}", "16", "50"]
    assert run(host, mechanism, argv) == {"ok": "800"}
    assert table(host.plain(argv)) == {"EACCES": "800"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_8_processes_with_50_binds_each(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """All at once, each socket checked with getsockname."""
    argv = [programs / f"procs{library}", "8", "50"]
    assert run(host, mechanism, argv) == {"ok": "400"}
    assert table(host.plain(argv)) == {"EACCES": "400"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_vfork_and_exec(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """In the vfork child, in what it execs, and in the parent afterwards."""
    argv = [programs / f"vforkexec{library}"]
    assert set(run(host, mechanism, argv).values()) == {"ok"}
    assert set(table(host.plain(argv)).values()) == {"EACCES"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_daemon(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """That forks twice and closes every descriptor that it knows of."""
    argv = [programs / f"daemon{library}"]
    assert run(host, mechanism, argv) == {"ok": ""}
    assert table(host.plain(argv)) == {"EACCES": ""}


def test_grandchildren(host: Host, programs: Path, mechanism: str) -> None:
    """Through shells and env, which exec."""
    argv = ["sh", "-c", f"env A=1 sh -c '{programs}/trybind tcp 4 127.0.0.1 80; :'; :"]
    assert run(host, mechanism, argv) == {"ok": "127.0.0.1 80"}
    assert table(host.plain(argv)) == {"EACCES": ""}


LOST_TO_RAW_CALLS = {"raw-close", "raw-close-range", "raw-dup3"}
"""What a library cannot see, so preload loses its channel; and the number that was then reused is left alone."""


@pytest.mark.parametrize("limit", [16, 1024])
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_programs_do_to_descriptors(host: Host, programs: Path, mechanism: str, library: str, limit: int) -> None:
    """Close loops, close_range, closefrom, dup2 onto every number, close-on-exec, posix_spawn file actions."""
    if library:
        need("musl-gcc")
    limited = ["sh", "-c", f'ulimit -Sn {limit}; exec "$@"', "sh"]
    found = table(host.run([*limited, *host.command([programs / f"closers{library}"], f"--via={mechanism}")]).ok())
    expected = {}
    for case in found:
        lost = case.removesuffix("-exec") in LOST_TO_RAW_CALLS or case == "reused"
        expected[case] = "EACCES" if lost and mechanism == "preload" else "ok"
    for case in ("dup2-all", "dup2-all-exec"):  # leaves no number free, and a forwarded bind needs two
        expected[case] = found[case] if mechanism == "preload" else "ok"
        assert found[case] in ("ok", "EACCES")
    missing = {case for case, result in found.items() if result == "missing"}
    assert {case: result for case, result in found.items() if case not in missing} == {
        case: result for case, result in expected.items() if case not in missing
    }
    assert library or not missing


@pytest.mark.parametrize("library", LIBRARIES)
def test_with_few_descriptors_free(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """preload needs two free numbers for the length of a bind; with fewer it is EACCES, never a hang."""
    if library:
        need("musl-gcc")
    limited = ["sh", "-c", 'ulimit -n 16; exec "$@"', "sh"]
    argv = [*limited, *host.command([programs / f"fullfds{library}"], f"--via={mechanism}")]
    few = "EACCES" if mechanism == "preload" else "ok"
    assert table(host.run(argv).ok()) == {"0": few, "1": few, "2": "ok", "3": "ok", "4": "ok"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_signals_during_binds(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """A timer without SA_RESTART, whose handler binds too: every bind gives what it gives natively.

    But under seccomp bind is a call that waits, so that a signal may end it with EINTR.
    """
    if library:
        need("musl-gcc")
    # bpf answers at once, on a slow machine as well.
    count, period = (2000, "1000") if mechanism == "bpf" else (fewer(2000), period_us(1000))
    found = table(host.granted([programs / f"signals{library}", str(count), period], f"--via={mechanism}"))
    interrupted = int(found.pop("EINTR", "0")) if mechanism == "seccomp" else 0
    assert int(found.pop("ok")) + interrupted == count
    assert set(found) - {"more-ok", *(["more-EINTR"] if mechanism == "seccomp" else [])} == {"handler-ok"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_fork_while_another_thread_binds(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """Neither hangs, and the child can bind."""
    found = run(host, mechanism, [programs / f"forkthread{library}", "50"])
    assert found.pop("child-ok") == "50"
    assert set(found) == {"ok"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_process_killed_during_a_bind(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """The answers of the others stay their own."""
    assert run(host, mechanism, [programs / f"killed{library}", "100"]) == {"ok": "100"}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("program", ["efault", "errnokeep"])
def test_bad_pointers_lengths_and_errno_as_root_has_them(
    host: Host, programs: Path, mechanism: str, library: str, program: str
) -> None:
    """Every odd address and every errno is what root gets natively.

    But one under seccomp: a thread that binds a socket anew as it has just bound it hears again that it is bound.
    """
    argv = [programs / f"{program}{library}"]
    expected = table(host.run(argv).ok())
    if (mechanism, program) == ("seccomp", "errnokeep"):
        assert expected["again"] == "EINVAL"
        expected["again"] = "kept"  # 0, that is
    assert run(host, mechanism, argv) == expected


@pytest.mark.parametrize("library", LIBRARIES)
def test_binders_of_libc(host: Host, programs: Path, mechanism: str, library: str) -> None:
    """rresvport, rresvport_af and bindresvport find ports as they do for root."""
    argv = [programs / f"rresvport{library}"]
    ours = run(host, mechanism, argv)
    roots = table(host.run(argv).ok())
    # bindresvport starts at a port that depends on the pid.
    for found in (ours, roots):
        for case in ("bindresvport", "address"):
            found[case] = " ".join(found[case].split()[:1])
    # musl has none of them; a program that asks for them by name at run time finds the shim's, which is no harm.
    known = {case: result for case, result in roots.items() if result != "missing"}
    assert {case: ours[case] for case in known} == known
    assert library or "rresvport" in known


FOREIGN = """
import os, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
try:
    sock.bind(("127.0.0.1", 80))
    print("bound")
except PermissionError:
    print("refused")
"""


def test_a_socket_of_another_network_namespace_is_refused(host: Host, installed: Path, mechanism: str) -> None:
    """The grant is for the namespace of the launch, whatever socket the command gets hold of."""
    other = Host(installed)
    try:
        make = (
            "import ctypes, os, socket, sys\n"
            "here = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
            f"there = os.open('/proc/{other.pid}/ns/net', os.O_RDONLY)\n"
            "assert ctypes.CDLL(None).setns(there if sys.argv[1] == 'other' else here, 0) == 0\n"
            "sock = socket.socket()\n"
            "assert ctypes.CDLL(None).setns(here, 0) == 0\n"
            "os.dup2(sock.fileno(), 9)\n"
            "os.execv(sys.argv[2], sys.argv[2:])\n"
        )
        command = host.command(python(FOREIGN, "9"), f"--via={mechanism}")
        assert host.run([*python(make), "other", *command]).ok().out == "refused\n"
        if mechanism != "bpf":  # whose hook follows the cgroup in which the socket was made, which is the caller's here
            assert host.run([*python(make), "same", *command]).ok().out == "bound\n"
    finally:
        other.close()
