"""What privbind-grants(5) and the packaged example show can be read as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from privbind.standing.entries import _KEYS, parse
from privbind.standing.folder import FOLDER, MAX_SIZE

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "man/privbind-grants.5"
EXAMPLE = ROOT / "packaging/grants.d/example.toml"
PORTS = {"domain": 53}


def services(name: str, _: str) -> int:
    return PORTS[name]


def test_the_page_tells_of_every_key() -> None:
    keys = PAGE.read_text().partition(".SH KEYS\n")[2].partition("\n.SH")[0]
    assert set(re.findall(r"^\.TP\n\.B (\w+)$", keys, re.MULTILINE)) == set(_KEYS)
    assert f"{FOLDER}/NAME.toml" in PAGE.read_text()
    assert f"{MAX_SIZE >> 20} MiB" in PAGE.read_text()


def test_the_examples_of_the_page_are_files_of_grants() -> None:
    blocks = re.findall(r"^\.EX\n(.*?)^\.EE$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = [parse(block.replace("\\-", "-").encode(), "page", services) for block in blocks]
    assert list(map(len, found)) == [1, 1, 2, 1, 1, 1]


def test_the_packaged_example_grants_nothing_until_it_is_uncommented() -> None:
    text = EXAMPLE.read_text()
    assert parse(text.encode(), "example") == ()
    assert len(parse(re.sub(r"^#(?! )", "", text, flags=re.MULTILINE).encode(), "example")) == 4
