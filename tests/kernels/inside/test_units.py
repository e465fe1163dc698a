"""The units of docs/recipes.md under the systemd that is process 1 here: with launches, and with placed grants.

Fewer of them than outside, where systemd runs in namespaces: services take long to start here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...harness import units
from ...harness.guests.own_systemd import SERVER, OwnSystem
from ...harness.machine import a_site
from ...harness.recipes import BLOCKS


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """What is in /srv/site, with Debian's gunicorn for that of a virtual environment."""
    with a_site() as folder:
        scripts = folder / "venv/bin"
        scripts.mkdir(parents=True)
        os.symlink("/usr/bin/gunicorn", scripts / "gunicorn")
        yield folder


@pytest.fixture
def system(site: Path) -> Iterator[OwnSystem]:
    """This guest's systemd, with port 80 free."""
    made = OwnSystem(site)
    try:
        made.control("stop", SERVER).ok()
        yield made
    finally:
        made.close()
        made.control("start", SERVER).ok()


LAUNCHED = [
    units.Unit("site.service", (), "bpf"),
    units.Unit("site.service", (BLOCKS["site.service.d/few.conf"],), "preload"),
    units.Unit("site-notify.service", (), "bpf"),
]


@pytest.mark.parametrize("unit", LAUNCHED, ids=["as it is", "few capabilities", "notifying"])
def test_a_unit_that_is_a_launch(system: OwnSystem, site: Path, unit: units.Unit) -> None:
    units.check_launched(system, site, unit)


def test_systemd_does_not_restart_what_was_refused(system: OwnSystem) -> None:
    units.check_refused(system)


def test_a_unit_with_a_placed_grant(system: OwnSystem, site: Path) -> None:
    units.check_granted(system, site, BLOCKS["granted.service.d/reload.conf"])


def test_template_units_with_placed_grants(system: OwnSystem) -> None:
    units.check_templates(system)


def test_a_grant_for_a_unit_that_runs(system: OwnSystem) -> None:
    units.check_granted_while_it_runs(system)
