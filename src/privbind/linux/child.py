# SPDX-License-Identifier: MIT
"""Questions that a child process answers, since answering them changes its user or its namespaces for good."""

from __future__ import annotations

import posix
from _signal import SIGKILL  # type: ignore[import-not-found]  # signal would import enum
from errno import ECHILD
from select import POLLIN, poll
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWERED = "="
_PATIENCE_S = 30
"""Far more than any answer takes, and not for ever: a child that became a user can be stopped by that user."""


def ask(answer: Callable[[], str]) -> str:
    """Call a function in a child process, which it may change for good; returns what the function returns.

    Raises ChildProcessError, with what was raised there as its text.
    """
    reader, writer = posix.pipe()
    child = posix.fork()
    if child == 0:
        # Whatever happens, it must not run on as if it were the parent.
        try:
            posix.close(reader)
            try:
                said = _ANSWERED + answer()
            except Exception as error:  # noqa: BLE001
                said = (error.strerror if isinstance(error, OSError) else None) or str(error)
            posix.write(writer, said.encode("utf-8", "surrogateescape"))
        finally:
            posix._exit(0)
    posix.close(writer)
    answered = False
    try:
        data = _read(reader)
        answered = data is not None
    finally:
        posix.close(reader)
        if not answered:
            posix.kill(child, SIGKILL)
        posix.waitpid(child, 0)
    if data is None:
        raise ChildProcessError(
            ECHILD, f"the process that was asked did not answer within {_PATIENCE_S} seconds (was it stopped?)"
        )
    said = data.decode("utf-8", "surrogateescape")
    if not said.startswith(_ANSWERED):
        raise ChildProcessError(ECHILD, said or "the process that was asked was killed")
    return said[len(_ANSWERED) :]


def _read(fd: int) -> bytes | None:
    """All that is written to a pipe; None where that takes too long."""
    end = monotonic() + _PATIENCE_S
    written = poll()
    written.register(fd, POLLIN)
    data = b""
    while (left_s := end - monotonic()) > 0 and written.poll(left_s * 1000):
        block = posix.read(fd, 1 << 16)
        if not block:
            return data
        data += block
    return None
