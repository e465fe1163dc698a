"""Which lines of the package run: in the launches of the tests, their helpers included, and in the tests' own process.

With PRIVBIND_COVERAGE set to a folder, the package in the test's environment gets one more module, and a line at the
end of its ``__init__`` that loads it. That module marks each line that runs, in a file that it has mapped. So what a
launch ran is known although it ends by becoming its command, or is a helper that may not open or write anything any
more: marking a line is a store to memory. Nothing else of the package differs, nor does the process: no argument, no
variable, no descriptor.

The folder has layout.json, which says where the lines of each file begin in a page of marks, and such a page for the
launches and one for the tests' process. Runs add to them; tools/covered.py reports.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from .install import SOURCE, run

PACKAGE = SOURCE / "privbind"
FOLDER = Path(os.environ["PRIVBIND_COVERAGE"]).resolve() if os.environ.get("PRIVBIND_COVERAGE") else None
"""Where the marks are kept; None where nothing is measured."""

_TRACER = Path(__file__).with_name("tracer.py")


def begin() -> None:
    """Measure this process, and those forked from it, from now on."""
    if FOLDER is None:
        return
    page = FOLDER / "tests.marks"
    _make_page(page, layout())
    names: dict[str, Any] = {}
    exec(compile(_tracer(page), "tracer", "exec"), names)
    threading.settrace(sys.gettrace())  # the one that the tracer has just set


def instrument(command: Path, page: Path) -> None:
    """Have the package that a command was installed with mark its lines in a page."""
    _make_page(page, layout())
    (package,) = command.parent.parent.glob("lib/python3*/site-packages/privbind")
    (package / "_tracer.py").write_text(_tracer(page))
    with (package / "__init__.py").open("a") as init:
        init.write("from . import _tracer as _tracer\n")
    shutil.rmtree(package / "__pycache__", ignore_errors=True)
    run(command.parent / "python3", "-m", "compileall", "-q", package)


def keep(page: Path) -> None:
    """Add the marks of a page to what the folder has of launches."""
    assert FOLDER is not None
    kept = FOLDER / "launches.marks"
    _make_page(kept, layout())
    kept.write_bytes(bytes(a | b for a, b in zip(kept.read_bytes(), page.read_bytes(), strict=True)))


def layout() -> dict[str, int]:
    """Where the lines of each file begin; where the last one's end is as that of "". Made once for a folder."""
    assert FOLDER is not None
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "layout.json"
    if not file.exists():
        places, end = {}, 0
        for path in sorted(PACKAGE.rglob("*.py")):
            places[str(path.relative_to(PACKAGE))] = end
            end += len(path.read_text().splitlines()) + 1
        file.write_text(json.dumps(places | {"": end}))
    found: dict[str, int] = json.loads(file.read_text())
    return found


def _make_page(page: Path, places: dict[str, int]) -> None:
    if not page.exists():
        page.write_bytes(bytes(places[""]))
        page.chmod(0o666)  # launches by others than root are measured as well


def _tracer(page: Path) -> str:
    return _TRACER.read_text() + f"\n\nbegin({str(page)!r}, {layout()!r})\n"
