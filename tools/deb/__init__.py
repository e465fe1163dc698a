# SPDX-License-Identifier: MIT
"""The Debian package: its source, and what is built from it in a clean Debian of its own.

Nothing of this machine's Debian is used or changed but its mirrors, and what `tools/setup deb` names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "privbind-debian"
"""Where trees are kept."""


class Suite(NamedTuple):
    """A release of Debian: what a version for it ends with, and its parts in the archive."""

    ending: str
    sources: tuple[str, ...]


SUITES = {
    "bookworm": Suite("~deb12", ("bookworm", "bookworm-updates", "bookworm-security")),
    "trixie": Suite("~deb13", ("trixie", "trixie-updates", "trixie-security")),
}
