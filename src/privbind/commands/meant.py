# SPDX-License-Identifier: MIT
"""What a command line that failed was meant to be. Loaded only then, and with it difflib."""

from __future__ import annotations

import posix
from difflib import get_close_matches
from os.path import isfile
from shlex import join, quote

from ..account import own
from ..errors import NotFoundError, NotGrantedError, PrivbindError, UnsupportedError
from ..grant.policy import MAX_PORT, Policy, PolicyError, number
from ..request import MECHANISMS
from ..request.options import (
    NAMES,
    NoCommandError,
    NoUserError,
    UnknownMechanismError,
    UnknownOptionError,
)
from ..request.program import find
from ..request.resolve import NotPermittedError, variable
from ..values import value
from .privbindctl import _COMMANDS, HELP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DASHES = {"\u2010": "a hyphen", "\u2011": "a hyphen", "\u2012": "a dash", "\u2013": "an en dash",
           "\u2014": "an em dash", "\u2015": "a dash", "\u2212": "a minus sign"}  # fmt: skip
_PORT_OPTIONS = ("-p", "--port", "--ports", "--publish", "--listen", "--bind", "-b")
_OTHER_OPTIONS = {
    "--uid": "--user", "--reuid": "--user", "--gid": "--group", "--regid": "--group", "--rule": "--allow",
    "--deep": "--allow", "--chuid": "--user", "--mechanism": "--via", "--method": "--via", "-V": "--version",
    "--rules": "--allow", "--init-groups": "--user", "--clear-groups": "--no-groups", "--silent": "--quiet",
    "--limit": "--binds", "--count": "--binds", "-?": "--help", "--usage": "--help", "-c": "--",
}  # fmt: skip
"""What other programs call it."""
_OTHER_COMMANDS = {
    "list": "ls", "status": "ls", "show": "ls", "ps": "ls", "grants": "ls", "info": "doctor", "version": "--version",
    "add": "allow", "deny": "disallow", "remove": "disallow", "rm": "disallow", "delete": "disallow",
    "reload": "load", "apply": "load", "start": "load", "enable": "load", "stop": "unload", "disable": "unload",
    "validate": "check", "verify": "check", "why": "explain", "monitor": "watch", "log": "watch", "logs": "watch",
}  # fmt: skip
_FOR_USERS = {"grant": "allow", "revoke": "disallow"}
"""What does for a user what these do for a cgroup."""

_OF_THE_SHELL = ("cd", "exec", "export", "source", ".", "ulimit", "umask", "eval", "set", "alias")
_RUN_BY = {"py": "python3", "js": "node", "mjs": "node", "rb": "ruby", "pl": "perl", "php": "php", "sh": "sh"}
_ROOT_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""sudo's usual secure_path (sudoers(5))."""


@value
class Line:
    """A command line of privbind's: all its words, those of the command as far as they were told apart, and PATH."""

    arguments: list[str]
    command: list[str]
    environment: list[bytes]


def remedy(error: PrivbindError, line: Line) -> str:
    """What to do about an error, where the command line tells more than the error; empty where it does not."""
    guesses: dict[type[PrivbindError], Callable[[Any, Line], str]] = {
        UnknownOptionError: _option,
        UnknownMechanismError: _mechanism,
        NoCommandError: _no_command,
        NoUserError: _no_user,
        NotPermittedError: _as_root,
        NotGrantedError: _not_granted,
        NotFoundError: _not_found,
        UnsupportedError: _unsupported,
    }
    guess = guesses.get(type(error))
    return guess(error, line) if guess else ""


def of_command(name: str) -> str:
    """What to do where privbindctl has no such command."""
    other = _OTHER_COMMANDS.get(name, "")
    close = [other] if other in (*_COMMANDS, "--version") else get_close_matches(name.lower(), _COMMANDS, 1)
    return f"did you mean privbindctl {close[0]}?" if close else "privbindctl --help lists all"


def of_option(command: str, name: str, known: tuple[str, ...]) -> str:
    """What to do where a command of privbindctl's has no such option."""
    if not command and name in NAMES:
        return f"it is an option of privbind: privbind {name} …"
    if name in _PORT_OPTIONS and "allow" in known:
        return "did you mean --allow tcp:80?"
    if command in _FOR_USERS and name in ("--user", "-u", "--group", "-g"):
        return _for_user(command, "USER")
    close = get_close_matches(name, [f"--{option}" for option in known], 1)
    return f"did you mean {close[0]}?" if close else usage(command)


def of_word(command: str, word: str) -> str:
    """What to do where a command of privbindctl's takes no argument."""
    if command in _FOR_USERS and not {*word} & {*"/:"} and not word[:1].isdigit():
        return _for_user(command, word)
    return usage(command)


def _for_user(command: str, user: str) -> str:
    return f"for a user: privbindctl {_FOR_USERS[command]} {user} RULE..."


def usage(command: str) -> str:
    """The form of a command of privbindctl's, "" for none."""
    forms = HELP.removeprefix("Usage:").partition("PLACE is")[0].split("privbindctl ")
    found = (" ".join(form.split()) for form in forms if command and f"{form} ".startswith(f"{command} "))
    return f"privbindctl {form}" if (form := next(found, "").strip()) else "privbindctl --help lists all"


def _option(error: UnknownOptionError, _: Line) -> str:
    name = error.name
    if not name.startswith("--") and "-" + name in NAMES:
        return f"did you mean -{name}?"
    if name in _PORT_OPTIONS:
        value = error.word.partition("=" if name.startswith("--") else name[1])[2]
        return f"did you mean --allow {_as_rule(value or next(iter(error.following), ''))}?"
    close = [_OTHER_OPTIONS.get(name) or name.swapcase()]
    if close[0] not in NAMES:
        # A short one may begin a long one that has lost a dash.
        word = name if name.startswith("--") else "-" + error.word
        close = get_close_matches(word, NAMES, 1) if len(word) > 4 else []
    return f"did you mean {close[0]}?" if close else ""


def _mechanism(error: UnknownMechanismError, _: Line) -> str:
    close = get_close_matches(error.name.lower(), MECHANISMS, 1)
    return f"did you mean {close[0]}?" if close else ""


def _as_rule(text: str) -> str:
    """What a port that was given to another option is as a rule."""
    port = text.rpartition(":")[2].partition("/")[0]
    try:
        return f"tcp:{number(port, 1, MAX_PORT, '')}"
    except PolicyError:
        return "tcp:80"


def _no_command(_: NoCommandError, line: Line) -> str:
    if not line.arguments:
        return "for example: privbind -u www-data --allow tcp:80 -- ./server; privbind --help tells more"
    given = join([word for word in line.arguments if word != "--"])
    return f"it comes last: privbind {given} -- COMMAND"


def _no_user(error: NoUserError, line: Line) -> str:
    first = line.arguments[0]
    if first == "help":
        return "privbind --help"
    if first in _COMMANDS:
        return f"did you mean privbindctl {first}?"
    return _dash("".join(error.command[:1]))


def _dash(word: str) -> str:
    """What to say of a word that begins with a character that only looks like the hyphen of options."""
    kind = _DASHES.get(word[:1], "")
    rest = word.lstrip("-" + "".join(_DASHES))
    option = ("-" if len(rest) == 1 else "--") + rest
    return f"'{word}' begins with {kind}, as text copied from a page may: write {option}" if kind else ""


def _as_root(_: NotPermittedError, line: Line) -> str:
    """The line to type as root, with the full name of a command that root would not find."""
    if not posix.geteuid():
        return ""
    command = list(line.command)
    place = _place(command[0], line.environment)
    if place.rpartition("/")[0] not in _ROOT_PATH:
        command[0] = place
    front = line.arguments[: len(line.arguments) - len(command)]
    return f"sudo privbind {join([*front, *command])}"


def _place(name: str, environment: list[bytes]) -> str:
    """Where the caller's PATH has a command; its name where that is a path already, or where there is none."""
    if "/" in name:
        return name
    try:
        path = find(name.encode("utf-8", "surrogateescape"), variable(environment, b"PATH"), own()).path
    except PrivbindError:
        return name
    return path.decode("utf-8", "surrogateescape")


def _not_granted(error: NotGrantedError, line: Line) -> str:
    if line.arguments[0] not in _COMMANDS:
        return ""
    error.file = ""
    return f"did you mean privbindctl {line.arguments[0]}?"


def _unsupported(error: UnsupportedError, _: Line) -> str:
    if error.mechanism == MECHANISMS[-1] and "policy" in error.reason:
        return f"{error.remedy}; or leave out --via: the other mechanisms honour rules"
    return ""


def _not_found(_: NotFoundError, line: Line) -> str:  # noqa: PLR0911  # a mistake each
    """Why there is no such command, where something about its name says so."""
    name, *rest = line.command
    if name in _COMMANDS:
        return f"did you mean privbindctl {name}?"
    if _is_variable(name):
        return f"a variable is set by env: -- env {join([name, *rest])}"
    if _is_rule(name):
        return f"rules are joined by commas, without blanks: --allow {','.join([*_rules(line.arguments), name])}"
    if name.startswith("-"):
        return f"-- ends the options: {name} belongs in front of it"
    if len(name.split()) > 1:
        return f"in quotes this is one word: write -- {name}"
    if name in _OF_THE_SHELL:
        return f"it is a word of the shell: write -- sh -c {quote(join([name, *rest]) + '; …')}"
    return _dash(name) or _elsewhere(name, variable(line.environment, b"SUDO_USER") is not None)


def _elsewhere(name: str, by_sudo: bool) -> str:
    """Where a command may be that is not in PATH."""
    if name.startswith("~"):
        return "the shell replaces ~ only outside of quotes"
    if "/" in name:
        return ""
    if isfile(name):
        return _lies_here(name)
    if posix.geteuid():
        return ""
    if by_sudo:
        return f"sudo takes root's PATH, not yours: write $(which {quote(name)}) in its place"
    return "root's PATH has none: give the whole path"


def _lies_here(name: str) -> str:
    """What starts a file of the working directory."""
    program = _RUN_BY.get(name.rpartition(".")[2])
    if posix.access(name, posix.X_OK):
        how = f"./{name}"
    elif program:
        how = f"{program} {name}"
    else:
        how = f"chmod +x {quote(name)}, and ./{name}"
    return f"a file of that name is in this folder: {how}"


def _is_variable(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def _is_rule(text: str) -> bool:
    try:
        Policy.parse([text.strip(",")])
    except PolicyError:
        return False
    return True


def _rules(arguments: list[str]) -> list[str]:
    """What the last -a of a command line was given."""
    for at in range(len(arguments) - 1, -1, -1):
        name, equals, value = arguments[at].partition("=")
        if name in ("-a", "--allow"):
            return [(value if equals else "".join(arguments[at + 1 : at + 2])).strip(",")]
    return []
