"""Nothing of the caller decides what root runs, however privbind was installed."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ..harness.install import PYTHON, Install, world_readable_folder
from ..harness.traps import NAMES, Traps

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
LIBRARIES = {b"LD_PRELOAD", b"LD_AUDIT"}
CHANGED_BY_SH = {b"PWD", b"OLDPWD", b"SHLVL", b"_", b"SHELLOPTS"}


@pytest.fixture(scope="module")
def traps() -> Iterator[Traps]:
    with world_readable_folder(writable=False) as folder:
        yield Traps(folder)


def start(traps: Traps, command: list[str], environment: dict[bytes, bytes]) -> subprocess.CompletedProcess[bytes]:
    """Start a command in the place of the traps, with this environment and nothing to read."""
    return subprocess.run(
        command, cwd=traps.work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_trap_catches_the_careless(traps: Traps, name: str) -> None:
    """The control: a command that does not look out runs each of them as root."""
    for trap in traps.traps:
        if trap.name == name:
            traps.sprung()
            variables = {"PATH": os.environ["PATH"]} | trap.environment
            start(traps, trap.control, {key.encode(): value.encode() for key, value in variables.items()})
            assert (name, 0) in traps.sprung()


def test_no_trap_is_untested(traps: Traps) -> None:
    assert {trap.name for trap in traps.traps} == set(NAMES)


@pytest.mark.parametrize("arguments", [["--help"], ["--nonsense"], ["-v", "-u", "nobody", "--dry-run", "/bin/true"]])
def test_no_code_of_the_caller_runs_in_privbind(install: Install, traps: Traps, arguments: list[str]) -> None:
    """All traps at once; privbind starts nothing else here, so none may be sprung by anybody."""
    traps.sprung()
    environment = traps.environment()
    if not install.compiled:
        environment = {name: value for name, value in environment.items() if name not in LIBRARIES}
    start(traps, [str(install.command), *arguments], environment)
    assert traps.sprung() == set()


def test_what_runs_of_the_caller_runs_as_the_user(install: Install, traps: Traps) -> None:
    """The command gets the whole environment, so a careless command falls for it: as nobody, never as root."""
    traps.sprung()
    environment = traps.environment()
    del environment[b"PYTHONHOME"]  # with it the command, a plain Python, would not start
    if not install.compiled:
        environment = {name: value for name, value in environment.items() if name not in LIBRARIES}
    command = [str(install.command), "-u", "nobody", "--allow", "tcp:8080", PYTHON, "-c", ""]
    done = start(traps, command, environment)
    assert done.returncode == 0, done.stderr
    sprung = traps.sprung()
    assert {uid for _, uid in sprung} == {NOBODY}
    assert {"PYTHONPATH", "usercustomize", "pth"} <= {name for name, _ in sprung}


@pytest.mark.parametrize("allowed", ["tcp:8080", "tcp:80"])
def test_the_environment_arrives_byte_for_byte(install: Install, traps: Traps, allowed: str) -> None:
    """Under preload but for its two entries; the sh launcher's shell drops what is no variable to it."""
    environment = traps.environment()
    for library in LIBRARIES:
        del environment[library]
    if not install.compiled:
        allowed = "tcp:8080"  # there is no preload, so both cases are one
        environment = {name: value for name, value in environment.items() if b"%" not in name}
    options = ["--via=preload", "-u", "nobody", "--allow", allowed]
    command = [str(install.command), *options, "/bin/cat", "/proc/self/environ"]
    done = start(traps, command, environment)
    assert done.returncode == 0, done.stderr
    arrived = done.stdout.split(b"\0")[:-1]
    if install.compiled:
        expected = [name + b"=" + value for name, value in environment.items()]
        if allowed == "tcp:80":
            assert [entry.partition(b"=")[0] for entry in arrived[-2:]] == [b"LD_PRELOAD", b"PRIVBIND_CHANNEL"]
            arrived = arrived[:-2]
        assert arrived == expected
    else:
        found = {name: value for name, _, value in (entry.partition(b"=") for entry in arrived)}
        assert {name: value for name, value in found.items() if name not in CHANGED_BY_SH} == environment
