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
    "-q": "quiet",
    "-h": "help",
    "--dry-run": "dry-run",
    "--json": "json",
    "--no-new-privs": "no-new-privs",
    "--set-home": "set-home",
    "--version": "version",
}
_WITHOUT_USER = {"allow", "verbose", "very-verbose", "quiet", "dry-run", "json"}
"""Options that an ordinary user may give without -u, to start a command that may bind what they name already."""

_WITH_LIBRARY = "preload"
"""The mechanism that -l implies."""

_EXAMPLES = {
    "a": "-a tcp:80",
    "allow": "--allow tcp:80",
    "u": "-u USER",
    "user": "--user USER",
    "via": f"--via {MECHANISMS[0]}",
}
_VALUE_NAMES = {f"--{name}" for name in _WITH_VALUE.values()}
_FLAG_NAMES = {f"--{name}" for name in _WITHOUT_VALUE.values()}

NAMES = (*_WITH_VALUE, *_WITHOUT_VALUE, *sorted(_VALUE_NAMES | _FLAG_NAMES))
"""All options as they are written; long ones may be in it twice."""
OWN = ("--allow", "--binds", "--via", "--no-new-privs", "--set-home")
"""Long options that few other programs have."""


TRY = "try privbind --help"


class NoUserError(UsageError):
    """No option says who the command runs as, where it cannot be started as the caller."""

    def __init__(self, command: list[str]) -> None:
        """``command`` is what would be started."""
        super().__init__("no user given", "-u USER: who the command runs as")
        self.command = command


class NoCommandError(UsageError):
    """There is no command after the options."""

    def __init__(self) -> None:
        """Always the same."""
        super().__init__("no command given", TRY)


class UnknownOptionError(UsageError):
    """An option that privbind does not have; ``word`` is the whole word, ``following`` what stands behind it."""

    def __init__(self, name: str, word: str, following: list[str]) -> None:
        """Keep them for whoever wants to guess what was meant."""
        super().__init__(f"unknown option {name}", TRY)
        self.name = name
        self.word = word
        self.following = following


class UnknownMechanismError(UsageError):
    """What ``--via`` names is no mechanism."""

    def __init__(self, name: str) -> None:
        """``name`` is what it names."""
        super().__init__(f"--via: unknown mechanism '{name}'", ", ".join((AUTO, *MECHANISMS)))
        self.name = name


class Options:
    """What was given, still as text; the methods give it meaning.

    ``user`` and ``group`` are apart whether written ``-u USER -g GROUP`` or ``-u USER:GROUP``. ``separated`` says that
    ``--`` stood in front of the command.
    """

    def __init__(
        self, values: dict[str, list[str]], flags: set[str], command: list[str], separated: bool = False
    ) -> None:
        """``values`` are all values of each option that takes one, in order; ``flags`` the options without."""
        self._values = values
        self.command = command
        self.separated = separated
        self.group = self._last("group")
        self.user = self._last("user")
        if self.user is not None and ":" in self.user:
            self.user, self.group = _user_and_group(self.user, self.group)
        self.library = self._last("library")
        self.no_groups = "no-groups" in flags
        self.verbose = "verbose" in flags
        self.very_verbose = "very-verbose" in flags
        self.quiet = "quiet" in flags
        self.dry_run = "dry-run" in flags
        self.json = "json" in flags
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
    separated = False
    for word in words:
        if word == "--":
            command, separated = list(words), True
        elif word.startswith("--"):
            _long(word, words, values, flags)
        elif word.startswith("-") and word != "-":
            _short(word, words, values, flags)
        else:
            command = [word, *words]
    options = Options(values, flags, command, separated)
    if not (options.help or options.version):
        _check(options, values, flags)
    return options


def _check(options: Options, values: dict[str, list[str]], flags: set[str]) -> None:
    if options.user is None and (values.keys() | flags) - _WITHOUT_USER:
        raise NoUserError(options.command)
    if options.via not in (AUTO, *MECHANISMS):
        raise UnknownMechanismError(options.via)
    if options.library is not None and options.via != _WITH_LIBRARY:
        raise UsageError(f"-l goes with --via {_WITH_LIBRARY}, not with --via {options.via}")
    if not options.command:
        raise NoCommandError
    if options.json and not options.dry_run:
        raise UsageError("--json goes with --dry-run", "privbindctl ls --json lists what is granted")
    if options.quiet and options.verbose:
        raise UsageError("-q and -v do not go together", "-q: no warnings; -v: the whole story")


def _user_and_group(text: str, group: str | None) -> tuple[str, str]:
    """Take USER:GROUP apart, as gosu and chown do. Raises UsageError."""
    user, _, named = text.partition(":")
    if not user or not named:
        raise UsageError(
            f"-u: '{text}' names no {'group behind' if user else 'user before'} the colon", "-u USER:GROUP"
        )
    if group is not None:
        raise UsageError(f"-u {text} names a group, and so does -g {group}", "one of them is enough")
    return user, named


def _long(word: str, words: Iterator[str], values: dict[str, list[str]], flags: set[str]) -> None:
    name, equals, value = word.partition("=")
    if name in _FLAG_NAMES:
        if equals:
            raise UsageError(f"option {name} takes no value")
        _add(flags, name[2:])
    elif name in _VALUE_NAMES:
        values.setdefault(name[2:], []).append(value if equals else _next(name, words))
    else:
        raise UnknownOptionError(name, word, list(words))


def _add(flags: set[str], flag: str) -> None:
    flags.add("very-verbose" if flag == "verbose" and flag in flags else flag)


def _short(word: str, words: Iterator[str], values: dict[str, list[str]], flags: set[str]) -> None:
    """Read ``-Gv`` and ``-uNAME`` alike: letters without value may be joined, and the rest of the word is a value."""
    if len(word) > 2 and "-" + word.partition("=")[0] in _VALUE_NAMES | _FLAG_NAMES:
        raise UnknownOptionError(word.partition("=")[0], word, list(words))
    for index, letter in enumerate(word[1:], 2):
        name = "-" + letter
        if name in _WITHOUT_VALUE:
            _add(flags, _WITHOUT_VALUE[name])
        elif name in _WITH_VALUE:
            values.setdefault(_WITH_VALUE[name], []).append(word[index:] or _next(name, words))
            return
        else:
            raise UnknownOptionError(name, word, list(words))


def _next(name: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None or value == "--":
        behind = "" if value is None else ", but '--' follows it"
        raise UsageError(f"option {name} needs a value{behind}", _EXAMPLES.get(name.lstrip("-"), ""))
    return value
