# SPDX-License-Identifier: MIT
"""The privbindctl command: what this host offers, and what is granted on it. It changes nothing."""

from __future__ import annotations

import posix
import sys

from .. import __version__
from ..errors import PrivbindError, UsageError, strerror
from .output import FAILED, let_interrupt_end, print_out, say, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROGRAM = "privbindctl"
_NO_MECHANISM = 1
_SOURCE = "src:"

HELP = """\
Usage: privbindctl doctor [--json]
       privbindctl ls [--json]
Tell what privbind can do on this host, and list the live grants on it.

  doctor                 what this host offers: mechanisms, reserved ports, cgroups, and how privbind is installed
  ls                     every live grant: who may bind what, how often that was done, since when

      --json             print JSON, for programs
  -h, --help             print this and end
      --version          print the version and end

Run it as root: to others much is hidden, and it says so. Exit status: 0; 1 doctor found no mechanism that can
honour a policy; 125 privbindctl failed.
"""


def start(ignored_signals: str, environment: str, arguments: list[str]) -> None:
    """Run privbindctl and end this process; the launcher's entry point. Nothing of the environment counts."""
    del ignored_signals, environment
    let_interrupt_end()
    # The launcher's place is the first of what it hands over (docs/architecture.md).
    place = sys.argv[1] if len(sys.argv) > 1 else ""
    posix._exit(main(arguments, "" if place.startswith(_SOURCE) else place))


def main(arguments: list[str], place: str = "") -> int:
    """Do what the arguments (without the program's name) ask for; the exit status.

    ``place`` is the folder that privbindctl is in.
    """
    try:
        what, as_json = parse(arguments)
        if what == "help":
            return _print(HELP)
        if what == "version":
            return _print(f"privbindctl {__version__}\n")
        return _doctor(place, as_json) if what == "doctor" else _ls(as_json)
    except PrivbindError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"unexpected: {strerror(error)}")


def parse(arguments: list[str]) -> tuple[str, bool]:
    """What is to be done ("doctor", "ls", "help" or "version"), and whether in JSON. Raises UsageError."""
    commands = []
    as_json = False
    for word in arguments:
        if word in ("-h", "--help"):
            return "help", as_json
        if word == "--version":
            return "version", as_json
        if word == "--json":
            as_json = True
        elif word.startswith("-"):
            raise UsageError(f"unknown option {word} (try privbindctl --help)")
        else:
            commands.append(word)
    if not commands:
        raise UsageError("no command given: doctor or ls (try privbindctl --help)")
    if commands[0] not in ("doctor", "ls"):
        raise UsageError(f"unknown command '{commands[0]}': doctor or ls (try privbindctl --help)")
    if len(commands) > 1:
        raise UsageError(f"{commands[0]}: takes no argument, but got '{commands[1]}' (try privbindctl --help)")
    return commands[0], as_json


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
    for line in listing.unseen:
        _say(f"not seen: {line}")
    return status


def _json(values: dict[str, Any]) -> str:
    from json import dumps

    return dumps(values, indent=2) + "\n"


def _say(text: str) -> None:
    say(text, _PROGRAM)


def _fail(text: str) -> int:
    _say(text)
    return FAILED


def _print(text: str) -> int:
    return print_out(text, _PROGRAM)
