"""The code blocks of docs/recipes.md, which tests run as they stand there."""

from __future__ import annotations

import re
import shlex

from .install import ROOT

PAGE = (ROOT / "docs/recipes.md").read_text()

BLOCKS = {name: text for _, name, text in re.findall(r"^```(\w+) ([^\n]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)}
"""By the name behind their language."""


def words(name: str) -> list[str]:
    """A block of one command line, as words."""
    return shlex.split(BLOCKS[name].replace("\\\n", " "))
