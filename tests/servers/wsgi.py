# SPDX-License-Identifier: MIT
"""One page, for gunicorn."""

from __future__ import annotations

from collections.abc import Callable


def application(_environ: object, start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    """Answer every request."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]
