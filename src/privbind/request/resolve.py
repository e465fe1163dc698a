# SPDX-License-Identifier: MIT
"""From options to a `Request`: everything that they name is looked up and checked here."""

from __future__ import annotations

from ..account import look_up, missing_capabilities, own
from ..errors import UsageError
from ..grant.grant import Grant
from ..grant.site import Site
from ..linux import sockets
from ..linux.capabilities import CAP_SETGID, CAP_SETUID
from . import Command, Request, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..grant.policy import Policy
    from .options import Options


def resolve(options: Options, environment: list[bytes]) -> Request:
    """Look up and check what the options name, a user among them. Raises PrivbindError or PolicyError."""
    grant = Grant(options.policy(_service), options.limit(), options.reuse_ports(_service))
    account = look_up(options.user or "", options.group, not options.no_groups)
    argv = tuple(map(_bytes, options.command))
    missing = missing_capabilities((CAP_SETUID, CAP_SETGID))
    if missing:
        raise UsageError(
            f"cannot become {account}: {' and '.join(missing)} missing (run as root, or add what is missing)"
        )
    if options.set_home:
        environment = _with_home(environment, account.name, account.home, account.shell)
    command = Command(
        account=account,
        argv=argv,
        program=program.find(argv[0], _path(environment), account),
        library=None if options.library is None else _bytes(options.library),
        no_new_privileges=options.no_new_privileges,
    )
    return Request(command, grant, own_site(), tuple(environment), options.via)


def own_command(options: Options, environment: list[bytes]) -> tuple[Policy, Command]:
    """What an ordinary user wants to start as it is, and what it is to bind. Raises PrivbindError or PolicyError."""
    account = own()
    argv = tuple(map(_bytes, options.command))
    return options.policy(_service), Command(account, argv, program.find(argv[0], _path(environment), account))


def own_site() -> Site:
    """Where this process is."""
    try:
        netns = sockets.netns_cookie()
    except OSError:  # before Linux 5.14
        netns = 0
    return Site(netns, sockets.port_start())


def _path(environment: list[bytes]) -> bytes | None:
    return next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), None)


def _with_home(environment: list[bytes], name: str, home: str, shell: str) -> list[bytes]:
    if not name:
        raise UsageError("--set-home: the user has no passwd entry to take a home from")
    values = {b"HOME": home, b"USER": name, b"LOGNAME": name, b"SHELL": shell or "/bin/sh"}
    kept = [entry for entry in environment if entry.partition(b"=")[0] not in values]
    return kept + [key + b"=" + _bytes(value) for key, value in values.items()]


def _service(name: str, protocol: str) -> int:
    """The port of a service (getservbyname(3)). Raises OSError where there is none."""
    from _socket import getservbyname

    return getservbyname(name, protocol)


def _bytes(text: str) -> bytes:
    """What the caller wrote: arguments are decoded as UTF-8 with stray bytes escaped (the launcher says -X utf8)."""
    return text.encode("utf-8", "surrogateescape")
