# SPDX-License-Identifier: MIT
"""Questions that a child process answers, since answering them changes its user or its namespaces for good."""

from __future__ import annotations

import posix
from errno import ECHILD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWERED = "="


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
    with open(reader, "rb") as file:
        said = file.read().decode("utf-8", "surrogateescape")
    posix.waitpid(child, 0)
    if not said.startswith(_ANSWERED):
        raise ChildProcessError(ECHILD, said or "the process that was asked was killed")
    return said[len(_ANSWERED) :]
