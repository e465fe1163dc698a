"""System calls that Python itself does not offer everywhere."""

from __future__ import annotations

import os
from pathlib import Path

from privbind.linux.call import has_attribute


def test_extended_attributes(tmp_path: Path) -> None:
    """Of an open file and of a path; what is not there has none."""
    path = tmp_path / "file\udcff"
    path.write_text("")
    with path.open() as file:
        for what in (file.fileno(), str(path)):
            assert not has_attribute(what, "user.privbind")
        os.setxattr(path, "user.privbind", b"")
        for what in (file.fileno(), str(path)):
            assert has_attribute(what, "user.privbind")
    assert not has_attribute(str(path) + "x", "user.privbind")
