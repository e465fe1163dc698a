# SPDX-License-Identifier: MIT
"""The privbindctl command: what this host offers, what is granted on it, and standing grants."""

from __future__ import annotations

import posix
import sys

from .. import __version__
from ..errors import PrivbindError, UsageError, strerror
from ..grant.policy import PolicyError
from ..values import value
from .output import FAILED, NO_MEMORY, let_interrupt_end, missing_module, print_out, printable, say, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROGRAM = "privbindctl"
_NO_MECHANISM = 1
_SOURCE = "src:"
_TRY = "try privbindctl --help"

HELP = """\
Usage: privbindctl doctor [--json]
       privbindctl ls [--json]
       privbindctl allow (USER | --group GROUP) RULE...
       privbindctl disallow (USER | --group GROUP) [RULE]...
       privbindctl check [--diff] [FILE]...
       privbindctl load [--dry-run] [-v]
       privbindctl unload
       privbindctl test USER RULE...
       privbindctl explain RULE... [--user USER] [--pid PID] [--json]
       privbindctl watch [--json | --journal] [--port PORTS] [--user USER]
                   [--refused] [--arguments] [--cgroup DIR]
       privbindctl import-authbind
       privbindctl grant PLACE --allow RULE... [-n NUM] [-r PORTS]
       privbindctl revoke PLACE
       privbindctl oci-install (podman | docker) --allow RULE... [--write]
       privbindctl oci-install (containerd | cri-o) [--write]
PLACE is one of --pid PID, --unit UNIT, --cgroup DIR, --self.
Tell what privbind can do here and who has which grants; give and take grants.

  doctor                 what this host offers, and how privbind is installed
  ls                     every live grant: who may bind what, how often used
  allow, disallow        give a standing grant, or take it back, and load
  check                  who may bind what by the files of grants
  load                   put the grants of the files into the kernel
  unload                 take it out
  test                   may this user bind this? 0: yes, 1: no
  explain                why a bind is refused, or permitted, and what to do
  watch                  binds of reserved ports as they happen
  import-authbind        print authbind's configuration as grants
  grant                  let a cgroup bind what the rules say
  revoke                 take the grant off a cgroup
  oci-install            print the files for a container runtime

      --group GROUP      allow, disallow: a group and its members
      --diff             check: what a load would change
      --dry-run          load: who would have which grants; nothing is loaded
  -v, --verbose          load: who may bind what; -vv: the programs, too
      --cgroup DIR       the cgroup; for standing grants: only below it
      --pid PID          the process; grant, revoke: whose cgroup it is
      --unit UNIT        grant, revoke: the cgroup of a unit of systemd
      --self             grant, revoke: privbindctl's own cgroup
      --user USER        explain: as this user; watch: only this user's binds
  -a, --allow RULE       grant, oci-install: what may be bound
  -n, --binds NUM        grant: at most NUM successful reserved binds
  -r, --reuse-port PORTS  grant: set SO_REUSEPORT before binding these ports
      --write            oci-install: write them, where there is nothing else
      --json             doctor, ls, explain, watch: print JSON, for programs
      --journal          watch: write to systemd's journal
      --port PORTS       watch: only binds of these ports
      --refused          watch: only binds that were refused
      --arguments        watch: the command lines, too, which may hold secrets
  -h, --help             print this and end
      --version          print the version and end

Run it as root: others see only a part, and are told so. privbind-grants(5)
tells of the files. Exit status: 0; 1 doctor found no mechanism that can honour
a policy, or test's answer is no; 125 privbindctl failed.

Alice may bind port 80, from now on:
  privbindctl allow alice tcp:80
Why is port 80 refused?
  privbindctl explain tcp:80
A service that runs may bind port 443:
  privbindctl grant --unit web.service --allow tcp:443
"""

_COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "doctor": (("json",), (), False),
    "ls": (("json",), (), False),
    "allow": ((), ("group", "cgroup"), True),
    "disallow": ((), ("group", "cgroup"), True),
    "check": (("diff",), ("cgroup",), True),
    "load": (("dry-run", "verbose"), ("cgroup",), False),
    "unload": ((), ("cgroup",), False),
    "test": ((), (), True),
    "explain": (("json",), ("user", "pid"), True),
    "watch": (("json", "journal", "refused", "arguments"), ("port", "user", "cgroup"), False),
    "import-authbind": ((), (), False),
    "grant": (("self",), ("pid", "unit", "cgroup", "allow", "binds", "reuse-port"), False),
    "revoke": (("self",), ("pid", "unit", "cgroup"), False),
    "oci-install": (("write",), ("allow",), True),
}
"""Of each command: its options without and with a value, and whether it takes arguments."""

_SHORT = {"-h": "--help", "-v": "--verbose", "-a": "--allow", "-n": "--binds", "-r": "--reuse-port"}
_REPEATABLE = "allow"


@value
class Call:
    """A command line: the command ("help" and "version" are two as well), its arguments and its options."""

    command: str
    words: tuple[str, ...]
    flags: frozenset[str]
    values: dict[str, str]


def start(ignored_signals: str, environment: str, arguments: list[str]) -> None:
    """Run privbindctl and end this process; the launcher's entry point. Nothing of the environment counts."""
    del ignored_signals, environment
    let_interrupt_end()
    # The launcher's place is the first of what it hands over (docs/architecture.md).
    place = sys.argv[1] if len(sys.argv) > 1 else ""
    posix._exit(main(arguments, "" if place.startswith(_SOURCE) else place))


def main(arguments: list[str], place: str = "") -> int:  # noqa: PLR0911  # ends
    """Do what the arguments (without the program's name) ask for; the exit status.

    ``place`` is the folder that privbindctl is in.
    """
    try:
        return _run(parse(arguments), place)
    except PrivbindError as error:
        return _fail(str(error))
    except PolicyError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"unexpected: {strerror(error)}")
    except MemoryError:
        return _fail(NO_MEMORY)
    except ImportError as error:
        return _fail(missing_module(error))
    except Exception as error:  # noqa: BLE001  # a fault of ours is one line as well, and nothing half-done
        return _fail(f"a fault of privbind's own: {type(error).__name__}: {error}")


def _run(call: Call, place: str) -> int:
    if call.command == "help":
        return _print(HELP)
    if call.command == "version":
        return _print(f"privbindctl {__version__}\n")
    if call.command == "doctor":
        return _doctor(place, "json" in call.flags)
    if call.command == "ls":
        return _ls("json" in call.flags)
    if call.command == "explain":
        return _explain(call)
    return _change(call, place)


def _change(call: Call, place: str) -> int:
    if call.command in ("grant", "revoke"):
        from .placed import run as run_placed

        return run_placed(call)
    if call.command == "watch":
        from .watch import run as watch

        return watch(call)
    if call.command == "oci-install":
        from .oci_install import run as install

        return install(call, place)
    from .standing import run

    return run(call)


def parse(arguments: list[str]) -> Call:
    """Read a command line. Options may stand anywhere after the command, up to ``--``. Raises UsageError."""
    words: list[str] = []
    options: list[tuple[str, str | None]] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            words += rest
        elif word == "-vv":
            options += [("--verbose", None), ("--verbose", None)]
        elif word.startswith("-") and word != "-":
            name, equals, given = _SHORT.get(word[:2], word).partition("=")
            if word[:2] in _SHORT and len(word) > 2:
                equals, given = "=", word[2:]
            if name in ("--help", "--version"):
                return Call(name[2:], (), frozenset(), {})
            # Whether it takes a value depends on the command, which may stand behind it.
            takes = any(name[2:] in with_value for _, with_value, _ in _COMMANDS.values()) and name.startswith("--")
            options.append((name, given if equals else next(rest, None) if takes else None))
        else:
            words.append(word)
    command, *words = _commanded(words, options, arguments)
    if command == "help":
        return Call("help", (), frozenset(), {})
    return _checked(command, tuple(words), options)


def _commanded(words: list[str], options: list[tuple[str, str | None]], arguments: list[str]) -> list[str]:
    """The words of a command line that begins with a command. Raises UsageError."""
    if words and (words[0] in _COMMANDS or words[0] == "help"):
        return words
    if options and arguments[0].startswith("-"):
        raise _unknown_option("", options[0][0])
    if words:
        raise UsageError(f"unknown command '{words[0]}'", _meant("of_command", words[0]))
    raise UsageError("no command given", "privbindctl --help lists all; privbindctl doctor is a good first one")


def _checked(command: str, words: tuple[str, ...], options: list[tuple[str, str | None]]) -> Call:
    flags, with_value, takes_words = _COMMANDS[command]
    found: set[str] = set()
    values: dict[str, str] = {}
    for name, given in options:
        if name[2:] in flags and name.startswith("--"):
            if given is not None:
                raise UsageError(f"option {name} takes no value", _meant("usage", command))
            found.add("very-verbose" if name == "--verbose" and "verbose" in found else name[2:])
        elif name[2:] in with_value and name.startswith("--"):
            if given is None:
                raise UsageError(f"option {name} needs a value", _meant("usage", command))
            before = values.get(name[2:])
            values[name[2:]] = f"{before},{given}" if before is not None and name[2:] == _REPEATABLE else given
        else:
            raise _unknown_option(command, name)
    if words and not takes_words:
        raise UsageError(f"{command}: takes no argument, but got '{words[0]}'", _meant("of_word", command, words[0]))
    return Call(command, words, frozenset(found), values)


def _unknown_option(command: str, name: str) -> UsageError:
    of = f"{command}: " if command else ""
    flags, with_value, _ = _COMMANDS.get(command, ((), (), False))
    return UsageError(f"{of}unknown option {name}", _meant("of_option", command, name, (*flags, *with_value)))


def _meant(question: str, *about: Any) -> str:
    """What the module that guesses says (`meant`)."""
    try:
        from . import meant
    except ImportError:
        return _TRY
    said: str = getattr(meant, question)(*about)
    return said


def _doctor(place: str, as_json: bool) -> int:
    from ..inspect.host import look
    from .report import doctor_text, doctor_values

    report = look(place)
    status = _print(_json(doctor_values(report)) if as_json else doctor_text(report, width()))
    return status or (0 if report.honours_policy else _NO_MECHANISM)


def _ls(as_json: bool) -> int:
    from time import time

    from ..inspect.grants import find
    from .report import grants_text, grants_values

    listing = find()
    if as_json:
        return _print(_json(grants_values(listing)))
    status = _print(grants_text(listing, width(), int(time())))
    for line in (*(f"not seen: {line}" for line in listing.unseen), *(f"note: {line}" for line in listing.notes)):
        say(line, _PROGRAM)
    return status


def _explain(call: Call) -> int:
    from _socket import getservbyname

    from ..grant.policy import MAX_U32, Policy, number
    from ..inspect.explain import explain, user

    if not call.words:
        raise UsageError("explain: which rule? (privbindctl explain tcp:80)")
    policy = Policy.parse(call.words, getservbyname)
    name, pid = call.values.get("user"), call.values.get("pid")
    found = explain(
        policy,
        None if name is None else user(name),
        None if pid is None else number(pid, 1, MAX_U32, "--pid"),
    )
    if "json" in call.flags:
        return _print(_json(found.values()))
    return _print("".join(f"{printable(line)}\n" for line in found.lines()))


def _json(values: dict[str, Any]) -> str:
    from json import dumps

    return dumps(values, indent=2) + "\n"


def _fail(text: str) -> int:
    say(text, _PROGRAM)
    return FAILED


def _print(text: str) -> int:
    return print_out(text, _PROGRAM)
