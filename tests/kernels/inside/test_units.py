"""The units of docs/recipes.md under the systemd that is process 1 here: with launches, and with placed grants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.guests.own_systemd import OwnSystem

# The same tests as outside, which run on the `system` of this module.
from ...root.conftest import site  # noqa: F401
from ...root.test_placed_units import (  # noqa: F401
    test_a_grant_for_a_unit_that_runs,
    test_granted_template_units,
    test_granted_unit,
    test_granted_unit_with_a_socket_unit,
)
from ...root.test_recipes import (  # noqa: F401
    test_systemd_does_not_restart_what_privbind_refused,
    test_unit_under_systemd,
)

SERVER = "privbind-guest-server.service"


@pytest.fixture
def system(site: Path) -> Iterator[OwnSystem]:  # noqa: F811
    """This guest's systemd, with port 80 free."""
    scripts = site / "venv/bin"
    scripts.mkdir(parents=True, exist_ok=True)
    if not (scripts / "gunicorn").exists():
        os.symlink("/usr/bin/gunicorn", scripts / "gunicorn")
    made = OwnSystem(site)
    try:
        made.control("stop", SERVER).ok()
        yield made
    finally:
        made.close()
        made.control("start", SERVER).ok()
