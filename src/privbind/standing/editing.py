# SPDX-License-Identifier: MIT
"""Grants given and taken back by command: a file of its own for each user or group.

`allow` and `disallow` read and decide, and change nothing; what they return, an `Edit`, says what is to become of the
file, and `write` carries it out. A file is ours when it is, to the byte, what we would write for the rules in it. Any
other is left alone: whoever wrote it may have meant more than we understand.
"""

from __future__ import annotations

import posix
from _socket import getservbyname

from ..errors import PrivbindError, UsageError, strerror
from ..grant.policy import MAX_U32, Policy, PolicyError, number
from ..linux.files import make_folders, write_all
from ..values import replaced, value
from .entries import GrantFileError, parse, root_refused, rule_reader
from .files import ROOT, Folder
from .files import read as read_all
from .folder import FOLDER, SUFFIX
from .render import entry_lines
from .resolve import GID, UID, Key, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..grant.policy import Rule, Services
    from .names import Names
    from .resolve import Permission

MARK = "# Written by privbindctl allow; privbindctl disallow takes it back. Write what else you want into another file."
"""The first line of a file that is ours."""

USER = "user"
GROUP = "group"

_KINDS = {USER: UID, GROUP: GID}
_MAX_NAME = 200  # bytes of a name that becomes part of a file's name, which may have 255


@value
class Grantee:
    """Who gets a grant or loses it: a user or a group (``kind``), by name or number."""

    kind: str
    name: str | int

    @classmethod
    def parse(cls, kind: str, text: str) -> Grantee:
        """Read a name, or a number in digits. Raises UsageError for what can hold no grant."""
        name: str | int = text
        if text.isascii() and text.isdigit():
            try:
                name = number(text, 0, MAX_U32 - 1, kind)
            except PolicyError as error:
                raise UsageError(str(error)) from None
        if name in ("root", 0):
            raise UsageError(root_refused(kind, name))
        if not text or not text.isprintable() or "/" in text or len(text.encode()) > _MAX_NAME:
            raise UsageError(f"{kind} '{text}' cannot be part of a file's name (write the grant by hand into {FOLDER})")
        return cls(kind, name)

    @property
    def file(self) -> str:
        """The file of this grantee, in the folder."""
        return f"{self.kind}-{self.name}{SUFFIX}"

    @property
    def words(self) -> tuple[str, ...]:
        """The grantee on the command line."""
        return (str(self.name),) if self.kind == USER else ("--group", str(self.name))

    def key(self, names: Names) -> Key | None:
        """The holder that is meant; None where nobody knows the name."""
        if isinstance(self.name, int):
            found: int | None = self.name
        else:
            found = names.user(self.name) if self.kind == USER else names.group(self.name)
        return None if found is None else Key(_KINDS[self.kind], found)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@value
class Edit:
    """What is to become of a grantee's file in the folder.

    ``before`` is what was read, ``after`` what is to be there; None stands for no file. ``added`` and ``removed`` are
    the rules that differ, in text. ``notes`` tell of rules for which nothing, or less than one would think, is done.
    """

    grantee: Grantee
    folder: str
    before: bytes | None
    after: bytes | None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file."""
        return f"{self.folder}/{self.grantee.file}"

    @property
    def undo(self) -> tuple[str, ...]:
        """The arguments of privbindctl that take this back; none where it changes nothing."""
        if self.added:
            return ("disallow", *self.grantee.words, *self.added)
        return ("allow", *self.grantee.words, *self.removed) if self.removed else ()

    def reversed(self) -> Edit:
        """The edit that puts the file back as it was, for when what follows fails."""
        return replaced(self, before=self.after, after=self.before, added=self.removed, removed=self.added, notes=())


def allow(
    grantee: Grantee,
    rules: Sequence[str],
    names: Names,
    *,
    folder: str = FOLDER,
    owner: int = ROOT,
    services: Services = getservbyname,
) -> Edit:
    """Grant these rules, as on the command line, to a user or group that is known. Raises PrivbindError."""
    if not rules:
        raise UsageError(f"no rule given: what may {grantee} bind? (for example tcp:80)")
    wanted = _read_rules(rules, services)
    key = grantee.key(names)
    if key is None:
        raise UsageError(f"unknown {grantee} (for one that does not exist yet, write the grant by hand into {folder})")
    if key.first == 0:
        raise UsageError(root_refused(grantee.kind, grantee.name))
    state = _State(grantee, names, folder, owner)
    own = list(state.own)
    added: list[Rule] = []
    notes = []
    # What a user has through a group ends with the membership, so it is less than what is asked for.
    direct = [permission for permission in state.others if not permission.group]
    for rule in wanted:
        if own and Policy(own).covers(Policy((rule,))):
            notes.append(f"{rule} is granted already, by {state.path}")
        elif place := _place(rule, direct):
            notes.append(f"{rule} is granted already, by {place}")
        else:
            own.append(rule)
            added.append(rule)
    after = _content(grantee, own) if added else state.before
    return Edit(grantee, folder, state.before, after, added=_texts(added), notes=tuple(notes))


def disallow(
    grantee: Grantee,
    rules: Sequence[str],
    names: Names,
    *,
    folder: str = FOLDER,
    owner: int = ROOT,
    services: Services = getservbyname,
) -> Edit:
    """Take back these rules, or all of them when none is named. Raises PrivbindError for one that `allow` did not add.

    The grantee need not be known any more.
    """
    state = _State(grantee, names, folder, owner)
    removed = _read_rules(rules, services) if rules else state.own
    if not removed:
        places = ", ".join(dict.fromkeys(map(_told, state.others)))
        others = f"; others are in {places} (edit them there)" if places else ", nor any other (privbindctl check)"
        raise UsageError(f"{grantee} has no grant by privbindctl allow{others}")
    for rule in removed:
        if rule not in state.own:
            raise _not_own(rule, state)
    kept = tuple(rule for rule in state.own if rule not in removed)
    notes = []
    for rule in removed:
        if kept and Policy(kept).covers(Policy((rule,))):
            notes.append(f"{rule} stays granted, by {state.path}")
        elif place := _place(rule, state.others):
            notes.append(f"{rule} stays granted, by {place}")
    after = _content(grantee, kept) if kept else None
    return Edit(grantee, folder, state.before, after, removed=_texts(removed), notes=tuple(notes))


class _State:
    """What there is for a grantee: its file and the rules in it, and what other entries grant."""

    def __init__(self, grantee: Grantee, names: Names, folder: str, owner: int) -> None:
        """Read it. Raises PrivbindError, also for a file of the grantee's name that is not ours."""
        self.grantee = grantee
        self.path = f"{folder}/{grantee.file}"
        opened = Folder.open(folder, owner)
        self.before: bytes | None = None
        if opened is not None:
            with opened:
                self.before = opened.read(grantee.file)
        self.own = () if self.before is None else _own_rules(self.before, self.path, grantee)
        entries = [entry for entry in read_all(folder, owner) if entry.file != self.path]
        key = grantee.key(names)
        self.others: tuple[Permission, ...] = ()
        if key is not None:
            self.others = resolve(entries, names).holders.get(key, ())


def _own_rules(data: bytes, path: str, grantee: Grantee) -> tuple[Rule, ...]:
    if data.partition(b"\n")[0] != MARK.encode():
        raise GrantFileError(
            path, "it was not written by privbindctl allow, which needs this name (edit it by hand, or rename it)", 1
        )
    entries = parse(data, path)
    rules = entries[0].policy.rules if entries else None
    if rules is None or _content(grantee, rules) != data:
        raise GrantFileError(
            path, "it was changed since privbindctl allow wrote it (edit it by hand from now on: rename it)", 1
        )
    return rules


def _content(grantee: Grantee, rules: Sequence[Rule]) -> bytes:
    """A file of ours."""
    users = [grantee.name] if grantee.kind == USER else []
    groups = [grantee.name] if grantee.kind == GROUP else []
    return "\n".join([MARK, *entry_lines(users, groups, _texts(rules)), ""]).encode()


def _read_rules(texts: Sequence[str], services: Services) -> tuple[Rule, ...]:
    read_rule = rule_reader(services)
    try:
        return tuple(dict.fromkeys(rule for text in texts for rule in read_rule(text)))
    except PolicyError as error:
        raise UsageError(str(error)) from None


def _texts(rules: Sequence[Rule]) -> tuple[str, ...]:
    return tuple(map(str, rules))


def _place(rule: Rule, permissions: Sequence[Permission]) -> str:
    """Where a rule is granted as a whole; empty where it is not."""
    wanted = Policy((rule,))
    return next((_told(permission) for permission in permissions if permission.policy.covers(wanted)), "")


def _told(permission: Permission) -> str:
    return f"{permission.source} to group {permission.group}" if permission.group else permission.source


def _not_own(rule: Rule, state: _State) -> UsageError:
    """Why a rule cannot be taken back."""
    for broader in state.own:
        if Policy((broader,)).covers(Policy((rule,))):
            return UsageError(
                f"{rule} is part of {broader}, which {state.path} grants (disallow that, and allow what is to stay)"
            )
    if place := _place(rule, state.others):
        return UsageError(f"{rule} is granted to {state.grantee} by {place}, not by privbindctl allow (edit it there)")
    return UsageError(f"{rule} is not granted to {state.grantee} by any entry (privbindctl check shows what is)")


def write(edit: Edit, owner: int = ROOT) -> None:
    """Carry out an edit: all of it or nothing, whatever happens meanwhile. Raises PrivbindError."""
    if edit.before == edit.after:
        return
    try:
        if edit.after is not None:
            make_folders(edit.folder)
        folder = Folder.open(edit.folder, owner)
        if folder is None:
            raise _changed(edit)
        with folder:
            _exchange(edit, folder)
    except OSError as error:
        hint = " (run this as root)" if isinstance(error, PermissionError) else ""
        raise PrivbindError(f"cannot write {edit.path}: {strerror(error)}{hint}") from error


def _exchange(edit: Edit, folder: Folder) -> None:
    """Put the new file in the place of the old one.

    The temporary file, which only one process can create, also keeps two edits from overtaking each other. A lock on
    the folder would not do: whoever may read the folder could hold it, and make root wait.
    """
    name = edit.grantee.file
    temporary = f".{name}.new"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        fd = posix.open(temporary, flags, 0o600, dir_fd=folder.fd)
    except FileExistsError:
        path = folder.path_of(temporary)
        raise PrivbindError(
            f"{path} is there: another privbindctl is writing, or was killed (then remove it)"
        ) from None
    try:
        if folder.read(name) != edit.before:
            raise _changed(edit)
        if edit.after is None:
            posix.unlink(name, dir_fd=folder.fd)
        else:
            write_all(fd, edit.after)
            posix.fchmod(fd, 0o644)  # whatever the umask
            posix.fsync(fd)
            # Read back and judged as any other file, before it counts.
            parse(folder.read(temporary) or b"", edit.path)
            posix.rename(temporary, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            temporary = ""
    finally:
        posix.close(fd)
        if temporary:
            posix.unlink(temporary, dir_fd=folder.fd)
    posix.fsync(folder.fd)


def _changed(edit: Edit) -> PrivbindError:
    return PrivbindError(f"{edit.path} was changed meanwhile (do it again)")
