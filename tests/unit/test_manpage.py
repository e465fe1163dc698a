"""The man page says what `privbind --help` says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from privbind.commands.privbindctl import HELP as CTL_HELP
from privbind.commands.usage import HELP
from privbind.request import MECHANISMS

from ..harness.install import ROOT

PAGE = ROOT / "man/privbind.1"
HELP_OPTION = re.compile(r"^ {2}(?: {4}|(?P<short>-\w), )(?P<long>--[\w-]+)(?: (?P<value>[A-Z]+))? +(?P<text>.+)$")


def plain(text: str) -> str:
    """Text without roff's escapes."""
    return re.sub(r"\\f[A-Z]", "", text).replace("\\-", "-")


def section(name: str) -> str:
    return re.split(r"^\.SH .*\n", PAGE.read_text().partition(f".SH {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def page_options() -> dict[str, str]:
    """Each option's tag and the first paragraph of what is said about it."""
    found = {}
    for entry in section("OPTIONS").split(".TP\n")[1:]:
        tag, *lines = entry.splitlines()
        end = next((i for i, line in enumerate(lines) if line.startswith(".")), len(lines))
        found[plain(tag)] = plain(" ".join(lines[:end]))
    return found


def help_options() -> dict[str, str]:
    found = {}
    for line in HELP.splitlines():
        if match := HELP_OPTION.match(line):
            tag = ", ".join(filter(None, (match["short"], match["long"])))
            found[f"{tag} {match['value']}" if match["value"] else tag] = match["text"]
    return found


def test_every_line_of_the_help_that_shows_an_option_is_understood() -> None:
    """Otherwise the next test would compare less than there is."""
    shown = [line for line in HELP.splitlines() if line.lstrip().startswith("-")]
    assert len(help_options()) == len(shown) > 10


def test_the_page_has_the_same_options_as_the_help_in_the_same_words() -> None:
    """In the same order, too."""
    assert list(page_options().items()) == list(help_options().items())


def test_the_page_has_the_first_sentence_of_the_help() -> None:
    (sentence,) = (line for line in HELP.splitlines() if line.startswith("Run "))
    words = " ".join(re.sub(r"^\.[BI] ", "", line) for line in section("DESCRIPTION").split(".PP")[0].splitlines())
    assert plain(words).strip() == sentence


def test_the_page_tells_of_every_mechanism_and_exit_status() -> None:
    """Mechanisms in the order in which auto tries them."""
    assert re.findall(r"^\.TP\n\.B (\w+)$", section("MECHANISMS"), re.MULTILINE) == list(MECHANISMS)
    statuses = set(re.findall(r"\b12\d\b", HELP))
    assert set(re.findall(r"^\.B (\d+)$", section("EXIT STATUS"), re.MULTILINE)) == statuses == {"125", "126", "127"}


@pytest.mark.skipif(shutil.which("man") is None, reason="man is missing")
@pytest.mark.parametrize("page", sorted((ROOT / "man").iterdir()), ids=lambda page: page.name)
def test_every_page_is_set_without_a_warning(page: Path) -> None:
    """And what stands in its NAME section is found by whatis: name, dash, text."""
    set_page = ["man", "--warnings=w", "--nj", "--encoding=UTF-8", "--local-file", str(page)]
    environment = {"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(set_page, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^NAME\n +{page.stem} - \w", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("text", [HELP, CTL_HELP])
def test_the_help_fits_a_terminal(text: str) -> None:
    """80 columns, and three examples at its end."""
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(r"^  (?:privbind|privbindctl) ", text[-500:], re.MULTILINE)) == 3
