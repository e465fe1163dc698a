# SPDX-License-Identifier: MIT
"""Where the administrator's files are."""

from __future__ import annotations

FOLDER = "/etc/privbind/grants.d"
SUFFIX = ".toml"
