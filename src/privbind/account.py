# SPDX-License-Identifier: MIT
"""The account: who the command runs as. Looking it up, becoming it, and checking that it took."""

from __future__ import annotations

import posix

from .errors import NotUndoneError, PrivbindError, UsageError, strerror
from .grant.policy import MAX_U32, PolicyError, number
from .linux import capabilities, prctl
from .linux.process import leave_session_keyring, set_file_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pwd import struct_passwd
    from types import TracebackType
    from typing import Self

_FILE_CAPABILITIES = capabilities.mask(*capabilities.FOR_FILES)
_NO_CHANGE = 0xFFFFFFFF  # (uid_t) -1 and (gid_t) -1 mean "leave as it is" to setresuid(2)


class Account:
    """Who the command runs as: uid, gid, supplementary groups; name, home and shell where passwd knows them."""

    def __init__(
        self, uid: int, gid: int, groups: tuple[int, ...], *, name: str = "", home: str = "", shell: str = ""
    ) -> None:
        """Raise UsageError for root, and for the ids that mean "no change" to the kernel."""
        if uid == 0:
            raise UsageError("-u: the command must not run as root (root may bind every port without privbind)")
        if _NO_CHANGE in (uid, gid):
            raise UsageError(f"the id {_NO_CHANGE} cannot be taken: to the kernel it means 'no change'")
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.name = name
        self.home = home
        self.shell = shell

    @property
    def who(self) -> str:
        """The shortest name for it."""
        return self.name or f"uid {self.uid}"

    def __str__(self) -> str:
        groups = ",".join(map(str, self.groups)) or "none"
        return f"{self.name or 'uid'} uid={self.uid} gid={self.gid} groups={groups}"


def look_up(user: str, group: str | None = None, supplementary: bool = True) -> Account:
    """Find an account by name or uid. ``group`` is a name or gid, None for the user's primary group.

    Digits mean an id, which needs no entry (a uid without one needs ``group``); anything else is a name. Without
    ``supplementary`` there are no supplementary groups, else those that initgroups(3) gives. Raises UsageError.
    """
    entry = _passwd_entry(user)
    uid = entry.pw_uid if entry else _id(user, "-u: uid")
    if uid == 0:
        return Account(uid, 0, ())
    if group is not None:
        gid = _group_id(group)
    elif entry:
        gid = entry.pw_gid
    else:
        raise UsageError(f"-u: uid {uid} has no passwd entry to take a group from", f"-u {uid}:GROUP names one")
    if not entry:
        return Account(uid, gid, ())
    groups = tuple(posix.getgrouplist(entry.pw_name, gid)) if supplementary else ()
    return Account(uid, gid, groups, name=entry.pw_name, home=entry.pw_dir, shell=entry.pw_shell)


def own() -> Account:
    """This process's account: its real ids. Raises UsageError for root."""
    from pwd import getpwuid

    uid, gid = posix.getuid(), posix.getgid()
    try:
        name = getpwuid(uid).pw_name
    except KeyError:
        name = ""
    return Account(uid, gid, tuple(posix.getgroups()), name=name)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _id(text: str, what: str) -> int:
    try:
        return number(text, 0, MAX_U32, what)
    except PolicyError as error:
        raise UsageError(str(error)) from None


def _passwd_entry(user: str) -> struct_passwd | None:
    """The user's entry; None for a number that has none."""
    from pwd import getpwnam, getpwuid

    try:
        if _is_id(user):
            return getpwuid(_id(user, "-u: uid"))
        return getpwnam(user)
    except (KeyError, ValueError):
        if _is_id(user):
            return None
        raise UsageError(f"-u: unknown user '{user}'") from None


def _group_id(group: str) -> int:
    if _is_id(group):
        return _id(group, "-g: gid")
    from grp import getgrnam

    try:
        return getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"-g: unknown group '{group}'") from None


def missing_capabilities(needed: tuple[int, ...]) -> list[str]:
    """The names of those that this process cannot use."""
    effective = capabilities.get()[1]
    return [capabilities.NAMES[wanted] for wanted in needed if not effective >> wanted & 1]


def how_to_get(missing: list[str]) -> str:
    """What to do about capabilities that this process lacks: uid 0 lacks some in a container or a bounded service."""
    if posix.geteuid():
        return "run as root, or add what is missing"
    options = " ".join(f"--cap-add={name.removeprefix('CAP_')}" for name in missing)
    return f"docker or podman run {options}; Kubernetes: capabilities.add; systemd: CapabilityBoundingSet="


class FileAccess:
    """A context in which this process opens and looks up files as the account would, and as nobody else.

    Only access to files changes (setfsuid(2)), so nothing else can send signals to it or trace it meanwhile. The
    capabilities that override file permissions are out of effect.
    """

    def __init__(self, account: Account) -> None:
        """Change nothing yet."""
        self._account = account

    def __enter__(self) -> Self:
        permitted, self._effective, inheritable = capabilities.get()
        self._is_own = posix.geteuid() == self._account.uid and not self._effective
        if self._is_own:
            return self
        self._groups = posix.getgroups()
        try:
            posix.setgroups(self._account.groups)
            set_file_ids(self._account.uid, self._account.gid)
            # The kernel does this itself, but for a caller whose uid was not 0, or with odd securebits.
            capabilities.put(permitted, self._effective & ~_FILE_CAPABILITIES, inheritable)
        except OSError as error:
            try:
                self._leave()
            except OSError:
                pass  # this process ends because of the first error, whatever ids it has by then
            raise PrivbindError(f"cannot look at files as {self._account}: {strerror(error)}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_own:
            self._leave()

    def _leave(self) -> None:
        set_file_ids(posix.geteuid(), posix.getegid())
        permitted, _, inheritable = capabilities.get()
        capabilities.put(permitted, self._effective, inheritable)
        posix.setgroups(self._groups)


def become(account: Account, keep: tuple[int, ...] = ()) -> None:
    """Become the account for good, with no capability but ``keep`` (permitted and effective), and check that.

    Groups first, then gid, then uid: each step needs a privilege that the next gives up. The C library makes these
    changes in all of its threads; capabilities and the session keyring change in the calling thread alone.

    Raises PrivbindError with everything as it was, or NotUndoneError once the uid is another.
    """
    groups, gids, uids = posix.getgroups(), posix.getresgid(), posix.getresuid()
    step = "supplementary groups"
    try:
        posix.setgroups(account.groups)
        step = f"gid {account.gid}"
        posix.setresgid(account.gid, account.gid, account.gid)
        step = f"uid {account.uid}"
        if keep:
            prctl.set_keep_capabilities(True)
        posix.setresuid(account.uid, account.uid, account.uid)
        step = "capabilities"
        # Leaving uid 0 clears them, but a process that is not uid 0 and has ambient capabilities would keep them, and
        # so would one with the securebit that turns this off.
        prctl.clear_ambient()
        kept = capabilities.mask(*keep)
        capabilities.put(kept, kept, 0)
        if keep:
            prctl.set_keep_capabilities(False)
        step = "session keyring"
        leave_session_keyring()
        step = "check"
        verify(account, keep)
    except NotUndoneError:
        raise
    except BaseException as error:
        what = f"cannot become {account}: {step}: {strerror(error) if isinstance(error, OSError) else repr(error)}"
        if posix.getresuid() != uids:
            raise NotUndoneError(what) from error
        _take_back(groups, gids, keep)
        if not isinstance(error, OSError):
            raise
        raise PrivbindError(what) from error


def _take_back(groups: list[int], gids: tuple[int, int, int], keep: tuple[int, ...]) -> None:
    """Give this process the groups back that it had, while it still has the privilege for that."""
    try:
        if keep:
            prctl.set_keep_capabilities(False)
        posix.setresgid(*gids)
        posix.setgroups(groups)
    except OSError as error:
        raise NotUndoneError(f"cannot take back a change of groups: {strerror(error)}") from error


def verify(account: Account, keep: tuple[int, ...] = ()) -> None:
    """Check that this process is the account and nothing more. Raises NotUndoneError."""
    kept = capabilities.mask(*keep)
    checks = (
        ("user ids", posix.getresuid(), (account.uid,) * 3),
        ("group ids", posix.getresgid(), (account.gid,) * 3),
        ("groups", sorted(set(posix.getgroups())), sorted(set(account.groups))),
        # The ambient set is always within permitted and inheritable: with no inheritable one it is empty.
        ("capabilities", capabilities.get(), (kept, kept, 0)),
    )
    for what, found, wanted in checks:
        if found != wanted:
            raise NotUndoneError(f"became {account}, but the {what} are {found}, not {wanted}")
    try:
        posix.setuid(0)
    except OSError:
        return
    raise NotUndoneError(f"became {account}, but could become root again")
