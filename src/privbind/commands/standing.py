# SPDX-License-Identifier: MIT
"""privbindctl's commands for standing grants: check, load, unload, allow, disallow, test, import-authbind."""

from __future__ import annotations

import posix
from shlex import join

from ..errors import UsageError, counted
from ..standing import describe, editing, files, load, text
from ..standing.names import System
from ..standing.resolve import GID, UID, resolve
from .output import print_out, printable, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..grant.policy import Rule
    from ..standing.resolve import Key, Resolved
    from .privbindctl import Call

_PROGRAM = "privbindctl"
_NO = 1


def run(call: Call) -> int:
    """Do what was asked for; the exit status. Raises PrivbindError, PolicyError."""
    commands = {
        "check": _check,
        "load": _load,
        "unload": _unload,
        "allow": _edit,
        "disallow": _edit,
        "test": _test,
        "import-authbind": _import_authbind,
    }
    return commands[call.command](call)


def _check(call: Call) -> int:
    resolved = _resolved(call.words)
    if "diff" not in call.flags:
        return _print(describe.describe(resolved))
    with load.Target.open(call.values.get("cgroup")) as target:
        held = load.in_force(target)
    old = text.decode(held.text) if held else {}
    new = text.describe(resolved)
    names = {key: granted.name for key, granted in (old | new).items()}
    changes = describe.difference(
        {key: granted.rules for key, granted in old.items()},
        {key: granted.rules for key, granted in new.items()},
        names,
    )
    return _print(changes or ["a load would change nothing"])


def _load(call: Call) -> int:
    listing = _listing() if "very-verbose" in call.flags else []
    if "dry-run" in call.flags:
        return _print([*describe.describe(_resolved()), *listing])
    changed, resolved = _load_files(call.values.get("cgroup"))
    return _print([changed, *(describe.describe(resolved) if "verbose" in call.flags else []), *listing])


def _load_files(directory: str | None) -> tuple[str, Resolved]:
    """Load what the files grant; what to say about it, and what they grant."""
    resolved: Resolved
    granted: dict[Key, text.Granted] = {}

    def read() -> tuple[dict[Key, tuple[Rule, ...]], bytes]:
        nonlocal resolved
        resolved = _resolved()
        granted.update(text.describe(resolved))
        return resolved.rules(), text.encode(granted)

    with load.Target.open(directory) as target:
        changed = load.load(target, read)
    users, groups = (sum(key.kind == kind for key in granted) for kind in (UID, GID))
    what = f"grants for {counted(users, 'user')} and {counted(groups, 'group')} are in force"
    return f"loaded: {what}" if changed else f"nothing has changed: {what}", resolved


def _unload(call: Call) -> int:
    with load.Target.open(call.values.get("cgroup")) as target:
        was = load.unload(target)
    return _print(["unloaded: nobody has a standing grant; what is bound stays bound" if was else "nothing was loaded"])


def _edit(call: Call) -> int:
    group = call.values.get("group")
    if group is None and not call.words:
        raise UsageError(f"{call.command}: no user given (privbindctl {call.command} USER RULE... or --group GROUP)")
    if group is None and ":" in call.words[0]:
        raise UsageError(
            f"{call.command}: '{call.words[0]}' is a rule; of which user?", f"privbindctl {call.command} USER RULE..."
        )
    kind, name, rules = (editing.USER, *_first(call.words)) if group is None else (editing.GROUP, group, call.words)
    act = editing.allow if call.command == "allow" else editing.disallow
    # A comma separates rules, as it does for --allow.
    edit = act(
        editing.Grantee.parse(kind, name), [rule.strip(" ") for word in rules for rule in word.split(",")], System()
    )
    lines = [f"note: {note}" for note in (*edit.notes, *_needless(edit.added))]
    changed = edit.before != edit.after
    if changed:
        editing.write(edit)
    try:
        # Where the file is as it is to be, too: it may not have been loaded since the boot.
        lines.append(_load_files(call.values.get("cgroup"))[0])
    except BaseException:
        if changed:
            editing.write(edit.reversed())
        raise
    if not changed:
        return _print(lines)
    verb = "written" if edit.after is not None else "removed"
    below = [f"--cgroup={call.values['cgroup']}"] if "cgroup" in call.values else []
    return _print([f"{verb}: {edit.path}", *lines, f"to undo: privbindctl {join([*edit.undo, *below])}"])


def _needless(rules: Iterable[str]) -> list[str]:
    """What to say of rules that name no reserved port."""
    from ..grant.policy import Policy
    from ..linux.sockets import port_start

    start = port_start()
    found = [rule for rule in rules if all(each.ports.low >= start for each in Policy.parse([rule]).rules or ())]
    what = f"ports from {start} on are not reserved here, every program may bind them"
    return [f"{rule} needs no grant: {what}" for rule in found]


def _test(call: Call) -> int:
    from _socket import getservbyname

    from ..account import look_up
    from ..grant.policy import Policy
    from ..inspect.may_bind import refused_as

    if len(call.words) < 2:
        raise UsageError("test: which user, and what? (privbindctl test USER RULE)")
    user, *rules = call.words
    if ":" in user:
        raise UsageError(f"test: '{user}' is a rule; of which user?", "privbindctl test USER RULE")
    if user in ("root", "0"):
        raise UsageError("test: root may bind every port without a grant", "name the user that the server runs as")
    try:
        account = look_up(user)
    except UsageError as error:
        # What is to be done there is for a launch.
        remedy = "privbindctl explain RULE --pid PID tells it of a process" if user.isdigit() else ""
        raise UsageError(f"test: {error.reason.removeprefix('-u: ')}", remedy) from None
    policy = Policy.parse(rules, getservbyname)
    if posix.geteuid() != 0 and account.uid != posix.getuid():
        raise UsageError(f"test: only root can ask for {user} (sudo privbindctl test {join(call.words)})")
    refused = refused_as(account, policy)
    verb = "may not bind" if refused else "may bind"
    _print([f"{user} {verb} {', '.join(refused) if refused else str(policy)}"])
    return _NO if refused else 0


def _import_authbind(call: Call) -> int:
    from ..standing import authbind

    del call
    return _print(authbind.convert(System()))


def _resolved(paths: Iterable[str] = ()) -> Resolved:
    """What the files say, or those of the folder; warnings go to standard error."""
    chosen = tuple(paths)
    # Whoever checks a draft of their own is its owner.
    entries = files.read_files(chosen, posix.geteuid()) if chosen else files.read()
    resolved = resolve(entries, System())
    for warning in resolved.warnings:
        say(f"warning: {warning}", _PROGRAM)
    return resolved


def _listing() -> list[str]:
    """The programs, which are the same on every host."""
    from ..mechanisms.bpf.disassembly import lines
    from ..standing.program import programs

    return [line for assembly in programs().values() for line in lines(assembly)]


def _first(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    return words[0], words[1:]


def _print(lines: Iterable[str]) -> int:
    return print_out("".join(f"{printable(line)}\n" for line in lines), _PROGRAM)
