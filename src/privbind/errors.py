# SPDX-License-Identifier: MIT
"""What can go wrong, as privbind tells it.

Every error is one line: what failed, on which object, why, and what to do about it. ``status`` is the exit status
that the privbind command ends with (125: privbind failed; 126: the command cannot be executed; 127: not found).
"""

from __future__ import annotations

from errno import EMFILE


class PrivbindError(Exception):
    """privbind could not do what it was asked; nothing of the request is left behind."""

    status = 125

    @property
    def lines(self) -> list[str]:
        """What to tell the user: one line, but where several things have one each."""
        return [str(self)]


class UsageError(PrivbindError):
    """The request itself is wrong: an option, an account, a path. Nothing was started."""


class UnsupportedError(PrivbindError):
    """A mechanism that this host does not offer, or that cannot honour this request exactly.

    ``mechanism`` is its name, ``reason`` why, ``remedy`` what would change it (may be empty).
    """

    def __init__(self, mechanism: str, reason: str, remedy: str = "") -> None:
        """Keep the three apart, so that a caller can list the reasons of several mechanisms."""
        super().__init__(f"{mechanism}: {with_remedy(reason, remedy)}")
        self.mechanism = mechanism
        self.reason = reason
        self.remedy = remedy


class NoMechanismError(PrivbindError):
    """None of the mechanisms fits; ``refusals`` says why for each, in the order in which they were tried."""

    def __init__(self, refusals: list[UnsupportedError]) -> None:
        """Keep them."""
        super().__init__("no mechanism fits: " + "; ".join(map(str, refusals)))
        self.refusals = refusals

    @property
    def lines(self) -> list[str]:
        """The heading, and a line for each mechanism."""
        return ["no mechanism fits this request on this host:", *(f"  {refusal}" for refusal in self.refusals)]


class NotExecutableError(PrivbindError):
    """The command was found, but the account cannot execute it."""

    status = 126


class NotFoundError(PrivbindError):
    """There is no such command."""

    status = 127


def with_remedy(reason: str, remedy: str) -> str:
    """Why something failed, and in brackets what to do about it, where anything can be done."""
    return f"{reason} ({remedy})" if remedy else reason


def counted(count: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def strerror(error: OSError) -> str:
    """The kernel's words for an error, without Python's decoration; with what to do where that is always the same."""
    text = error.strerror or str(error)
    return f"{text} (raise the limit: ulimit -n)" if error.errno == EMFILE else text
