# SPDX-License-Identifier: MIT
"""Writing files for everybody, to the last byte: whatever the umask is, and however little write(2) takes at once."""

from __future__ import annotations

import posix


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[posix.write(fd, left) :]


def make_folders(path: str) -> None:
    """Make a folder, and those that it is in, where they are missing; all may read them. Raises OSError."""
    if not path or posix.access(path, posix.F_OK):
        return
    make_folders(path.rpartition("/")[0])
    try:
        posix.mkdir(path, 0o755)
    except FileExistsError:
        return  # another has made it just now
    posix.chmod(path, 0o755)
