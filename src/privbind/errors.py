# SPDX-License-Identifier: MIT
"""What can go wrong, as privbind tells it.

Every error is one line: what failed, on which object, why, and what to do about it. ``status`` is the exit status
that the privbind command ends with (125: privbind failed; 126: the command cannot be executed; 127: not found).
"""

from __future__ import annotations

from errno import EMFILE


class PrivbindError(Exception):
    """privbind could not do what it was asked; nothing of the request is left behind.

    ``reason`` is what failed and why; ``remedy`` what would change it (may be empty).
    """

    status = 125

    def __init__(self, reason: str, remedy: str = "") -> None:
        """Keep the two apart, so that a caller who knows better can say what to do."""
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return with_remedy(self.reason, self.remedy)

    @property
    def lines(self) -> list[str]:
        """What to tell the user: one line, but where there is more than one thing to do."""
        return [str(self)]


class UsageError(PrivbindError):
    """The request itself is wrong: an option, an account, a path. Nothing was started."""


class NotGrantedError(UsageError):
    """A user may not bind what he asked for; ``file`` is what the administrator can write into a file of grants."""

    def __init__(self, reason: str, remedy: str, file: str) -> None:
        """Keep them."""
        super().__init__(reason, remedy)
        self.file = file

    @property
    def lines(self) -> list[str]:
        """What is refused and what to type; what to write, for those who keep their configuration in files."""
        return [str(self)] + [f"  or in /etc/privbind/grants.d/NAME.toml: {self.file}"] * bool(self.file)


class NotUndoneError(PrivbindError):
    """It failed where there was no way back: this process is neither what it was nor what was asked for, and must end.

    A command line that meets it ends anyway; a program that called `privbind.become` should do nothing but that.
    """


class UnsupportedError(PrivbindError):
    """A mechanism that this host does not offer, or that cannot honour this request exactly.

    ``mechanism`` is its name; ``missing`` names the capabilities that it lacks, where it lacks nothing else.
    """

    def __init__(self, mechanism: str, reason: str, remedy: str = "", missing: tuple[str, ...] = ()) -> None:
        """Keep the parts apart, so that a caller can report on several mechanisms."""
        super().__init__(reason, remedy)
        self.mechanism = mechanism
        self.missing = missing

    def __str__(self) -> str:
        return f"{self.mechanism}: {super().__str__()}"


class NoMechanismError(PrivbindError):
    """None of the mechanisms fits; ``refusals`` says why for each, in the order in which they were tried."""

    def __init__(self, refusals: list[UnsupportedError]) -> None:
        """Keep them."""
        super().__init__("no mechanism fits this request on this host", "-v tells why, mechanism by mechanism")
        self.refusals = refusals

    @property
    def lines(self) -> list[str]:
        """That none fits, and in one line what would make each fit, the shortest first."""
        remedies: dict[str, list[str]] = {}
        for refusal in self.refusals:
            remedies.setdefault(_short_remedy(refusal), []).append(refusal.mechanism)
        told = sorted((f"{', '.join(names)}: {what}" for what, names in remedies.items()), key=len)
        return [str(self), f"  {'; '.join(told)}"]

    @property
    def story(self) -> list[str]:
        """The whole reason of each mechanism, a line each."""
        return [f"  {refusal}" for refusal in self.refusals]


_SHORT = 70  # columns


def _short_remedy(refusal: UnsupportedError) -> str:
    if refusal.missing:
        return f"add {' and '.join(refusal.missing)}"
    whole = with_remedy(refusal.reason, refusal.remedy)
    return whole if len(whole) <= _SHORT else refusal.remedy or refusal.reason


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
