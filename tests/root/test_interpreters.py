"""A script whose interpreter the account cannot execute: the same line and exit status under every mechanism."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ..harness.host import Host
from ..harness.install import PYTHON

MECHANISMS = ("bpf", "seccomp", "preload", "ambient")
ACCOUNT = "as nobody: "


class Case(NamedTuple):
    """A command that cannot be executed, and all that is said of it after the account."""

    command: Path
    said: str


def script(path: Path, first: str, rest: str = "echo ran\n") -> Path:
    """An executable script with this first line, to the byte."""
    path.write_bytes(f"{first}\n{rest}".encode())
    path.chmod(0o755)
    return path


def missing(folder: Path) -> Case:
    return Case(
        script(folder / "s", "#!/opt/none/python3 -x"), "its interpreter '/opt/none/python3': No such file or directory"
    )


def a_file_on_the_way(folder: Path) -> Case:
    command = script(folder / "s", "#!/etc/passwd/python3")
    return Case(command, "its interpreter '/etc/passwd/python3': '/etc/passwd' is not a folder")


def not_executable(folder: Path) -> Case:
    shutil.copy("/bin/true", folder / "true")
    (folder / "true").chmod(0o644)
    reason = f"Permission denied: it is not marked as executable (chmod a+x '{folder}/true')"
    return Case(script(folder / "s", f"#! {folder}/true"), f"its interpreter '{folder}/true': {reason}")


def for_another_user(folder: Path) -> Case:
    shutil.copy("/bin/true", folder / "true")
    os.chown(folder / "true", 0, 4711)
    (folder / "true").chmod(0o750)
    reason = "Permission denied: it has mode 0750, owner 0 and group 4711"
    return Case(script(folder / "s", f"#!{folder}/true"), f"its interpreter '{folder}/true': {reason}")


def closed_folder(folder: Path) -> Case:
    """As a virtual environment below /root, whose interpreter is a link to one that everybody may execute."""
    home = folder / "home"
    (home / "venv/bin").mkdir(parents=True)
    home.chmod(0o700)
    python = home / "venv/bin/python3"
    python.symlink_to(PYTHON)
    reason = f"Permission denied: that user may not enter the folder '{home}' (put it where that user may go)"
    return Case(script(folder / "s", f"#!{python}"), f"its interpreter '{python}': {reason}")


def link_into_a_closed_folder(folder: Path) -> Case:
    """As a virtual environment for all whose interpreter is one of pyenv's below /root."""
    home = folder / "home"
    (home / "versions").mkdir(parents=True)
    shutil.copy("/bin/true", home / "versions/python3.11")
    home.chmod(0o750)
    (folder / "python3").symlink_to("home/versions/python3.11")
    reason = (
        f"Permission denied: that user may not enter the folder '{home}' (it leads to '{home}/versions/python3.11')"
        " (put it where that user may go)"
    )
    return Case(script(folder / "s", f"#!{folder}/python3"), f"its interpreter '{folder}/python3': {reason}")


def a_folder_behind_a_link(folder: Path) -> Case:
    (folder / "home/tools/bin").mkdir(parents=True)
    shutil.copy("/bin/true", folder / "home/tools/bin/true")
    (folder / "home").chmod(0o700)
    (folder / "tools").symlink_to("home/tools")
    reason = (
        f"Permission denied: that user may not enter the folder '{folder}/home'"
        f" (it leads to '{folder}/home/tools/bin/true') (put it where that user may go)"
    )
    return Case(
        script(folder / "s", f"#!{folder}/tools/bin/true"), f"its interpreter '{folder}/tools/bin/true': {reason}"
    )


def dangling_link(folder: Path) -> Case:
    (folder / "python3").symlink_to("/opt/none/python3.11")
    said = f"its interpreter '{folder}/python3': No such file or directory (it leads to '/opt/none/python3.11')"
    return Case(script(folder / "s", f"#!{folder}/python3"), said)


def carriage_return(folder: Path) -> Case:
    said = f"its first line '#!/bin/sh\\x0d' ends in a carriage return (Unix has none: sed -i 's/\\r$//' '{folder}/s')"
    return Case(script(folder / "s", "#!/bin/sh\r", "echo ran\r\n"), said)


def carriage_return_after_env(folder: Path) -> Case:
    said = (
        "its first line '#!/usr/bin/env python3\\x0d' ends in a carriage return"
        f" (Unix has none: sed -i 's/\\r$//' '{folder}/s')"
    )
    return Case(script(folder / "s", "#!/usr/bin/env python3\r"), said)


def second_interpreter(folder: Path) -> Case:
    first = script(folder / "first", "#!/opt/none/python3")
    said = f"'{first}' is a script itself, and its interpreter '/opt/none/python3': No such file or directory"
    return Case(script(folder / "s", f"#!{first}"), said)


def too_many(folder: Path) -> Case:
    chain(folder, 6)
    return Case(folder / "s6", "its interpreter is a script, and so on, more than 5 times")


def loader(folder: Path) -> Case:
    """As a program of Alpine's on Debian."""
    program = compiled(folder / "program", "-Wl,--dynamic-linker=/lib/ld-none.so.1")
    said = "its loader '/lib/ld-none.so.1' does not exist (it was built for another C library or system)"
    return Case(program, said)


def loader_of_an_interpreter(folder: Path) -> Case:
    return Case(script(folder / "s", f"#!{loader(folder).command}"), loader(folder).said)


def command_in_a_closed_folder(folder: Path) -> Case:
    (folder / "home").mkdir(mode=0o700)
    command = script(folder / "home/server", "#!/bin/sh")
    said = f"Permission denied: that user may not enter the folder '{folder}/home' (put it where that user may go)"
    return Case(command, said)


def noexec(folder: Path) -> Case:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=755", "tmpfs", folder / "mnt"], check=True)
    shutil.copy("/bin/true", folder / "mnt/true")
    reason = "Permission denied: it is on a file system that is mounted noexec"
    return Case(script(folder / "s", f"#!{folder}/mnt/true"), f"its interpreter '{folder}/mnt/true': {reason}")


CASES: list[Callable[[Path], Case]] = [
    missing, a_file_on_the_way, not_executable, for_another_user, closed_folder, link_into_a_closed_folder,
    a_folder_behind_a_link, dangling_link, carriage_return, carriage_return_after_env, second_interpreter, too_many,
    loader, loader_of_an_interpreter, command_in_a_closed_folder, noexec,
]  # fmt: skip


def chain(folder: Path, length: int) -> None:
    """Scripts s1, s2 … each of which has the one before as its interpreter; /bin/true is the first one's."""
    before = "/bin/true"
    for number in range(1, length + 1):
        before = str(script(folder / f"s{number}", f"#!{before}"))


def compiled(path: Path, *options: str) -> Path:
    """A program that does nothing."""
    subprocess.run(["gcc", "-x", "c", "-", "-o", path, *options], input=b"int main(void){return 0;}", check=True)
    return path


@pytest.fixture
def mounted(folder: Path) -> Iterator[Path]:
    """A folder in which a test may mount something at ``mnt``."""
    (folder / "mnt").mkdir()
    yield folder
    subprocess.run(["umount", "--quiet", folder / "mnt"], check=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_cannot_be_executed(host: Host, mounted: Path, case: Callable[[Path], Case]) -> None:
    """One line and exit status 126, before anything is started; a dry run says the same, and the kernel refuses too."""
    command, said = case(mounted)
    wanted = f"privbind: cannot execute '{command}' {ACCOUNT}{said}\n"
    for mechanism in (*MECHANISMS, "auto"):
        for more in ([], ["--dry-run"]):
            found = host.granted([command], f"--via={mechanism}", *more)
            assert (found.status, found.err, found.out) == (126, wanted, "")
    alone = host.plain([host.privbind, "--allow=8080", command])
    assert (alone.status, len(alone.err.splitlines())) == (126, 1)
    assert alone.err.startswith(f"privbind: cannot execute '{command}' as nobody: "), alone
    # The control: what knows nothing of this cannot execute it either. It is env(1) that tries: setpriv(1) itself still
    # has root's capabilities then.
    assert host.plain(["env", command]).status in (126, 127)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    "first",
    ["#!/bin/sh", "#! \t/bin/sh  -e \t", "#!/bin/sh -e\0after", "#!/usr/bin/env sh", "#!\t/usr/bin/env -S sh -e\r",
     "#!", "#! ", "echo ran; exit", ""],
)  # fmt: skip
def test_first_lines_that_work(host: Host, folder: Path, mechanism: str, first: str) -> None:
    """As the kernel and execvp(3) take them; the same program runs without privbind."""
    command = script(folder / "s", first)
    assert host.plain(["env", command]).ok().out == "ran\n"
    assert host.granted([command], f"--via={mechanism}").ok().out == "ran\n"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_looks_odd_and_works(host: Host, folder: Path, mechanism: str) -> None:
    """An interpreter that the user may execute and not read, five of them, and one whose name has a carriage return."""
    shutil.copy("/bin/true", folder / "true")
    (folder / "true").chmod(0o711)
    chain(folder, 5)
    (folder / "sh\r").symlink_to("/bin/sh")
    for command in (script(folder / "s", f"#!{folder}/true"), folder / "s5", script(folder / "t", f"#!{folder}/sh\r")):
        host.plain([command]).ok()
        host.granted([command], f"--via={mechanism}").ok()
    by_name = ["env", f"PATH={folder}:/usr/bin:/bin"]
    command = script(folder / "u", "#!/usr/bin/env sh\r")
    host.plain([*by_name, command]).ok()
    host.run([*by_name, *host.command([command], f"--via={mechanism}")]).ok()


def test_a_relative_command_is_looked_for_from_the_working_directory(host: Host, folder: Path) -> None:
    """What is above that does not count, and is not blamed."""
    work = folder / "closed/work"
    work.mkdir(parents=True)
    script(work / "s", "#!/bin/sh")
    (work / "s").chmod(0o700)
    work.parent.chmod(0o700)
    refused = host.granted(["./s"], cwd=work)
    assert refused.status == 126
    assert re.search(r"cannot execute '\./s' .*: it has mode 0700, owner 0 and group 0$", refused.err), refused
    (work / "s").chmod(0o755)
    host.granted(["./s"], "--via=bpf", cwd=work).ok()
    work.chmod(0o700)
    found = host.granted(["./s"], cwd=work)
    assert f"may not enter the folder '{work}'" in found.err, found
    assert found.status == 126
