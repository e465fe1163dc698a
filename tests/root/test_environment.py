"""The command's environment is the caller's, byte for byte, but for the two entries that preload documents."""

from __future__ import annotations

import os
import signal

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import Host, read_line

pytestmark = pytest.mark.parametrize("mechanism", MECHANISMS)

EXEC = b"""
import ctypes, sys
libc = ctypes.CDLL(None)
def vector(words):
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)
entries = sys.stdin.buffer.read().split(b"\\0")[:-1]
argv = [word.encode() for word in sys.argv[1:]]
libc.execve(argv[0], vector(argv), vector(entries))
raise SystemExit("execve failed")
"""

ENVIRONMENTS = {
    "none": [],
    "ordinary": [b"PATH=/usr/bin:/bin", b"HOME=/root", b"LANG=en_US.UTF-8", b"LC_ALL=C.UTF-8"],
    "no locale": [b"A=1"],
    "C locale": [b"LC_ALL=C", b"A=1"],
    "POSIX locale": [b"LC_ALL=POSIX"],
    "Latin-1 locale": [b"LC_ALL=de_DE.ISO-8859-1"],
    "duplicates": [b"A=1", b"A=2", b"PATH=/usr/bin", b"PATH=/nonexistent", b"A=1"],
    "without =": [b"A", b"", b"=", b"=x", b"B="],
    "not UTF-8": [b"A=\xff\xfe", b"\x80=\x80", b"caf\xe9=caf\xc3\xa9"],
    "Python's": [b"PYTHONPATH=/x", b"PYTHONHOME=/x", b"PYTHONUTF8=0", b"PYTHONCOERCECLOCALE=warn", b"LC_CTYPE=C"],
    "large": [b"A%d=" % number + b"x" * 1000 for number in range(500)],
}


def preload_changes(entries: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The entries without what preload documents, and those."""
    ours = [entry for entry in entries if entry.startswith((b"LD_PRELOAD=", b"PRIVBIND_CHANNEL="))]
    return [entry for entry in entries if entry not in ours], ours


@pytest.mark.parametrize("entries", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_environment_to_the_byte(host: Host, mechanism: str, entries: list[bytes]) -> None:
    """Order, duplicates and bytes: all as the caller had them."""
    # A program that shows its own /proc/self/environ, which the kernel keeps as execve(2) got it.
    process = host.popen(
        [
            "/usr/bin/python3",
            "-I",
            "-c",
            EXEC.decode(),
            *host.command(["/bin/cat", "/proc/self/environ"], f"--via={mechanism}"),
        ],
        stdin=-1,
        stdout=-1,
        stderr=-1,
        text=False,
    )
    out, err = process.communicate(b"".join(entry + b"\0" for entry in entries), timeout=60)
    assert process.returncode == 0, err
    rest, ours = preload_changes(out.split(b"\0")[:-1])
    assert rest == entries
    assert len(ours) == (2 if mechanism == "preload" else 0)


def test_other_preloaded_libraries_stay_behind_the_shim(host: Host, mechanism: str) -> None:
    """LD_PRELOAD keeps what the caller had, as whole names, after the shim; a stale channel is replaced."""
    caller = {**os.environ, "LD_PRELOAD": "/lib/x86_64-linux-gnu/libm.so.6 /x:/y", "PRIVBIND_CHANNEL": "5:abc"}
    found = host.granted(["/usr/bin/env"], f"--via={mechanism}", env=caller).ok()
    values = dict(line.split("=", 1) for line in found.lines if "=" in line)
    if mechanism != "preload":
        assert values["LD_PRELOAD"] == caller["LD_PRELOAD"]
        assert values["PRIVBIND_CHANNEL"] == "5:abc"
        return
    shim, _, others = values["LD_PRELOAD"].partition(":")
    assert shim.endswith("/libprivbind.so")
    assert others == caller["LD_PRELOAD"]
    assert values["PRIVBIND_CHANNEL"].startswith("1023:")
    assert sum(line.startswith("PRIVBIND_CHANNEL=") for line in found.lines) == 1


def test_an_interrupt_during_the_launch_ends_it(host: Host, mechanism: str) -> None:
    """Without a traceback, and by the signal."""
    process = host.start(["/bin/sh", "-c", "echo up; read x"], f"--via={mechanism}", stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, (out, err)
    assert "Traceback" not in err
