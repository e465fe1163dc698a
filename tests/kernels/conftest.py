"""Tests in guests: those inside run only there. The others start guests, for which root makes a file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..harness.needs import skip_without_root

collect_ignore_glob = [] if "PRIVBIND_GUEST" in os.environ else ["inside/*"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root."""
    skip_without_root(items, Path(__file__).parent, "to make a root file system for the guests")
