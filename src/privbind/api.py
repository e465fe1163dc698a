# SPDX-License-Identifier: MIT
"""What Python programs call: `become`, `command`, `may_bind`, `explain`, and the types and errors that they meet there.

The arguments have the names of the command line's options, and errors in them have the same texts, but are raised as
exceptions. Nothing here prints, logs or exits.
"""

from __future__ import annotations

import os
import sys

from .errors import (
    NoMechanismError,
    NotUndoneError,
    PrivbindError,
    UnsupportedError,
    UsageError,
    strerror,
)
from .grant.grant import Grant
from .grant.policy import MAX_U32, Policy, PolicyError, Ports, Rule, number
from .request import AUTO, Command, Request
from .request.options import parse
from .request.resolve import check_may_become, grant_and_account, home_variables, own_site, service
from .values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .inspect.verdict import Explanation

__all__ = (
    "Grant",
    "NoMechanismError",
    "NotUndoneError",
    "Policy",
    "PolicyError",
    "Ports",
    "PrivbindError",
    "Rule",
    "Status",
    "UnsupportedError",
    "UsageError",
    "become",
    "command",
    "explain",
    "may_bind",
)

_PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")
"""Where a distribution's package puts commands, or the administrator a link to one."""

_became: Status | None = None


@value
class Status:
    """What `become` did.

    ``user`` is the account's name (empty where passwd has none), ``uid``, ``gid`` and ``groups`` its ids. ``grant`` is
    what may be bound, by ``mechanism``: "bpf", "seccomp" or "ambient", or "none" where nothing that was asked for is
    reserved here. ``exact`` is false under "ambient", which lets every reserved port be bound.

    ``passed_over`` says why other mechanisms were not taken, ``warnings`` what the command line would warn of, and
    ``notes`` what it tells with -v, a line each.
    """

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    grant: Grant
    mechanism: str
    exact: bool = True
    passed_over: tuple[UnsupportedError, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.user or self.uid} may bind {self.grant} ({self.mechanism})"


def become(
    user: str | int,
    *,
    group: str | int | None = None,
    groups: bool = True,
    allow: str | Rule | Policy | Iterable[str | Rule] | None = None,
    limit: int = 0,
    reuse_port: int | str | Ports | Iterable[int | str | Ports] = (),
    via: str = AUTO,
    set_home: bool = False,
    no_new_privs: bool = False,
) -> Status:
    """Become an account for good, in this process and all its threads; it may then bind what is allowed.

    That holds for sockets that are made from now on, also by what this process starts, with fork, exec or
    multiprocessing. What is bound already stays bound; a socket that was made before and is bound now may be refused.

    ``user`` and ``group`` are names or ids (``group`` None: the user's primary group). Without ``groups`` there are no
    supplementary groups. ``allow`` is one rule or several, "tcp:80" for instance, None for any reserved port. ``limit``
    is how many reserved ports may be bound in all, by this process and its children, 0 for no limit, at most
    4294967295. ``reuse_port`` are ports that get SO_REUSEPORT. ``via`` is "auto", "bpf", "seccomp" or "ambient".
    ``set_home`` sets HOME, USER, LOGNAME and SHELL in os.environ. With ``no_new_privs`` this process and its children
    gain nothing by setuid programs.

    Raises TypeError for an argument of another type; PolicyError for a rule, a port or a limit that is not valid;
    UsageError for an account that cannot be taken, or a process that cannot take it (without privilege, a second time,
    with an io_uring ring, with threads that would keep something); UnsupportedError when the mechanism asked for does
    not fit, NoMechanismError when none does; PrivbindError when a step fails. Then this process is as it was, but for
    what docs/python.md says cannot be undone: a filter, no_new_privs, and that it could be dumped.

    Raises NotUndoneError when a step fails from which there is no way back. Then end this process.

    Needs CAP_SETUID and CAP_SETGID, and what the mechanism needs; root has all. See capabilities(7), credentials(7),
    and docs/python.md.
    """
    # What may be needed afterwards is loaded now: the account may not be able to read these files.
    from . import inprocess, launch
    from .inspect import may_bind as _  # noqa: F401
    from .request.program import Program

    global _became  # noqa: PLW0603  # a process becomes an account once

    words = _words(
        user=user,
        group=group,
        groups=groups,
        allow=allow,
        limit=limit,
        reuse_port=reuse_port,
        via=via,
        set_home=set_home,
        no_new_privs=no_new_privs,
    )
    options = parse([*words, "--", *(sys.orig_argv or ["python"])])
    grant, account = grant_and_account(options)
    home = home_variables(account) if options.set_home else {}
    if _became is not None:
        raise UsageError(f"this process has become {_became.user or _became.uid} already, which is for good")
    check_may_become(account)
    executable = os.fsencode(sys.executable or sys.orig_argv[0])
    argv = tuple(map(os.fsencode, options.command))
    program = Program(executable, executable, None)
    running = Command(account, argv, program, no_new_privileges=options.no_new_privileges)
    request = Request(running, grant, own_site(), via=options.via)
    try:
        choice = inprocess.become(request)
    except NoMechanismError as error:
        error.add_note("\n".join(error.story))
        raise
    os.environ.update(home)
    _became = Status(
        account.name,
        account.uid,
        account.gid,
        account.groups,
        grant,
        choice.name,
        choice.name != "ambient",
        choice.passed_over,
        tuple(launch.warnings(request, choice)),
        tuple(choice.prepared.notes),
    )
    return _became


def command(
    argv: Sequence[str | bytes | os.PathLike[str]],
    *,
    user: str | int,
    group: str | int | None = None,
    groups: bool = True,
    allow: str | Rule | Policy | Iterable[str | Rule] | None = None,
    limit: int = 0,
    reuse_port: int | str | Ports | Iterable[int | str | Ports] = (),
    via: str = AUTO,
    set_home: bool = False,
    no_new_privs: bool = False,
) -> list[str]:
    """The command line that starts a program as a user who may bind what is allowed: for subprocess and its like.

    ``argv`` is the program and its arguments. The others are those of `become`; ``via`` may be "preload" as well. What
    is started is the program itself: same process, same exit status, same descriptors and environment. Exit status
    125 means that it was not started.

    Raises what `become` raises for its arguments, and UsageError where the privbind command that belongs to this
    package is not found. Needs no privilege; who runs the command line does.
    """
    if isinstance(argv, (str, bytes)):
        raise TypeError("argv: a list of words, not one string (shlex.split makes one)")
    words = _words(
        user=user,
        group=group,
        groups=groups,
        allow=allow,
        limit=limit,
        reuse_port=reuse_port,
        via=via,
        set_home=set_home,
        no_new_privs=no_new_privs,
    )
    program = [os.fsdecode(word) for word in argv]
    grant_and_account(parse([*words, "--", *program]))
    return [_launcher(), *words, "--", *program]


def may_bind(rule: str | Rule | Policy | Iterable[str | Rule]) -> bool:
    """Whether this process may bind all that a rule means, now, by whichever right.

    The kernel is asked by binds that cannot succeed, so no port is touched, and whether one is in use does not count.
    Ports that are not reserved here may always be bound. For a rule with a network, its first and last addresses are
    tried.

    Raises TypeError, PolicyError for a rule that is not valid, and PrivbindError where the kernel cannot be asked.
    """
    from .inspect.may_bind import refused
    from .linux.sockets import port_start

    policy = Policy.parse(_rules("rule", rule), service)
    try:
        return not refused(policy, port_start())
    except OSError as error:
        raise PrivbindError(f"cannot ask whether {policy} may be bound: {strerror(error)}") from error


def explain(
    rule: str | Rule | Policy | Iterable[str | Rule], *, user: str | int | None = None, pid: int | None = None
) -> Explanation:
    """Why this process may bind what a rule means, or may not, and what to do about it.

    ``user`` (a name or a uid) asks for a process of that user's that is started here, ``pid`` for another process, both
    for one of the user's in its place. What comes back has the text of ``privbindctl explain`` in ``text()`` and the
    values of its JSON in ``values()``; its ``verdict`` is one word. Changes nothing and touches no port, but forks a
    child that asks the kernel. Root sees everything; for others, the answer says what could not be seen.

    Raises TypeError, PolicyError for a rule that is not valid, UsageError for a user or process that does not exist,
    and PrivbindError.
    """
    from .inspect import explain as answer

    policy = Policy.parse(_rules("rule", rule), service)
    who = None if user is None else answer.user(str(_of("user", user, str, int)))
    if pid is not None:
        pid = number(str(_of("pid", pid, int)), 1, MAX_U32, "--pid")
    return answer.explain(policy, who, os.getpid() if user is None and pid is None else pid)


def _words(
    *,
    user: str | int,
    group: str | int | None,
    groups: bool,
    allow: str | Rule | Policy | Iterable[str | Rule] | None,
    limit: int,
    reuse_port: int | str | Ports | Iterable[int | str | Ports],
    via: str,
    set_home: bool,
    no_new_privs: bool,
) -> list[str]:
    """The options of a command line that says the same. Raises TypeError, PolicyError."""
    words = ["-u", str(_of("user", user, str, int))]
    if group is not None:
        words += ["-g", str(_of("group", group, str, int))]
    if not _of("groups", groups, bool):
        words.append("-G")
    if allow is not None:
        words += [word for rule in _rules("allow", allow) for word in ("-a", rule)]
    if _of("limit", limit, int):
        words += ["-n", str(limit)]
    words += [word for ports in _each("reuse_port", reuse_port, int, str, Ports) for word in ("-r", str(ports))]
    if _of("via", via, str) != AUTO:
        words += ["--via", via]
    if _of("set_home", set_home, bool):
        words.append("--set-home")
    if _of("no_new_privs", no_new_privs, bool):
        words.append("--no-new-privs")
    return words


def _rules(name: str, given: object) -> list[str]:
    """Rules as texts. Raises TypeError, and PolicyError for an empty list, which must not come to mean every port."""
    if isinstance(given, Policy):
        return [str(given)]
    rules = [str(rule) for rule in _each(name, given, str, Rule)]
    if not rules:
        raise PolicyError("a policy needs a rule")
    return rules


def _each(name: str, given: object, *kinds: type) -> list[object]:
    """One thing, or each of several."""
    if isinstance(given, kinds) or not hasattr(given, "__iter__"):
        return [_of(name, given, *kinds)]
    return [_of(name, one, *kinds) for one in given]


def _of(name: str, given: object, *kinds: type) -> object:
    if isinstance(given, kinds) and (bool in kinds or not isinstance(given, bool)):
        return given
    raise TypeError(f"{name}: {' or '.join(kind.__name__ for kind in kinds)}, not {type(given).__name__}")


def _launcher() -> str:
    """The privbind command that belongs to this package. Raises UsageError."""
    # ENVIRONMENT/lib/pythonX.Y/site-packages/privbind/api.py; an editable install has its package elsewhere.
    environment, *_, packages, _, _ = __file__.rsplit("/", 5)
    environments = [environment, sys.prefix] if packages.endswith("-packages") else [sys.prefix]
    places = [f"{place}/privbind" for place in (*(f"{where}/bin" for where in environments), *_PLACES)]
    for path in places:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.realpath(path)
    raise UsageError(f"the privbind command is not installed (looked for {', '.join(places)})")
