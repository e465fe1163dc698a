"""What the tests in a guest share with those of the installed command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.host import Host


@pytest.fixture
def host(installed: Path) -> Iterator[Host]:
    """A network namespace of the test's own, with the installed privbind."""
    host = Host(installed)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture(scope="session")
def programs() -> Path:
    """The compiled test programs that the guest was given."""
    return Path(os.environ["PRIVBIND_TEST_PROGRAMS"])
