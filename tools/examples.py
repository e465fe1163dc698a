# SPDX-License-Identifier: MIT
"""Writes the programs of a page into a folder, for the type checker: examples.py PAGE FOLDER."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path


def main(page: str, folder: str) -> None:
    """Write each block of Python that has a name, as a module."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    blocks = re.findall(r"^```python ([^\n]+)\.py\n(.*?)^```$", Path(page).read_text(), re.MULTILINE | re.DOTALL)
    for name, text in blocks:
        Path(folder, f"{name.replace('.', '_')}.py").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
