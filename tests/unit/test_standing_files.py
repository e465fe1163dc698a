"""Which files of grants are read, and which are refused for what they are, not for what they say."""

from __future__ import annotations

import errno
import os
import posix
import socket
from pathlib import Path

import pytest

from privbind.standing.entries import GrantFileError
from privbind.standing.files import read, read_files
from privbind.standing.folder import MAX_SIZE

ME = os.geteuid()
GRANT = '[[grant]]\nuser = "alice"\nallow = "tcp:80"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty grants.d, as a package would make it."""
    tmp_path.chmod(0o755)
    made = tmp_path / "grants.d"
    made.mkdir()
    made.chmod(0o755)
    return made


def put(folder: Path, name: str, text: str = GRANT) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def refusal(folder: Path, owner: int = ME) -> str:
    with pytest.raises(GrantFileError) as caught:
        read(str(folder), owner)
    return str(caught.value)


def test_files_are_read_by_their_names_and_others_are_left_out(folder: Path) -> None:
    put(folder, "b.toml", "\n" + GRANT)
    put(folder, "a.toml")
    for name in (".hidden.toml", "README", "c.toml.bak", "toml"):
        put(folder, name, "nonsense")
    found = [entry.source for entry in read(str(folder), ME)]
    assert found == [f"{folder}/a.toml:1", f"{folder}/b.toml:2"]
    assert read(f"{folder}/", ME) == read(str(folder), ME)


def test_the_folder_may_be_named_from_where_one_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.toml")
    monkeypatch.chdir(folder.parent)
    assert [entry.source for entry in read("grants.d", ME)] == ["grants.d/a.toml:1"]


@pytest.mark.parametrize("missing", ["other", "other/grants.d"])
def test_no_folder_no_grants(folder: Path, missing: str) -> None:
    assert read(str(folder.parent / missing), ME) == ()


def test_files_are_read_wherever_they_are(folder: Path) -> None:
    """A draft need not end in .toml, and its folder may be anybody's."""
    folder.chmod(0o777)
    path = put(folder, "draft")
    assert [entry.source for entry in read_files([str(path)], ME)] == [f"{path}:1"]


def test_a_file_that_is_named_must_be_there(folder: Path) -> None:
    with pytest.raises(GrantFileError) as caught:
        read_files([str(folder / "none")], ME)
    assert str(caught.value) == f"{folder}/none: there is no such file (check its name)"


def test_a_file_removed_meanwhile_is_as_if_it_had_never_been_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "a.toml")
    monkeypatch.setattr("privbind.standing.files.Folder.names", lambda _: ["a.toml", "gone.toml"])
    assert len(read(str(folder), ME)) == 1


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o622])
def test_a_file_that_others_may_write(folder: Path, mode: int) -> None:
    path = put(folder, "a.toml")
    path.chmod(mode)
    assert refusal(folder) == f"{path}: others than its owner may write it: its mode is {mode:04o} (chmod go-w {path})"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write(folder: Path, mode: int) -> None:
    for path in (folder, folder.parent):
        path.chmod(mode)
        why = f"others than its owner may write it: its mode is {mode:04o} (chmod go-w {path})"
        assert refusal(folder) == f"{path}: {why}"


def test_a_file_of_somebody_else(folder: Path) -> None:
    path = put(folder, "a.toml")
    with pytest.raises(GrantFileError) as caught:
        read_files([str(path)], ME + 1)
    why = f"it belongs to uid {ME}, not to uid {ME + 1} (chown {ME + 1} {path})"
    assert str(caught.value) == f"{path}: {why}"
    assert refusal(folder, ME + 1) == f"{folder.parent}: {why.replace(str(path), str(folder.parent))}"


def test_a_symbolic_link(folder: Path) -> None:
    target = put(folder, "target")
    (folder / "a.toml").symlink_to(target)
    assert refusal(folder) == f"{folder}/a.toml: it is a symbolic link (put the file itself there)"


def test_a_link_as_the_folder(folder: Path) -> None:
    link = folder.parent / "link.d"
    link.symlink_to(folder)
    message = f"{link}: not a folder, or a symbolic link to one (make it a folder)"
    assert refusal(link) == refusal(Path(f"{link}/")) == message
    assert (
        refusal(put(folder, "a.toml")) == f"{folder}/a.toml: not a folder, or a symbolic link to one (make it a folder)"
    )


def test_what_is_no_regular_file_is_not_waited_for(folder: Path) -> None:
    path = folder / "a.toml"
    message = f"{path}: it is not a regular file (put a plain file there, or remove it)"
    os.mkfifo(path)
    assert refusal(folder) == message
    path.unlink()
    path.mkdir()
    assert refusal(folder) == message
    path.rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert refusal(folder) == message


def test_the_size_has_a_limit(folder: Path) -> None:
    path = put(folder, "a.toml", GRANT + "#" * (MAX_SIZE - len(GRANT)))
    assert len(read(str(folder), ME)) == 1
    put(folder, "a.toml", GRANT + "#" * (MAX_SIZE - len(GRANT) + 1))
    assert refusal(folder) == f"{path}: it is larger than {MAX_SIZE} bytes (split it into several files)"


def test_no_descriptor_is_left_open(folder: Path) -> None:
    put(folder, "a.toml")
    before = os.listdir("/proc/self/fd")
    read(str(folder), ME)
    put(folder, "b.toml", "nonsense")
    refusal(folder)
    folder.chmod(0o777)
    refusal(folder)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("call", "argument", "error", "message"),
    [
        ("open", "PARENT", errno.EACCES, "PARENT: cannot be opened: Permission denied (run this as root)"),
        ("open", "grants.d", errno.EACCES, "FOLDER: cannot be opened: Permission denied (run this as root)"),
        ("open", "a.toml", errno.EACCES, "FOLDER/a.toml: cannot be opened: Permission denied (run this as root)"),
        (
            "open",
            "a.toml",
            errno.EMFILE,
            "FOLDER/a.toml: cannot be opened: Too many open files (raise the limit: ulimit -n)",
        ),
        ("listdir", None, errno.EIO, "FOLDER: cannot be listed: Input/output error"),
        ("read", None, errno.EIO, "FOLDER/a.toml: cannot be read: Input/output error"),
    ],
)
def test_what_the_kernel_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, call: str, argument: str | None, error: int, message: str
) -> None:
    """Tried without being refused, since root is refused nothing."""
    put(folder, "a.toml")
    argument = argument and argument.replace("PARENT", str(folder.parent))
    real = getattr(posix, call)

    def refuse(first: object, *rest: object, **named: object) -> object:
        if argument in (None, first):
            raise OSError(error, os.strerror(error))
        return real(first, *rest, **named)

    monkeypatch.setattr(posix, call, refuse)
    found = refusal(folder)
    monkeypatch.undo()
    assert found == message.replace("PARENT", str(folder.parent)).replace("FOLDER", str(folder))
