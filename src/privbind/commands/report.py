# SPDX-License-Identifier: MIT
"""What privbindctl found, as text for people and as values for JSON. Pure; privbindctl(1) tells of the JSON's keys."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import wrap
from time import gmtime, localtime, strftime

from .. import __version__
from ..errors import counted, with_remedy
from ..linux.sockets import DEFAULT_PORT_START
from .output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..inspect.grants import Listing, LiveGrant
    from ..inspect.host import Report

_UNKNOWN = "?"
_MORE = "…"
_DAY_S = 24 * 60 * 60
_MAX_USER = 12  # columns
_LEAST = 8  # columns that rules and command get, however narrow the terminal

_ANSWERS = {True: "yes", False: "no", None: _UNKNOWN}
_HEADINGS = ("PID", "VIA", "USER", "GRANTED", "REFUSED", "LEFT", "SINCE", "RULES", "COMMAND")
_RIGHT = {"PID", "GRANTED", "REFUSED", "LEFT"}


def reserved_state(port_start: int | None) -> str | None:
    """How the reserved range is: "usual", "empty", "lowered" or "raised"; None where it is not known."""
    if port_start is None:
        return None
    if port_start <= 1:
        return "empty"
    return "usual" if port_start == DEFAULT_PORT_START else "lowered" if port_start < DEFAULT_PORT_START else "raised"


def doctor_values(report: Report) -> dict[str, Any]:
    """For JSON: null stands for what could not be told."""
    return {
        "privbind": __version__,
        "kernel": {"release": report.kernel, "machine": report.machine},
        "uid": report.uid,
        "mechanisms": [asdict(offer) for offer in report.offers],
        "reserved": {"below": report.port_start, "state": reserved_state(report.port_start)},
        "cgroups": asdict(report.cgroups),
        "installation": asdict(report.installation),
        "installed": [asdict(command) for command in report.installed],
        "shim": asdict(report.shim),
        "standing": _timed(asdict(report.standing)),
        "unseen": list(report.unseen),
    }


def doctor_text(report: Report, width: int | None) -> str:
    """For people; ``width`` is that of their terminal, None for lines as long as they come."""
    lines = [f"privbind {__version__}, Linux {report.kernel} ({report.machine}), asked by uid {report.uid}", ""]
    lines.append(f"{'mechanism':<10} {'usable':<7} {'policy':<7} limit")
    for offer in report.offers:
        answers = [_ANSWERS[answer] for answer in (offer.usable, offer.policy, offer.limit)]
        lines.append(f"{offer.name:<10} {answers[0]:<7} {answers[1]:<7} {answers[2]}")
        words = [f"only with {offer.condition}"] if offer.condition else []
        if offer.reason:
            words.append(with_remedy(offer.reason, offer.remedy))
        lines += _wrapped("  ", ": ".join(words), width)
    lines.append("")
    for name, value in (
        ("reserved", _reserved(report.port_start)),
        ("cgroups", _cgroups(report)),
        ("from", _installation(report)),
        *(("beware", fault) for fault in report.installation.faults),
        ("installed", _installed(report)),
        ("shim", _shim(report)),
        ("standing", _standing(report)),
        *(("not seen", what) for what in report.unseen),
    ):
        lines += _wrapped(f"{name:<10} ", value, width)
    return "\n".join(map(printable, lines)) + "\n"


def _reserved(port_start: int | None) -> str:
    state = reserved_state(port_start)
    if port_start is None or state is None:
        return _UNKNOWN
    if state == "empty":
        return (
            f"no port (ip_unprivileged_port_start is {port_start}): every program may bind every port here, "
            "so commands are started with no mechanism"
        )
    ports = f"ports 1 to {port_start - 1}"
    if state == "usual":
        return ports
    change = f"{state}: ip_unprivileged_port_start is {port_start}, {DEFAULT_PORT_START} is usual"
    return f"{ports} ({change}{'; every program may bind those above' if state == 'lowered' else ''})"


def _cgroups(report: Report) -> str:
    found = report.cgroups
    layout = {
        "unified": "version 2 (unified)",
        "hybrid": "versions 1 and 2 (hybrid)",
        "legacy": "version 1 only, which serves no mechanism",
        "none": "not mounted",
        None: _UNKNOWN,
    }[found.layout]
    parts = [layout]
    if found.own is not None:
        parts.append(f"own cgroup '{found.own}'")
    if found.reason:
        parts.append(found.reason)
    return "; ".join(parts)


def _installation(report: Report) -> str:
    found = report.installation
    bound = f", which it is bound to: with another than {found.bound_to}, install it again" if found.bound_to else ""
    return f"{found.how}, in {found.package}, run by {found.python}{bound}"


def _installed(report: Report) -> str:
    told = []
    for command in report.installed:
        gained = [
            name
            for name, has in (
                ("setuid", command.setuid),
                ("setgid", command.setgid),
                ("with file capabilities", command.file_capabilities),
            )
            if has
        ]
        if gained:
            told.append(f"{command.path} is {' and '.join(gained)}: every user can run commands as any user with it")
        else:
            told.append(f"{command.path} (no privileges by itself, as it should be)")
    return "; ".join(told) or "no privbind command was found in the usual places"


def _shim(report: Report) -> str:
    shim = report.shim
    if not shim.built:
        return f"{shim.path}: no: {shim.reason}"
    return (
        f"{shim.path}: "
        + {True: "loads", False: "does not load", None: "could not be tried"}[shim.loads]
        + (f": {shim.reason}" if shim.reason else "")
    )


def _standing(report: Report) -> str:
    found = report.standing
    if found.in_force is None:
        return _UNKNOWN
    changed = found.changed
    if found.in_force:
        since = strftime("%Y-%m-%dT%H:%M:%S", localtime(found.since))
        counts = f"{counted(found.users or 0, 'user')} and {counted(found.groups or 0, 'group')}"
        parts = [f"grants for {counts} are in force, loaded at {since}"]
        if changed:
            parts.append("the files grant something else by now (privbindctl check --diff)")
    else:
        parts = ["no grants are in force"]
        if changed:
            parts.append("the files grant some (privbindctl load)")
    return "; ".join([*parts, *filter(None, [found.reason])])


def _timed(values: dict[str, Any]) -> dict[str, Any]:
    """The same, with the time as text."""
    if values["since"] is not None:
        values["since"] = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(values["since"]))
    return values


def _wrapped(head: str, text: str, width: int | None) -> list[str]:
    if not text:
        return []
    if width is None:
        return [head + text]
    indent = " " * len(head)
    return wrap(text, max(width, 40), initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)


def grants_values(listing: Listing) -> dict[str, Any]:
    """For JSON: null stands for what could not be seen, or is not there."""
    return {
        "privbind": __version__,
        "grants": [_grant_values(grant) for grant in listing.grants],
        "unseen": list(listing.unseen),
        "notes": list(listing.notes),
    }


def _grant_values(grant: LiveGrant) -> dict[str, Any]:
    values = _timed(asdict(grant))
    if grant.command is not None:
        values["command"] = [word.decode("utf-8", "backslashreplace") for word in grant.command]
    return values


def grants_text(listing: Listing, width: int | None, now: int) -> str:
    """A table; ``width`` is that of the terminal, which it then fits; None for lines as long as they come."""
    rows = [_HEADINGS, *(_row(grant, now, short=width is not None) for grant in listing.grants)]
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths[2] = min(widths[2], _MAX_USER)
        rest = max(width - sum(widths[:-2]) - len(widths) + 1, 2 * _LEAST)
        widths[-2] = min(widths[-2], max(rest // 2, rest - widths[-1]))
        widths[-1] = min(widths[-1], rest - widths[-2])
    return "".join(_line(row, widths) + "\n" for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for heading, cell, width in zip(_HEADINGS, row, widths, strict=True):
        shown = cell if len(cell) <= width else cell[: width - 1] + _MORE
        cells.append(shown.rjust(width) if heading in _RIGHT else shown.ljust(width))
    return " ".join(cells).rstrip()


def _row(grant: LiveGrant, now: int, short: bool) -> tuple[str, ...]:
    standing = grant.kind == "standing"
    placed = grant.kind == "placed"
    nothing = "-" if grant.guess or grant.limit == 0 else _UNKNOWN
    # "-" for what nobody counts, "?" for what could not be read.
    counted = "-" if grant.guess or standing else _UNKNOWN
    rules = _UNKNOWN if grant.rules is None else ",".join(grant.rules) or "any"
    ended = grant.pid is None and grant.command is not None
    return (
        "-" if ended or standing or placed else _or(grant.pid, _UNKNOWN),
        grant.kind if standing or placed else _or(grant.mechanism, _UNKNOWN) + ("?" if grant.guess else ""),
        _who(grant) if standing else "-" if placed else _or(grant.user, _UNKNOWN),
        _or(grant.granted, counted),
        _or(grant.refused, counted),
        _or(grant.left, nothing),
        _since(grant.since, now, short),
        rules,
        _command(grant) if not (standing or placed) else grant.place if placed else _sources(grant),
    )


def _sources(grant: LiveGrant) -> str:
    return ", ".join(source.rpartition("/")[2] for source in grant.sources)


def _who(grant: LiveGrant) -> str:
    """The holder of a standing grant: a user, "group NAME", or "uids" with the name of the user whose they are."""
    if grant.gid is not None:
        return f"group {grant.user or grant.gid}"
    if grant.uids is not None:
        return f"uids of {grant.user}" if grant.user else f"uids {grant.uids[0]}-{sum(grant.uids) - 1}"
    return _or(grant.user or grant.uid, _UNKNOWN)


def _or(value: object, otherwise: str) -> str:
    return otherwise if value is None else str(value)


def _since(since: int | None, now: int, short: bool) -> str:
    if since is None:
        return _UNKNOWN
    if not short:
        return strftime("%Y-%m-%dT%H:%M:%S", localtime(since))
    return strftime("%H:%M" if 0 <= now - since < _DAY_S else "%b %d", localtime(since))


def _command(grant: LiveGrant) -> str:
    from shlex import quote

    if grant.command is None:
        return _UNKNOWN
    words = [word.decode("utf-8", "surrogateescape") for word in grant.command]
    return " ".join([*map(quote, words), *([_MORE] if grant.cut else [])])
