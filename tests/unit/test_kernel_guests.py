"""The cache of kernels and the guests, whatever happens: two runs at once, one that is killed, a guest that hangs."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest

import kernels
from kernels import FailedError, Kernel, archive, guest, hold, payload

from ..harness.host import gone, wait_for
from ..harness.install import ROOT


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path / "cache"):
        with pytest.raises(FailedError, match="another run uses"), hold(tmp_path / "cache"):
            pass
        with hold(tmp_path / "another"):
            pass
    with hold(tmp_path / "cache"):
        pass


def test_what_killed_runs_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a tree in which parts of this machine are mounted, and for what later runs use again."""
    for name in ("guest-a/tree", "root-b/tree/usr", "root-c/tree/dev", "root", "kernels/6.1-amd64"):
        (tmp_path / name).mkdir(parents=True)
    read = Path.read_text
    mounts = f"udev {tmp_path}/root-c/tree/dev devtmpfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda path: mounts if path == Path("/proc/self/mounts") else read(path))
    with hold(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels", "lock", "root", "root-c"]


@pytest.mark.parametrize("name", ["a b", "a,b", "a$b", "a:b"])
def test_a_name_that_others_would_take_apart_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FailedError, match="take apart"), hold(tmp_path / name):
        pass


@pytest.mark.parametrize(
    ("told", "found"),
    [(None, "/var/cache"), ("", "/var/cache"), ("cache", "/var/cache"), ("./x", "/var/cache"), ("/srv/x", "/srv/x")],
)
def test_where_it_is(monkeypatch: pytest.MonkeyPatch, told: str | None, found: str) -> None:
    """A relative XDG_CACHE_HOME is ignored, as its specification says."""
    if told is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", told)
    assert kernels._cache() == Path(found) / "privbind-kernels"


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the run is killed while it writes."""
    told = tmp_path / "kernel.json"

    def half(path: Path, text: str) -> None:
        with path.open("w") as file:
            file.write(text[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(KeyboardInterrupt):
            kernels.write(told, json.dumps({"made": "1"}))
    assert not told.exists()
    kernels.write(told, json.dumps({"made": "1"}))
    assert json.loads(told.read_text()) == {"made": "1"}


def test_what_failed_is_told() -> None:
    with pytest.raises(FailedError, match=r"^sh -c exit 3 … a-package ended with 3: $"):
        kernels.run("sh", "-c", "exit 3", "apt-cache", "show", "a-package")


def test_a_machine_without_lists_of_packages_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "codename", lambda: "bookworm")
    monkeypatch.setattr(archive, "run", lambda *_: "")
    with pytest.raises(FailedError, match=r"no source for bookworm, .* or no lists of it \(apt-get update"):
        archive.mirrors()


def test_what_an_interrupted_download_left_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = object.__new__(archive.Archive)
    made._folder = tmp_path
    for name in ("debs", "debs-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "linux-image-6.1.0-1_amd64.deb").touch()
    monkeypatch.setattr(made, "download", lambda _, folder: (folder / "linux-image-6.1.0-2_amd64.deb").touch())
    ran: list[str] = []
    monkeypatch.setattr(archive, "run", lambda *words: ran.append(Path(words[2]).name))
    made.unpack(["linux-image-6.1.0-2-amd64"], tmp_path / "to")
    assert ran == ["linux-image-6.1.0-2_amd64.deb"]


def test_every_user_of_a_guest_may_read_what_it_is_given() -> None:
    """Whatever the modes of the sources are."""
    for kind, before, after in (
        (tarfile.REGTYPE, 0o600, 0o644),
        (tarfile.REGTYPE, 0o700, 0o755),
        (tarfile.DIRTYPE, 0o700, 0o755),
        (tarfile.REGTYPE, 0o664, 0o644),
    ):
        entry = tarfile.TarInfo("x")
        entry.type, entry.mode, entry.uid = kind, before, 1000
        found = payload._as_root(entry)
        assert (found.mode, found.uid) == (after, 0)


QEMU = """#!/bin/sh
for word; do
    case $word in
    file:*) console=${word#file:} ;;
    esac
done
echo "$SAYS" >"$console"
echo $$ >"$0.pid"
exec sleep "$LIVES"
"""


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of qemu: it says $SAYS on the guest's console, and ends after $LIVES seconds."""
    program = tmp_path / "bin/qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text(QEMU)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def start(folder: Path) -> guest.Guest:
    """A guest with it, and with an initramfs that is none."""
    initramfs = folder / "initramfs"
    kernel = Kernel("6.1", "amd64", "6.1.0", "6.1.0-1", folder / "vmlinuz", initramfs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest, "CACHE", folder)
        patch.setattr(guest, "_initramfs", lambda *_: initramfs)
        return guest.Guest(kernel, folder / "root.img", accelerator="tcg")


def speaking(folder: Path) -> guest.Guest:
    """One that has said something."""
    begun = start(folder)
    wait_for(begun._read, "the guest's first word")
    return begun


@pytest.fixture
def machine(qemu: Path, tmp_path: Path) -> Path:
    """A folder for guests."""
    del qemu
    return tmp_path


def test_a_disk_without_room_for_what_a_guest_tells_is_told_at_once(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        start(machine)
    assert not list(machine.glob("guest-*"))


def test_a_guest_that_ends(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAYS", "guest: up")
    monkeypatch.setenv("LIVES", "0.5")
    with speaking(machine) as begun:
        assert begun.wait(30, sign="guest: up", sign_s=0.01) == "guest: up\n"
        assert begun.left() == {}
    assert not list(machine.glob("guest-*"))


def test_a_guest_that_hangs_at_its_boot_is_not_waited_for(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it said last is told."""
    monkeypatch.setenv("SAYS", "Begin: Waiting for root file system")
    monkeypatch.setenv("LIVES", "60")
    with (
        speaking(machine) as begun,
        pytest.raises(FailedError, match=r"had not said 'guest: up' after 0 s:\nBegin: Waiting for root"),
    ):
        begun.wait(30, sign="guest: up", sign_s=0.1)
    assert not list(machine.glob("guest-*"))


def test_a_guest_that_takes_too_long(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAYS", "guest: up")
    monkeypatch.setenv("LIVES", "60")
    with speaking(machine) as begun, pytest.raises(FailedError, match=r"was still running after 0 s:\nguest: up"):
        begun.wait(0.2, sign="guest: up", sign_s=0.1)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tools"]
from tests.unit.test_kernel_guests import start
with start(Path({folder!r})) as begun:
    begun.wait(60)
"""


def test_a_guest_ends_with_a_run_that_is_killed(qemu: Path, tmp_path: Path) -> None:
    code = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    told = Path(f"{qemu}.pid")
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"SAYS": "", "LIVES": "60"}) as process:
        wait_for(lambda: told.exists() and told.read_text().endswith("\n"), "its start")
        process.send_signal(signal.SIGKILL)
    wait_for(partial(gone, int(told.read_text())), "its end")
    assert list(tmp_path.glob("guest-*"))  # for the next run to take away
