# SPDX-License-Identifier: MIT
"""Text to the user: one line to standard error, a whole text to standard output. Only commands print, by these."""

from __future__ import annotations

import posix
import sys

from ..errors import strerror

FAILED = 125
"""The exit status that says that a command of ours failed."""

NO_MEMORY = "Cannot allocate memory (raise the limits: ulimit -d, ulimit -v)"

_STDOUT = 1
_STDERR = 2


def printable(text: str) -> str:
    """Text on one line that does nothing to a terminal: what is not printable is shown as an escape."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(text: str, program: str) -> None:
    """Write one line to standard error, whatever was in a name."""
    # None: the descriptor was closed when Python started, and what has its number now is not ours to write to.
    if sys.stderr is not None:
        try:
            posix.write(_STDERR, f"{program}: {printable(text)}\n".encode())
        except OSError:
            pass


def missing_module(error: ImportError) -> str:
    """The line for an import that failed: what this Python, or privbind's own package, was installed without."""
    name = error.name or str(error)
    if name.partition(".")[0] == __name__.partition(".")[0]:
        return f"cannot use privbind's own module {name}: {error} (install privbind again)"
    return (
        f"{sys.executable} lacks {name} of Python's standard library (install all of it; Debian: apt install python3)"
    )


def print_out(text: str, program: str) -> int:
    """Write a text to standard output; the exit status: 125 when it could not be written."""
    from ..linux.files import write_all

    try:
        write_all(_STDOUT, text.encode())
    except OSError as error:
        say(f"cannot write to standard output: {strerror(error)}", program)
        return FAILED
    return 0


def width() -> int | None:
    """The columns of the terminal that standard output is; None when it is none."""
    try:
        return posix.get_terminal_size(_STDOUT).columns or None
    except OSError:
        return None


def let_interrupt_end() -> None:
    """Let SIGINT end this process as it ends any other, without Python's traceback; if it is ignored, it stays so."""
    from _signal import SIG_DFL, SIG_IGN, SIGINT, getsignal, signal  # type: ignore[import-not-found]  # signal would import enum

    if getsignal(SIGINT) not in (SIG_DFL, SIG_IGN):
        signal(SIGINT, SIG_DFL)
