"""Marks each line of the package that runs in this process: one byte in a page that is shared with nobody else's work.

It is put into the package that is measured, so it loads little and needs nothing of the tests. `measure` says more.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap
    from types import FrameType

    from _typeshed import TraceFunction

_PACKAGE = "/privbind/"


def begin(file: str, layout: dict[str, int]) -> None:
    """Trace from now on, if there is the page, and what maps it."""
    page = _map(file)
    if page is None:
        return
    tracers: dict[str, TraceFunction | None] = {}

    def enter(frame: FrameType, event: str, arg: object) -> TraceFunction | None:  # noqa: ARG001
        name = frame.f_code.co_filename
        try:
            return tracers[name]
        except KeyError:
            start = layout.get(name.rpartition(_PACKAGE)[2])
            tracers[name] = tracer = None if start is None else _marker(page, start)
            return tracer

    sys.settrace(enter)


def _marker(page: mmap, start: int) -> TraceFunction:
    def mark(frame: FrameType, event: str, arg: object) -> TraceFunction:  # noqa: ARG001
        page[start + frame.f_lineno] = 1
        return mark

    return mark


def _map(file: str) -> mmap | None:
    try:
        from mmap import mmap

        fd = posix.open(file, posix.O_RDWR | posix.O_CLOEXEC)
    except (ImportError, OSError):
        return None
    # The module keeps a duplicate, which has the lowest number that is free: it would be in the way of the launch, and
    # the mapping stays without it.
    duplicate = posix.dup(fd)
    posix.close(duplicate)
    page = mmap(fd, 0)
    posix.close(duplicate)
    posix.close(fd)
    return page
