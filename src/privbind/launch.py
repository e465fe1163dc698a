# SPDX-License-Identifier: MIT
"""The launch: choose a mechanism, prepare it, become the account, exec the command."""

from __future__ import annotations

import posix
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]  # signal would import enum
from errno import EAGAIN, ENOENT, ENOEXEC
from time import time

from . import account, mechanisms
from .errors import NoMechanismError, NotExecutableError, NotFoundError, PrivbindError, UnsupportedError, strerror
from .grant.holder import Holder
from .linux import prctl, process
from .mechanisms import Prepared
from .request import AUTO, MECHANISMS
from .request.program import SHELL, exists
from .values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .grant.policy import Rule
    from .mechanisms import Mechanism
    from .request import Command, Request

    Tell = Callable[[str], None]
    """Takes one line of the story that ``-v`` prints."""

_CHANGED_BY_PYTHON = (SIGPIPE, SIGXFSZ)
"""Signals that the interpreter ignores from its start (Python/pylifecycle.c). Its SIGINT handler ends with exec."""


@value
class Choice:
    """The mechanism chosen (None: none is needed), made ready unless for a dry run; why others were passed over."""

    name: str
    mechanism: Mechanism | None
    prepared: Prepared
    passed_over: tuple[UnsupportedError, ...] = ()


def plan(request: Request) -> Choice:
    """The mechanism that a launch would take, as far as can be told without preparing one. Raises as `prepare` does."""

    def probe(mechanism: Mechanism) -> Prepared:
        mechanism.probe(request.grant, request.site, request.command)
        return Prepared()

    return choose(request, probe)


def prepare(request: Request) -> Choice:
    """Make ready the first mechanism that this host offers and that honours the request exactly, or the one asked for.

    Raises UnsupportedError when the one asked for does not fit, NoMechanismError when none does.
    """
    command, holder = request.command, holder_of(request)
    return choose(request, lambda mechanism: mechanism.prepare(request.grant, holder, request.site, command))


def choose(request: Request, attempt: Callable[[Mechanism], Prepared]) -> Choice:
    """The first mechanism that ``attempt`` does not refuse with UnsupportedError; errors as `prepare` raises them."""
    if not needs_mechanism(request):
        return Choice("none", None, Prepared())
    passed_over: list[UnsupportedError] = []
    for name in MECHANISMS if request.via == AUTO else (request.via,):
        mechanism = mechanisms.load(name)
        try:
            return Choice(name, mechanism, attempt(mechanism), tuple(passed_over))
        except UnsupportedError as error:
            passed_over.append(error)
    if request.via != AUTO:
        raise passed_over[0]
    raise NoMechanismError(passed_over)


def holder_of(request: Request) -> Holder:
    """The holder of a launch's grant: this process, as the account."""
    account = request.command.account
    user = account.name or str(account.uid)
    return Holder(user, account.uid, account.gid, request.command.argv, posix.getpid(), int(time()))


def needs_mechanism(request: Request) -> bool:
    """Whether there is anything to do: something asked for is reserved here, or ports are to get SO_REUSEPORT."""
    return bool(request.grant.reuse_ports) or _asks_for_reserved(request)


def _asks_for_reserved(request: Request) -> bool:
    """Whether anything that was asked for is reserved in this network namespace."""
    rules = request.grant.policy.rules
    lowest = 1 if rules is None else min(rule.ports.low for rule in rules)
    return lowest < request.site.port_start


def warnings(request: Request, choice: Choice) -> list[str]:
    """What to warn of: a grant wider than other mechanisms give, and ports that every program may bind here."""
    found = []
    if request.via == AUTO and choice.name == "ambient":
        found.append("ambient is all that fits: the command holds CAP_NET_BIND_SERVICE itself (-v tells why)")
    start = request.site.port_start
    rules = request.grant.policy.rules or ()
    open_rules = [rule for rule in rules if rule.ports.high >= start and str(rule.ports) != "any"]
    if start <= 1:
        found.append(
            f"no port is reserved here (net.ipv4.ip_unprivileged_port_start is {start}):"
            " every program may bind every port, and needs no grant"
        )
    elif open_rules:
        need = _need_no_grant(open_rules, start)
        found.append(f"{need}: ports from {start} on are not reserved here, every program may bind them")
    return found


def _need_no_grant(rules: list[Rule], start: int) -> str:
    """Say that these rules name ports that need no grant; others of their ports may be reserved."""
    named = ",".join(map(str, rules))
    if any(rule.ports.low < start for rule in rules):
        return f"not every port of {named} needs a grant"
    return f"{named} {'needs' if len(rules) == 1 else 'need'} no grant"


def start(request: Request, choice: Choice, ignored_signals: int, tell: Tell) -> None:
    """Become the command, by what was prepared. Returns only by raising PrivbindError.

    ``ignored_signals`` is the mask (bit 0: signal 1) of what was ignored before Python started.
    """
    prepared = choice.prepared
    try:
        for note in prepared.notes:
            tell(f"{choice.name}: {note}")
        tell(f"run: {request.command.program.path.decode('utf-8', 'backslashreplace')} as {request.command.account}")
        environment = prepared.environment(list(request.environment))
        prepared.enter()
        if request.command.no_new_privileges:
            prctl.set_no_new_privileges()
        account.become(request.command.account, prepared.keep)
        prepared.seal()
        execute(request.command, environment, ignored_signals)
    except BaseException:
        prepared.cancel()
        raise


def execute(command: Command, environment: list[bytes], ignored_signals: int) -> None:
    """Become the command, as whoever this process is. Returns only by raising PrivbindError.

    ``ignored_signals`` is as `start` takes it.
    """
    for number in _CHANGED_BY_PYTHON:
        if not ignored_signals >> (number - 1) & 1:
            signal(number, SIG_DFL)
    path = command.program.path
    try:
        try:
            process.execve(path, list(command.argv), environment)
        except OSError as error:
            if error.errno != ENOEXEC:
                raise
            process.execve(SHELL, [SHELL, path, *command.argv[1:]], environment)
    except OSError as error:
        shown = path.decode("utf-8", "backslashreplace")
        if error.errno == EAGAIN:  # execve(2): the account was above RLIMIT_NPROC when it was taken, and is now
            raise PrivbindError(
                f"cannot execute '{shown}' as {command.account}: that user has as many processes as the limit allows"
                " (raise it: ulimit -u)"
            ) from error
        kind = NotFoundError if error.errno == ENOENT and not exists(path) else NotExecutableError
        raise kind(f"cannot execute '{shown}' as {command.account}: {strerror(error)}") from error
