# SPDX-License-Identifier: MIT
"""One page, for uvicorn."""


async def application(scope, _receive, send) -> None:
    """Answer every request."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello\n"})
