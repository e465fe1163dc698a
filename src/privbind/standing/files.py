# SPDX-License-Identifier: MIT
"""The administrator's files: which of them are read, and which are refused unread.

Whoever can change one of them decides what may be bound on this host. So a file counts only when it is a regular file
of root's that nobody else may write, in a folder of the same kind; and each is judged by what was opened, never by a
path that could mean something else a moment later.
"""

from __future__ import annotations

import posix
from _stat import S_IMODE, S_ISREG
from errno import ELOOP, ENOTDIR, ENXIO

from ..errors import strerror
from .entries import GrantFileError, parse
from .folder import FOLDER, MAX_SIZE, counts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from .entries import Entry

ROOT = 0

_BY_OTHERS = 0o022
_IRREGULAR = "it is not a regular file (put a plain file there, or remove it)"
_FOLDER_FLAGS = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
# A pipe would make the opener wait for its other end, and a terminal could become ours: neither happens.
_FILE_FLAGS = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC


def read(folder: str = FOLDER, owner: int = ROOT) -> tuple[Entry, ...]:
    """All entries of all files in a folder, by the files' names; none where there is no such folder.

    ``owner`` is the uid whose files are trusted. Raises GrantFileError.
    """
    opened = Folder.open(folder, owner)
    if opened is None:
        return ()
    with opened:
        contents = [(opened.path_of(name), opened.read(name)) for name in opened.names()]
    # None: the file was removed since the folder was listed, as it might have been before.
    return tuple(entry for path, data in contents if data is not None for entry in parse(data, path))


def read_files(paths: Iterable[str], owner: int = ROOT) -> tuple[Entry, ...]:
    """All entries of these files, which may be anywhere; of their folders nothing is asked. Raises GrantFileError."""
    return tuple(entry for path in paths for entry in parse(_read(path, path, owner), path))


class Folder:
    """The folder of the files, held open, so that all that is done in it is done in the same one."""

    def __init__(self, path: str, fd: int, owner: int) -> None:
        """Take over ``fd``."""
        self.path = path
        self.fd = fd
        self._owner = owner

    @classmethod
    def open(cls, path: str, owner: int) -> Self | None:
        """Open and check a folder, and the one that it is in; None where there is none. Raises GrantFileError."""
        path = path.rstrip("/")
        parent, slash, name = path.rpartition("/")
        parent = parent or slash or "."
        try:
            parent_fd = posix.open(parent, _FOLDER_FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot_open(parent, error) from error
        try:
            # Who may write there can put another folder in the place of ours.
            _check_trust(posix.fstat(parent_fd), parent, owner)
            fd = posix.open(name, _FOLDER_FLAGS | posix.O_NOFOLLOW, dir_fd=parent_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (ENOTDIR, ELOOP):
                raise GrantFileError(path, "not a folder, or a symbolic link to one (make it a folder)") from None
            raise _cannot_open(path, error) from error
        finally:
            posix.close(parent_fd)
        folder = cls(path, fd, owner)
        try:
            _check_trust(posix.fstat(fd), path, owner)
        except BaseException:
            folder.close()
            raise
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go; more than once does no harm."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            posix.close(fd)

    def names(self) -> list[str]:
        """The files that count: those that end in .toml and are not hidden. Raises GrantFileError."""
        try:
            found = posix.listdir(self.fd)
        except OSError as error:
            raise GrantFileError(self.path, f"cannot be listed: {strerror(error)}") from error
        return sorted(filter(counts, found))

    def path_of(self, name: str) -> str:
        """The path of a file in the folder, for messages."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes | None:
        """What is in one of the files; None where it does not exist. Raises GrantFileError."""
        try:
            return _read(name, self.path_of(name), self._owner, self.fd)
        except _MissingError:
            return None


class _MissingError(GrantFileError):
    """There is no such file."""


def _read(name: str, path: str, owner: int, folder: int | None = None) -> bytes:
    """Open, check and read one file. ``path`` is for messages. Raises GrantFileError."""
    try:
        fd = posix.open(name, _FILE_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        raise _MissingError(path, "there is no such file (check its name)") from None
    except OSError as error:
        if error.errno == ELOOP:
            raise GrantFileError(path, "it is a symbolic link (put the file itself there)") from None
        if error.errno == ENXIO:  # a socket
            raise GrantFileError(path, _IRREGULAR) from None
        raise _cannot_open(path, error) from error
    try:
        found = posix.fstat(fd)
        if not S_ISREG(found.st_mode):
            raise GrantFileError(path, _IRREGULAR)
        _check_trust(found, path, owner)
        data = bytearray()
        while len(data) <= MAX_SIZE and (block := posix.read(fd, MAX_SIZE + 1 - len(data))):
            data += block
    except OSError as error:
        raise GrantFileError(path, f"cannot be read: {strerror(error)}") from error
    finally:
        posix.close(fd)
    if len(data) > MAX_SIZE:
        raise GrantFileError(path, f"it is larger than {MAX_SIZE} bytes (split it into several files)")
    return bytes(data)


def _check_trust(found: posix.stat_result, path: str, owner: int) -> None:
    """Refuse what others than ``owner`` can have written. An access list that lets others write shows in the mode."""
    if found.st_uid != owner:
        raise GrantFileError(path, f"it belongs to uid {found.st_uid}, not to {_owner(owner)} (chown {owner} {path})")
    if S_IMODE(found.st_mode) & _BY_OTHERS:
        mode = f"{S_IMODE(found.st_mode):04o}"
        raise GrantFileError(path, f"others than its owner may write it: its mode is {mode} (chmod go-w {path})")


def _owner(uid: int) -> str:
    return "root" if uid == ROOT else f"uid {uid}"


def _cannot_open(path: str, error: OSError) -> GrantFileError:
    hint = " (run this as root)" if isinstance(error, PermissionError) else ""
    return GrantFileError(path, f"cannot be opened: {strerror(error)}{hint}")
