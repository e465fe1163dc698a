# SPDX-License-Identifier: MIT
"""privbind: run a program as an unprivileged user who may bind exactly the reserved ports granted."""

__version__ = "2.0.0"
