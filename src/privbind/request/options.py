# SPDX-License-Identifier: MIT
"""The command line as text: which options were given, in POSIX order (options end at the first other word)."""

from __future__ import annotations

from ..errors import UsageError
from ..grant.policy import MAX_U32, Policy, PolicyError, number, parse_ports
from . import AUTO, MECHANISMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..grant.policy import Ports, Services

_WITH_VALUE = {
    "-u": "user",
    "-g": "group",
    "-a": "allow",
    "-n": "binds",
    "-r": "reuse-port",
    "-l": "library",
    "--via": "via",
}
_WITHOUT_VALUE = {
    "-G": "no-groups",
    "-v": "verbose",
    "-h": "help",
    "--dry-run": "dry-run",
    "--no-new-privs": "no-new-privs",
    "--set-home": "set-home",
    "--version": "version",
}
_WITHOUT_USER = {"allow", "verbose", "dry-run"}
"""What an ordinary user may ask for without -u: to start a command as it is, when it may bind this already."""

_WITH_LIBRARY = "preload"
"""The mechanism that -l implies."""

_VALUE_NAMES = {f"--{name}" for name in _WITH_VALUE.values()}
_FLAG_NAMES = {f"--{name}" for name in _WITHOUT_VALUE.values()}


class NoUserError(UsageError):
    """Nothing says who the command runs as, and the caller will not do."""

    def __init__(self) -> None:
        """Always the same."""
        super().__init__("no user given (-u USER: who the command runs as)")


class Options:
    """What was given, still as text; the methods give it meaning."""

    def __init__(self, values: dict[str, list[str]], flags: set[str], command: list[str]) -> None:
        """``values`` are all values of each option that takes one, in order; ``flags`` the options without."""
        self._values = values
        self.command = command
        self.user = self._last("user")
        self.group = self._last("group")
        self.library = self._last("library")
        self.no_groups = "no-groups" in flags
        self.verbose = "verbose" in flags
        self.dry_run = "dry-run" in flags
        self.no_new_privileges = "no-new-privs" in flags
        self.set_home = "set-home" in flags
        self.help = "help" in flags
        self.version = "version" in flags
        via = self._last("via")
        self.via = via if via is not None else AUTO if self.library is None else _WITH_LIBRARY

    def _last(self, name: str) -> str | None:
        return self._values.get(name, [None])[-1]

    def policy(self, services: Services) -> Policy:
        """The policy of all ``-a`` together. Raises PolicyError."""
        rules = self._values.get("allow")
        return Policy(None) if rules is None else Policy.parse(rules, services)

    def limit(self) -> int:
        """``-n``: 0 for no limit. Raises PolicyError."""
        text = self._last("binds")
        return 0 if text is None else number(text, 0, MAX_U32, "-n:")

    def reuse_ports(self, services: Services) -> tuple[Ports, ...]:
        """``-r``, all of them together. Raises PolicyError."""
        try:
            return tuple(ports for text in self._values.get("reuse-port", []) for ports in parse_ports(text, services))
        except PolicyError as error:
            raise PolicyError(f"-r: {error}") from None


def parse(arguments: list[str]) -> Options:
    """Split the arguments. Raises UsageError for what is no command line of privbind."""
    values: dict[str, list[str]] = {}
    flags: set[str] = set()
    words = iter(arguments)
    command: list[str] = []
    for word in words:
        if word == "--":
            command = list(words)
        elif word.startswith("--"):
            _long(word, words, values, flags)
        elif word.startswith("-") and word != "-":
            _short(word, words, values, flags)
        else:
            command = [word, *words]
    options = Options(values, flags, command)
    if not (options.help or options.version):
        _check(options, values, flags)
    return options


def _check(options: Options, values: dict[str, list[str]], flags: set[str]) -> None:
    if options.user is None and (values.keys() | flags) - _WITHOUT_USER:
        raise NoUserError
    if options.via not in (AUTO, *MECHANISMS):
        raise UsageError(f"--via: unknown mechanism '{options.via}' ({', '.join((AUTO, *MECHANISMS))})")
    if options.library is not None and options.via != _WITH_LIBRARY:
        raise UsageError(f"-l goes with --via {_WITH_LIBRARY}, not with --via {options.via}")
    if not options.command:
        raise UsageError("no command given (try privbind --help)")


def _long(word: str, words: Iterator[str], values: dict[str, list[str]], flags: set[str]) -> None:
    name, equals, value = word.partition("=")
    if name in _FLAG_NAMES:
        if equals:
            raise UsageError(f"option {name} takes no value")
        flags.add(name[2:])
    elif name in _VALUE_NAMES:
        values.setdefault(name[2:], []).append(value if equals else _next(name, words))
    else:
        raise UsageError(f"unknown option {name} (try privbind --help)")


def _short(word: str, words: Iterator[str], values: dict[str, list[str]], flags: set[str]) -> None:
    """Read ``-Gv`` and ``-uNAME`` alike: letters without value may be joined, and the rest of the word is a value."""
    for index, letter in enumerate(word[1:], 2):
        name = "-" + letter
        if name in _WITHOUT_VALUE:
            flags.add(_WITHOUT_VALUE[name])
        elif name in _WITH_VALUE:
            values.setdefault(_WITH_VALUE[name], []).append(word[index:] or _next(name, words))
            return
        else:
            raise UsageError(f"unknown option {name} (try privbind --help)")


def _next(name: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None:
        raise UsageError(f"option {name} needs a value")
    return value
