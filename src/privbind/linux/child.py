# SPDX-License-Identifier: MIT
"""Asking in a child process, which may change for good what it is: its user, its namespaces."""

from __future__ import annotations

import posix
from errno import ECHILD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWERED = "="


def ask(answer: Callable[[], str]) -> str:
    """What a function says in a child process, which may change what it is for good.

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
