"""The locked tools: what is installed to build and test is what was looked at."""

from __future__ import annotations

import re
import tomllib

import pytest

from ..harness.install import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS: dict[str, list[object]] = PROJECT["dependency-groups"]


def wanted(group: str) -> set[str]:
    """The names that a group has, with those of the groups in it."""
    found: set[str] = set()
    for entry in GROUPS[group]:
        if isinstance(entry, dict):
            found |= wanted(entry["include-group"])
        else:
            found.add(re.split(r"[<>=!~\[; ]", str(entry))[0])
    return found


def locked(group: str) -> dict[str, str]:
    """The version that is locked of each package."""
    text = (ROOT / f"tools/locked/{group}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE))


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_is_locked(group: str) -> None:
    """With a hash for each file; `make lock` makes them."""
    assert wanted(group) <= locked(group).keys()
    for entry in re.split(r"\n(?=[a-z])", (ROOT / f"tools/locked/{group}.txt").read_text()):
        assert entry.startswith("#") or "--hash=sha256:" in entry


@pytest.mark.parametrize("group", ["build", "dist", "test"])
def test_a_tool_has_one_version(group: str) -> None:
    """Whichever group it is installed with."""
    assert locked(group).items() <= locked("lint").items()


@pytest.mark.parametrize("group", GROUPS)
def test_no_place_is_named(group: str) -> None:
    """Where packages come from is up to whoever installs them."""
    assert "://" not in (ROOT / f"tools/locked/{group}.txt").read_text()
