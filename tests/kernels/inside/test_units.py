"""The units of docs/recipes.md under the systemd that is process 1 here: with launches, and with placed grants.

The tests are those of outside, where systemd runs in namespaces: some of them, since services take long to start here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness.guests.own_systemd import OwnSystem
from ...harness.recipes import BLOCKS
from ...root import test_placed_units, test_recipes
from ...root.conftest import site  # noqa: F401  # a fixture

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


LAUNCHED = [
    test_recipes.Unit("site.service", (), "bpf"),
    test_recipes.Unit("site.service", (BLOCKS["site.service.d/few.conf"],), "preload"),
    test_recipes.Unit("site-notify.service", (), "bpf"),
]


@pytest.mark.parametrize("unit", LAUNCHED, ids=["as it is", "few capabilities", "notifying"])
def test_a_unit_that_is_a_launch(system: OwnSystem, site: Path, unit: test_recipes.Unit) -> None:  # noqa: F811
    test_recipes.test_unit_under_systemd(system, site, unit)


def test_systemd_does_not_restart_what_was_refused(system: OwnSystem) -> None:
    test_recipes.test_systemd_does_not_restart_what_privbind_refused(system)


def test_a_unit_with_a_placed_grant(system: OwnSystem, site: Path) -> None:  # noqa: F811
    test_placed_units.test_granted_unit(system, site, (BLOCKS["granted.service.d/reload.conf"],))


def test_template_units_with_placed_grants(system: OwnSystem) -> None:
    test_placed_units.test_granted_template_units(system)


def test_a_grant_for_a_unit_that_runs(system: OwnSystem) -> None:
    test_placed_units.test_a_grant_for_a_unit_that_runs(system)
