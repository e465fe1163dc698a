# SPDX-License-Identifier: MIT
"""From options to a `Request`: everything that they name is looked up and checked here."""

from __future__ import annotations

import posix
from _stat import S_ISDIR

from ..account import FileAccess, how_to_get, look_up, missing_capabilities, own
from ..errors import UsageError
from ..grant.grant import Grant
from ..grant.site import Site
from ..linux import sockets
from ..linux.capabilities import CAP_SETGID, CAP_SETUID
from . import Command, Request, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..account import Account
    from ..grant.policy import Policy
    from .options import Options


class NotPermittedError(UsageError):
    """This process cannot become the account; ``account`` is the one, and ``missing`` the capabilities it lacks."""

    def __init__(self, account: Account, missing: list[str]) -> None:
        """Say which are missing."""
        verb = "is" if len(missing) == 1 else "are"
        super().__init__(f"cannot become {account.who}: {' and '.join(missing)} {verb} missing", how_to_get(missing))
        self.account = account
        self.missing = missing


def resolve(options: Options, environment: list[bytes]) -> Request:
    """Look up and check what the options name, a user among them. Raises PrivbindError or PolicyError."""
    grant, account = grant_and_account(options)
    check_may_become(account)
    argv = tuple(map(_bytes, options.command))
    if options.set_home:
        environment = _with_home(environment, account)
    command = Command(
        account=account,
        argv=argv,
        program=program.find(argv[0], _path(environment), account),
        library=None if options.library is None else _bytes(options.library),
        no_new_privileges=options.no_new_privileges,
    )
    return Request(command, grant, own_site(), tuple(environment), options.via)


def grant_and_account(options: Options) -> tuple[Grant, Account]:
    """What is to be granted, and to whom. Raises PrivbindError or PolicyError."""
    grant = Grant(options.policy(service), options.limit(), options.reuse_ports(service))
    return grant, look_up(options.user or "", options.group, not options.no_groups)


def check_may_become(account: Account) -> None:
    """Raise UsageError where this process lacks the capabilities to become an account."""
    missing = missing_capabilities((CAP_SETUID, CAP_SETGID))
    if missing:
        raise NotPermittedError(account, missing)


def own_command(options: Options, environment: list[bytes]) -> tuple[Policy, Command]:
    """What an ordinary user wants to bind, and the command that is to do it. Raises PrivbindError or PolicyError."""
    account = own()
    argv = tuple(map(_bytes, options.command))
    return options.policy(service), Command(account, argv, program.find(argv[0], _path(environment), account))


def own_site() -> Site:
    """Where this process is."""
    try:
        netns = sockets.netns_cookie()
    except OSError:  # before Linux 5.14
        netns = 0
    return Site(netns, sockets.port_start())


def foreign_home(request: Request) -> str:
    """The home in the command's environment, where that is a folder in which the account may not write; else empty."""
    home = variable(request.environment, b"HOME")
    if not home or not _is_folder(home):
        return ""
    with FileAccess(request.command.account):
        own = posix.access(home, posix.W_OK | posix.X_OK, effective_ids=True)
    return "" if own else home.decode("utf-8", "backslashreplace")


def _is_folder(path: bytes) -> bool:
    try:
        return S_ISDIR(posix.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def variable(environment: Iterable[bytes], name: bytes) -> bytes | None:
    """The value of an environment variable; None where it is not set."""
    start = name + b"="
    return next((entry[len(start) :] for entry in environment if entry.startswith(start)), None)


def _path(environment: list[bytes]) -> bytes | None:
    return variable(environment, b"PATH")


def home_variables(account: Account) -> dict[str, str]:
    """What ``--set-home`` sets in the environment. Raises UsageError where passwd does not know the account."""
    if not account.name:
        raise UsageError("--set-home: the user has no passwd entry to take a home from")
    shell = account.shell or "/bin/sh"
    return {"HOME": account.home, "USER": account.name, "LOGNAME": account.name, "SHELL": shell}


def _with_home(environment: list[bytes], account: Account) -> list[bytes]:
    values = {key.encode(): _bytes(value) for key, value in home_variables(account).items()}
    kept = [entry for entry in environment if entry.partition(b"=")[0] not in values]
    return kept + [key + b"=" + value for key, value in values.items()]


def service(name: str, protocol: str) -> int:
    """The port of a service (getservbyname(3)). Raises OSError where there is none."""
    from _socket import getservbyname

    return getservbyname(name, protocol)


def _bytes(text: str) -> bytes:
    """What the caller wrote: arguments are decoded as UTF-8 with stray bytes escaped (the launcher says -X utf8)."""
    return text.encode("utf-8", "surrogateescape")
