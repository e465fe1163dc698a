"""Completion in bash, zsh and fish: it loads, and offers what there is."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from privbind.commands import privbindctl as ctl
from privbind.commands import usage
from privbind.request import MECHANISMS

from ..harness.install import ROOT

FOLDER = ROOT / "completions"
HELPS = {"privbind": usage.HELP, "privbindctl": ctl.HELP}
ASK = r"""
. "$1"
COMP_LINE=$2 COMP_POINT=${#2}
# As readline splits it: colons and equals signs are words of their own.
read -ra COMP_WORDS <<<"$(sed -E 's/([=:])/ \1 /g' <<<"$2")"
[[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"_$3"
printf '%s\n' "${COMPREPLY[@]}"
"""


def options(text: str) -> set[str]:
    """Those that a help shows."""
    shown = [line for line in text.splitlines() if re.match(r" {2,6}-", line)]
    assert shown
    return {
        word
        for line in shown
        for word in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", line.split("  ", 3)[1] or line[:26])
    }


def bash(line: str) -> set[str]:
    """What bash offers at the end of a line."""
    return {*bash_in_order(line)}


def bash_in_order(line: str) -> list[str]:
    """The same in its order, where bash is told to keep that."""
    command = line.split(maxsplit=1)[0]
    argv = ["bash", "--norc", "-c", ASK, "bash", str(FOLDER / f"{command}.bash"), line, command]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


COMMON = ["http", "https", "domain", "ssh", "smtp", "submission", "imaps", "ntp"]


def test_common_services_come_first() -> None:
    """In bash and in fish; for udp those that are udp's."""
    assert bash_in_order("privbind -a ")[:11] == ["tcp:", "udp:", "any", *COMMON]
    assert bash_in_order("privbind -a udp:")[:4] == ["any", "https", "domain", "ntp"]
    assert len(bash_in_order("privbind -a ")) > 100
    assert fish("privbind -a ")[:11] == ["tcp:", "udp:", "any", *COMMON]
    assert fish("privbindctl allow nobody tcp:80,tcp:")[:3] == ["tcp:80,tcp:any", "tcp:80,tcp:http", "tcp:80,tcp:https"]
    assert f"common=({' '.join(COMMON)})" in (FOLDER / "_privbind").read_text()


@pytest.mark.parametrize("command", HELPS)
def test_bash_knows_all_options(command: str) -> None:
    """Those of --help, no others."""
    assert bash(f"{command} -") == options(HELPS[command])


@pytest.mark.parametrize("command", ctl._COMMANDS)
def test_each_command_has_its_own_options(command: str) -> None:
    """In bash, once the command has been written."""
    flags, values, _ = ctl._COMMANDS[command]
    own = {f"--{name}" for name in (*flags, *values)}
    own |= {short for short, name in ctl._SHORT.items() if name in own}
    assert bash(f"privbindctl {command} -") == own | {"-h", "--help", "--version"}


@pytest.mark.parametrize("command", HELPS)
def test_zsh_knows_all_options(command: str) -> None:
    """Read from the file itself, so that it is looked at without zsh, too."""
    parts = (FOLDER / "_privbind").read_text().partition("privbindctl)\n")[2].partition(";;\n")
    text = parts[0] if command == "privbindctl" else parts[2]
    told = re.sub(r"\[[^]]*\]|\(-[^)]*\)", "", text.partition("_arguments -S")[2])
    found = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", told)) - {"-s", "-A", "-g", "-e"}
    assert found | ({"-g"} if command == "privbind" else set()) == options(HELPS[command])


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("privbind -u nobod", {"nobody"}),
        ("privbind -Gunobody -u nobod", {"nobody"}),
        ("privbind -Gu nobod", {"nobody"}),
        ("privbind --user=nobod", {"nobody"}),
        ("privbind -g nogrou", {"nogroup"}),
        ("privbind --via ", {"auto", *MECHANISMS}),
        ("privbind --via=", {"auto", *MECHANISMS}),
        ("privbind -a ", {"tcp:", "udp:", "any"}),
        ("privbind -a 80,tc", {"80,tcp:"}),
        ("privbind -r an", {"any"}),
        ("privbind -u nobody --via bpf -a tcp:80 -- bas", {"bash"}),
        ("privbind -u nobody -a tcp:80 --dry-run bas", {"bash"}),
        ("privbind -u nobody cat /etc/passw", {"/etc/passwd"}),
        ("privbindctl ", set(ctl._COMMANDS)),
        ("privbindctl disa", {"disallow"}),
        ("privbindctl allow nobod", {"nobody"}),
        ("privbindctl allow nobody ", {"tcp:", "udp:", "any"}),
        ("privbindctl allow nobody tcp:80,u", {"80,udp:"}),
        ("privbindctl allow nobody tcp:80 tcp:", {"any"}),
        ("privbindctl allow --group nogrou", {"nogroup"}),
        ("privbindctl allow --group=nogrou", {"nogroup"}),
        ("privbindctl allow --group nogroup ", {"tcp:", "udp:", "any"}),
        ("privbindctl allow --cgroup / nobod", {"nobody"}),
        ("privbindctl test nobod", {"nobody"}),
        ("privbindctl test nobody udp:", {"any"}),
        ("privbindctl explain ", {"tcp:", "udp:", "any"}),
        ("privbindctl explain tcp:80 --user nobod", {"nobody"}),
        ("privbindctl watch --po", {"--port"}),
        ("privbindctl watch --port htt", {"http"}),
        ("privbindctl watch --user nobod", {"nobody"}),
        ("privbindctl check /etc/passw", {"/etc/passwd"}),
        ("privbindctl load --cgroup /et", {"/etc"}),
        ("privbindctl load --dr", {"--dry-run"}),
        ("privbindctl doctor --j", {"--json"}),
    ],
)
def test_bash_offers_what_fits(line: str, some: set[str]) -> None:
    """Users, groups, mechanisms, rules, then the command and its arguments."""
    assert some <= bash(line)


def test_bash_offers_no_options_for_the_command() -> None:
    """They are its own."""
    assert not bash("privbind -u nobody cat --dry")


def fish(line: str) -> list[str]:
    """What fish offers at the end of a line."""
    if shutil.which("fish") is None:
        pytest.skip("not installed: fish")
    load = "".join(f"source {FOLDER}/{name}.fish; " for name in HELPS)
    argv = ["fish", "--no-config", "-c", f"{load} complete -C $argv[1]", line]
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


@pytest.mark.parametrize("command", HELPS)
def test_fish_knows_all_options(command: str) -> None:
    """Those of --help, no others; of privbindctl those of each command."""
    lines = ["privbind "] if command == "privbind" else [f"privbindctl {name} " for name in ctl._COMMANDS]
    found = {offer for line in lines for dashes in ("-", "--") for offer in fish(line + dashes)}
    shown = {name for name in options(HELPS[command]) if name.startswith("--")}
    assert {offer for offer in found if offer.startswith("--")} == shown
    text = (FOLDER / f"{command}.fish").read_text()
    shorts = {f"-{letter}" for letter in re.findall(rf"^complete -c {command} .*-s (\w)", text, re.MULTILINE)}
    assert shorts == options(HELPS[command]) - shown


@pytest.mark.parametrize("command", ctl._COMMANDS)
def test_fish_offers_each_command_its_own_options(command: str) -> None:
    flags, values, _ = ctl._COMMANDS[command]
    found = {offer for offer in fish(f"privbindctl {command} --") if offer.startswith("--")}
    assert found == {f"--{name}" for name in (*flags, *values)} | {"--help", "--version"}


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("privbind -u nobod", {"nobody"}),
        ("privbind --user nobod", {"nobody"}),
        ("privbind -g nogrou", {"nogroup"}),
        ("privbind --via ", {"auto", *MECHANISMS}),
        ("privbind -a 80,tc", {"80,tcp:"}),
        ("privbind -r an", {"any"}),
        ("privbind -u nobody --via bpf -a tcp:80 -- bas", {"bash"}),
        ("privbind -u nobody -a tcp:80 --dry-run bas", {"bash"}),
        ("privbind -u nobody cat /etc/passw", {"/etc/passwd"}),
        ("privbindctl ", set(ctl._COMMANDS)),
        ("privbindctl disa", {"disallow"}),
        ("privbindctl allow nobod", {"nobody"}),
        ("privbindctl allow nobody ", {"tcp:", "udp:", "any"}),
        ("privbindctl explain ", {"tcp:", "http"}),
        ("privbindctl check /etc/passw", {"/etc/passwd"}),
        ("privbindctl oci-install ", {"podman", "docker", "containerd", "cri-o"}),
    ],
)
def test_fish_offers_what_fits(line: str, some: set[str]) -> None:
    """As bash does."""
    assert some <= {*fish(line)}


def test_fish_offers_no_options_for_the_command() -> None:
    """They are its own."""
    assert "--dry-run" not in fish("privbind -u nobody cat --dry")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("privbind --via se", "privbind --via seccomp"),
        ("privbind --dry", "privbind --dry-run"),
        ("privbind -u nobod", "privbind -u nobody"),
        ("privbindctl doc", "privbindctl doctor"),
        ("privbindctl ls --js", "privbindctl ls --json"),
        ("privbindctl dis", "privbindctl disallow"),
        ("privbindctl allow nobod", "privbindctl allow nobody"),
        ("privbindctl allow nobody ud", "privbindctl allow nobody udp:"),
        ("privbindctl load --dr", "privbindctl load --dry-run"),
    ],
)
def test_zsh_completes(tmp_path: Path, typed: str, completed: str) -> None:
    """In a terminal, as typed."""
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("not installed: zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
        os.execve(zsh, [zsh, "-f", "-i"], environment)
    try:
        set_up = f"fpath=({FOLDER} $fpath); autoload -Uz compinit && compinit -u -D; bindkey -e; echo rea''dy"
        os.write(terminal, f"{set_up}\n".encode())
        read_until(terminal, "ready")
        os.write(terminal, f"{typed}\t\x01echo 'do'ne \n".encode())
        assert f"done {completed}" in read_until(terminal, f"done {typed.split(maxsplit=1)[0]}[^\n]*\n")
    finally:
        os.kill(pid, 9)
        os.close(terminal)
        os.waitpid(pid, 0)


def read_until(terminal: int, pattern: str) -> str:
    """What a terminal shows until there is a match."""
    shown = ""
    end = time.monotonic() + 30
    while not re.search(pattern, shown):
        assert select.select([terminal], [], [], max(0, end - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096).decode("utf-8", "replace").replace("\r", "")
    return shown
