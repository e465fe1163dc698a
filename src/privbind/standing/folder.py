# SPDX-License-Identifier: MIT
"""Where the administrator's files are."""

from __future__ import annotations

FOLDER = "/etc/privbind/grants.d"
SUFFIX = ".toml"
MAX_SIZE = 1 << 20
"""Bytes; a larger file is refused."""


def counts(name: str) -> bool:
    """Whether a file of this name in the folder is read: it ends in .toml and is not hidden."""
    return name.endswith(SUFFIX) and not name.startswith(".")
