# SPDX-License-Identifier: MIT
"""Why an account cannot execute a file, in words. Loaded only where that is to be told."""

from __future__ import annotations

import posix
from os.path import realpath
from stat import S_IMODE, S_ISDIR, S_ISREG

from ..account import FileAccess
from ..errors import strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..account import Account

_ST_NOEXEC = 8  # bits/statvfs.h
_ANY_X = 0o111


def of(path: bytes, account: Account) -> str:
    """What keeps the account from executing the file at this path, and what would help."""
    real = realpath(path)
    leads = "" if real == path or not path.startswith(b"/") else f" (it leads to '{text(real)}')"
    try:
        with FileAccess(account):
            closed = _closed_folder(path)
        if closed is None:
            return _of_file(real, posix.stat(real), leads)
        if not S_ISDIR(posix.stat(closed).st_mode):
            return f"'{text(closed)}' is not a folder"
        if path.startswith(closed + b"/"):
            leads = ""
    except OSError as error:
        return f"{strerror(error)}{leads}"
    return (
        f"Permission denied: that user may not enter the folder '{text(closed)}'{leads} (put it where that user may go)"
    )


def _of_file(path: bytes, found: posix.stat_result, leads: str) -> str:
    mode = S_IMODE(found.st_mode)
    if not S_ISREG(found.st_mode):
        return f"it is not a regular file{leads}"
    if posix.statvfs(path).f_flag & _ST_NOEXEC:
        return f"Permission denied: it is on a file system that is mounted noexec{leads}"
    if not mode & _ANY_X:
        return f"Permission denied: it is not marked as executable{leads} (chmod a+x '{text(path)}')"
    return f"Permission denied: it has mode {mode:04o}, owner {found.st_uid} and group {found.st_gid}{leads}"


def _closed_folder(path: bytes) -> bytes | None:
    """The first folder on the path to a file, links followed, that this process may not enter."""
    real = realpath(path)
    for folder in _folders(path):
        if not path.startswith(b"/"):
            # The way begins at the working directory, whatever is above that.
            if not posix.access(folder, posix.X_OK, effective_ids=True):
                return realpath(folder)
            continue
        target = realpath(folder)
        for step in (*_folders(target), target):
            if not posix.access(step, posix.X_OK, effective_ids=True):
                return step
    return _closed_folder(real) if real != path and path.startswith(b"/") else None


def _folders(path: bytes) -> list[bytes]:
    """The folders that a path names, from the first to that of its last word."""
    ends = [end for end, char in enumerate(path) if char == ord("/")]
    return [path[:end] or b"/" for end in ends] or [b"."]


def text(path: bytes) -> str:
    """A path as text, whatever bytes it has."""
    return path.decode("utf-8", "backslashreplace")
