"""A command that cannot be executed in the end, although all looked well: the launch is taken back, and says why."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import Host, gone, wait_for


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "ambient"])
def test_the_program_is_being_written(host: Host, folder: Path, mechanism: str) -> None:
    """The kernel executes no file that is open for writing; a helper ends."""
    program = folder / "program"
    shutil.copy("/bin/true", program)
    writer = os.open(program, os.O_WRONLY)
    try:
        found = host.granted([program], f"--via={mechanism}", "-v")
    finally:
        os.close(writer)
    *story, last = found.err.splitlines()
    assert (found.status, found.out) == (126, "")
    assert last.startswith(f"privbind: cannot execute '{program}' as nobody ")
    assert last.endswith(": Text file busy")
    helpers = [int(number) for line in story for number in re.findall(r" (?:process|backup) (\d+)", line)]
    assert bool(helpers) == (mechanism in {"seccomp", "preload"})
    wait_for(lambda: all(map(gone, helpers)), "the helper's end")
