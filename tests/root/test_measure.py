"""What coverage is measured by sees all of a launch, and changes nothing about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import measure
from ..harness.host import Host, python
from ..harness.install import install, world_readable_folder

SHOWS = """
import os
print(sorted(os.listdir("/proc/self/fd"), key=int)[:-1], sorted(os.environ))
"""


@pytest.fixture(scope="module")
def measured(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A command whose package marks its lines, and the page of marks."""
    with world_readable_folder(writable=False) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "FOLDER", tmp_path_factory.mktemp("coverage"))
        command = install(wheel, folder / "venv")
        measure.instrument(command, folder / "marks")
        yield command, folder / "marks"


def marked(page: Path, name: str, text: str) -> bool:
    """Whether the only line of a file that has this text has run."""
    (number,) = (n for n, line in enumerate((measure.PACKAGE / name).read_text().splitlines(), 1) if text in line)
    return page.read_bytes()[measure.layout()[name] + number] == 1


def test_all_of_a_launch_is_seen(host: Host, measured: tuple[Path, Path]) -> None:
    """Up to its exec, and its helper after it has been confined."""
    host.privbind, page = str(measured[0]), measured[1]
    bind = python("import socket; socket.create_server(('127.0.0.1', 80))")
    assert not marked(page, "launch.py", "process.execve(path, list(command.argv), environment)")
    host.granted(bind, "--via=seccomp", "--allow=tcp:80").ok()
    assert marked(page, "launch.py", "process.execve(path, list(command.argv), environment)")
    assert marked(page, "helper/supervisor.py", "error = self._executor.bind(target, address, decision.port)")
    assert not marked(page, "helper/channel.py", "executor.bind(")
    host.granted(bind, "--via=preload", "--allow=tcp:80").ok()
    assert marked(page, "helper/channel.py", "executor.bind(")


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload"])
def test_the_command_is_the_same(host: Host, measured: tuple[Path, Path], mechanism: str) -> None:
    """It has the same descriptors and environment."""
    plain = host.granted(python(SHOWS), f"--via={mechanism}").ok()
    host.privbind = str(measured[0])
    assert host.granted(python(SHOWS), f"--via={mechanism}").ok().out == plain.out
