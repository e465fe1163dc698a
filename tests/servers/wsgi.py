# SPDX-License-Identifier: MIT
"""One page, for gunicorn."""


def application(_environ, start_response):
    """Answer every request."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]
