"""Asking in a child process: its answer, its errors, and that it never goes on as the parent."""

from __future__ import annotations

import os
import signal

import pytest

from privbind.linux import child


def raise_error(error: BaseException) -> str:
    """What fails in the child."""
    raise error


def test_an_answer() -> None:
    """It comes from another process; an empty one is an answer too."""
    assert child.ask(lambda: str(os.getppid())) == str(os.getpid())
    assert child.ask(str) == ""
    assert child.ask(lambda: "x" * 200_000) == "x" * 200_000


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(1, "Operation not permitted"), "Operation not permitted"),
        (ValueError("no number"), "no number"),
        (SystemExit(0), "the process that was asked was killed"),
    ],
)
def test_an_error(error: BaseException, text: str) -> None:
    """Whatever is raised in the child is told here, and nothing else of this program runs there."""
    before = os.getpid()
    with pytest.raises(ChildProcessError) as raised:
        child.ask(lambda: raise_error(error))
    assert os.getpid() == before
    assert raised.value.strerror == text


def test_it_is_killed() -> None:
    with pytest.raises(ChildProcessError, match="was killed"):
        child.ask(lambda: str(signal.raise_signal(signal.SIGKILL)))  # type: ignore[func-returns-value]


def test_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user can do that to a child that has become him: it is ended, and said."""
    monkeypatch.setattr(child, "_PATIENCE_S", 0.5)
    with pytest.raises(ChildProcessError, match=r"within 0.5 seconds \(was it stopped\?\)"):
        child.ask(lambda: str(signal.raise_signal(signal.SIGSTOP)))  # type: ignore[func-returns-value]
