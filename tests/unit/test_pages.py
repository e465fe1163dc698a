"""The pages: each command block is tried by a test that it names or says why not; inline commands are understood."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from privbind.commands import privbindctl as ctl
from privbind.grant.policy import Policy
from privbind.request.options import NoCommandError, parse
from privbind.standing import entries

from ..harness.install import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
RECIPES = (DOCS / "recipes.md", DOCS / "python.md")
"""Their blocks have names instead, and tests/root/test_recipes.py and test_python_recipes.py hold each to a test."""

MEASURED = DOCS / "benchmarks.md"
"""Its blocks are what was measured."""

MARK = re.compile(r"<!-- (tried|not tried): (.+) -->")


class Block(NamedTuple):
    """A code block: the line that it begins in, its text, and the comment on the line before it."""

    line: int
    text: str
    mark: str


def blocks(page: Path) -> list[Block]:
    """Those of a page, fenced or indented."""
    lines = page.read_text().splitlines()
    found = []
    at = 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = lines.index("```", at + 1)
        elif lines[at].startswith("    ") and not lines[at - 1].strip():
            end = next(
                (i for i in range(at, len(lines)) if lines[i].strip() and not lines[i].startswith("    ")), len(lines)
            )
        else:
            at += 1
            continue
        before = [line for line in lines[:at] if line.strip()][-1]
        found.append(Block(at + 1, "\n".join(lines[at:end]), before))
        at = end + 1
    return found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in (*RECIPES, MEASURED)], ids=lambda page: page.name
)
def test_every_block_is_tried_or_says_why_not(page: Path) -> None:
    """The comment before it names a test that there is, or gives a reason."""
    for block in blocks(page):
        mark = MARK.fullmatch(block.mark)
        assert mark, f"{page.name}:{block.line}: no <!-- tried: FILE::TEST --> or <!-- not tried: WHY --> before it"
        if mark[1] == "tried":
            file, _, test = mark[2].partition("::")
            assert re.search(rf"^ *def {test}\(", (ROOT / file).read_text(), re.MULTILINE), mark[2]


def test_files_of_grants_are_read() -> None:
    """All of the pages' own are good ones."""
    texts = [block.text for page in PAGES for block in blocks(page) if "[[grant]]" in block.text]
    assert len(texts) >= 3
    for text in texts:
        toml = textwrap.dedent(re.sub(r"^```.*", "", text))
        assert entries.parse(toml.encode(), "page")


def test_the_walk_sees_blocks() -> None:
    """Of both kinds."""
    assert len(blocks(ROOT / "README.md")) >= 8
    assert len(blocks(DOCS / "standing.md")) == 3
    assert len(blocks(DOCS / "why-not.md")) >= 5


def inline(page: Path) -> set[str]:
    """What stands between backticks in running text, with each on one line."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_inline_commands_are_understood(page: Path) -> None:
    """Each that begins with privbind or privbindctl is a command line, but for … and what is in capitals."""
    for code in sorted(inline(page)):
        line = re.fullmatch(r"(?:sudo )?(privbind|privbindctl) (\S.*)", code)
        if line is None:
            continue
        words = [word for word in shlex.split(line[2]) if word != "…"]
        if line[1] == "privbindctl":
            ctl.parse(words)
            continue
        try:
            options = parse(words)
        except NoCommandError:
            options = parse([*words, "true"])
        for rule in options._values.get("allow", []):
            assert rule == "RULE" or Policy.parse([rule]) is not None


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", *sorted(ROOT.glob("man/*"))], ids=lambda page: page.name
)
def test_no_merge_is_left_half_done(page: Path) -> None:
    """No line of git's that marks a conflict."""
    assert not re.findall(r"^(?:<{7}|={7}|>{7}).*$", page.read_text(), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To files of this repository, and headings in them."""
    text = page.read_text()
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]:
        name, _, anchor = link.partition("#")
        if "://" in name:
            continue
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_index_has_every_page() -> None:
    """docs/index.md leads to all of them, and to the pages of the top folder."""
    index = DOCS / "index.md"
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    assert {page for page in [*PAGES, ROOT / "CHANGELOG.md", *ROOT.glob("man/*")] if page != index} <= linked


def test_the_picture_is_the_same_in_light_and_dark() -> None:
    """Only the first style differs, and it names the same classes; both are XML and say what they show."""
    light, dark = (ET.parse(DOCS / name).getroot() for name in ("grant.svg", "grant-dark.svg"))
    assert light.attrib == dark.attrib
    assert len(light) == len(dark)
    colours = [next(part.text or "" for part in picture if part.tag.endswith("style")) for picture in (light, dark)]
    assert colours[0] != colours[1]
    assert re.sub(r"#[0-9a-f]+", "", colours[0]) == re.sub(r"#[0-9a-f]+", "", colours[1])
    rest = [
        [(part.tag, part.attrib, part.text) for part in picture if part.text not in colours]
        for picture in (light, dark)
    ]
    assert rest[0] == rest[1]
    assert {part.tag.rpartition("}")[2] for part in light} >= {"title", "desc"}
