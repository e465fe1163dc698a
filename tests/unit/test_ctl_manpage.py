"""The man page of privbindctl says what `privbindctl --help` says, and tells of every key of the JSON."""

from __future__ import annotations

import re
from dataclasses import fields

from privbind.commands import watch
from privbind.commands.privbindctl import _COMMANDS, HELP
from privbind.inspect.grants import LiveGrant
from privbind.inspect.host import Cgroups, Installed, Offer, Shim
from privbind.inspect.standing import Standing
from privbind.inspect.verdict import UNKNOWN, VERDICTS, Explanation, Who
from privbind.inspect.watch import Bind, Process
from privbind.inspect.watch_events import VERDICTS as WATCHED
from privbind.inspect.watch_events import Judgement

from ..harness.install import ROOT

PAGE = ROOT / "man/privbindctl.1"


def plain(text: str) -> str:
    """Text without roff's escapes."""
    return re.sub(r"\\f[A-Z]", "", text).replace("\\-", "-")


def section(name: str) -> str:
    return re.split(r"^\.S[H] .*\n", PAGE.read_text().partition(f".SH {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def told(name: str) -> dict[str, str]:
    """Each tag of a section, and the first paragraph of what is said about it."""
    found = {}
    for entry in section(name).split(".TP\n")[1:]:
        tag, *lines = entry.splitlines()
        end = next((i for i, line in enumerate(lines) if line.startswith(".")), len(lines))
        found[plain(tag)] = plain(" ".join(lines[:end]))
    return found


def shown() -> dict[str, str]:
    """What the help says of each command and option."""
    lines = [
        re.fullmatch(r" {2,6}(-\w, --[\w-]+(?: [A-Z]+)?|--[\w-]+(?: [A-Z]+)?|[a-z-]+(?:, [a-z]+)?) {2,}(.+)", line)
        for line in HELP.splitlines()
    ]
    return {line[1]: line[2] for line in lines if line}


def test_the_page_has_the_commands_and_options_of_the_help_in_the_same_words() -> None:
    """In the same order, too."""
    assert list({**told("COMMANDS"), **told("OPTIONS")}.items()) == list(shown().items())
    commands = [name for line in shown() if not line.startswith("-") for name in line.split(", ")]
    assert commands == list(_COMMANDS)
    options = {name for line in shown() if line.startswith("-") for name in re.findall(r"--([a-z-]+)", line)}
    assert options == {"help", "version"}.union(*(flags + values for flags, values, _ in _COMMANDS.values()))


def test_the_synopsis_is_that_of_the_help() -> None:
    """The same command lines in the same order, each with the same words, and what PLACE is."""
    usage = HELP.partition("Usage: ")[2].partition("\nTell ")[0]
    roff = re.sub(r"\\c$|^\.[A-Z]+ ", "", section("SYNOPSIS"), flags=re.MULTILINE)

    def words(text: str) -> list[str]:
        return re.findall(r"[\w-]+", plain(text))

    assert words(re.sub(r"^\.(?:br|PP)$", "", roff, flags=re.MULTILINE)) == words(usage)


def test_the_page_has_the_first_sentence_of_the_help() -> None:
    (sentence,) = (line for line in HELP.splitlines() if line.startswith("Tell "))
    assert section("DESCRIPTION").splitlines()[0] == sentence


def test_the_page_tells_of_every_exit_status() -> None:
    assert re.findall(r"^\.B (\d+)$", section("EXIT STATUS"), re.MULTILINE) == ["0", "1", "125"]
    assert "0; 1 doctor" in HELP
    assert "125 privbindctl" in HELP


def test_the_page_tells_of_every_key_of_the_json() -> None:
    """Each in bold."""
    bold = set(re.findall(r"[\w.]+", "\n".join(re.findall(r"^\.BR? (.*)$", section("JSON"), re.MULTILINE))))
    dotted = ((Cgroups, "cgroups."), (Shim, "shim."), (Standing, "standing."))
    for kind, prefix in ((Offer, ""), (Installed, ""), (LiveGrant, ""), *dotted):
        assert {prefix + field.name for field in fields(kind)} <= bold
    assert {
        "privbind",
        "kernel.release",
        "uid",
        "reserved.below",
        "reserved.state",
        "unseen",
        "grants",
        "notes",
    } <= bold
    bind = Bind(
        number=1, corrects=0, time_ns=0, protocol="tcp", address="::", port=80, bound=True,
        judgement=Judgement("bound", None), process=Process(pid=1, tid=1, uid=1, gid=1, name=""), helper=None,
        capability=None, cgroup=None, unit=None, container=None, pod=None, netns=1, in_first=True,
    )  # fmt: skip
    assert set(watch.values(bind, "")) | {"binds", "total"} <= bold
    assert watch.MESSAGE_ID in PAGE.read_text()
    assert set(WATCHED) <= set(re.findall(r"[\w-]+", section("JSON")))
    answer = Explanation(rule="", verdict=UNKNOWN, who=Who(1, 1), pid=None, program=None, reserved_below=1024)
    assert set(answer.values()) <= bold
    assert set(VERDICTS) <= set(re.findall(r"[\w-]+", section("JSON")))
