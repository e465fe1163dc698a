"""The code blocks of docs/recipes.md and docs/python.md, which tests run as they stand there."""

from __future__ import annotations

import re
import shlex

from .install import ROOT

PAGE = (ROOT / "docs/recipes.md").read_text()
PYTHON_PAGE = (ROOT / "docs/python.md").read_text()


def _blocks(page: str) -> dict[str, str]:
    found = re.findall(r"^```\w+ ([^\n]+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return dict(found)


BLOCKS = _blocks(PAGE)
"""By the name behind their language."""
PROGRAMS = _blocks(PYTHON_PAGE)
"""Those of docs/python.md."""


def words(name: str) -> list[str]:
    """A block of one command line, as words."""
    return shlex.split(BLOCKS[name].replace("\\\n", " "))
