# SPDX-License-Identifier: MIT
"""preload: a shim in the command forwards refused binds, with the socket, to the helper, which binds it.

Serves dynamically linked programs anywhere, with no more privilege than the bind itself needs.
"""

from __future__ import annotations

import posix
from fcntl import F_DUPFD, fcntl

from ..errors import PrivbindError, UnsupportedError, strerror
from ..grant import record
from ..helper import channel
from ..helper.executor import Executor
from ..helper.ledger import Ledger
from ..helper.process import Job, Starting
from ..linux import process, seccomp, sockets
from ..linux.call import machine
from ..linux.capabilities import CAP_NET_BIND_SERVICE
from ..request.program import open_regular, read_elf
from . import Prepared, needs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from ..grant.grant import Grant
    from ..grant.holder import Holder
    from ..grant.site import Site
    from ..request import Command

NAME = "preload"
CAPABILITIES = (CAP_NET_BIND_SERVICE,)
SHIM = "_preload/libprivbind.so"
"""privbind's own shim, beside this package's modules."""

_LIBRARIES = b"LD_PRELOAD="
_CHANNEL = b"PRIVBIND_CHANNEL="
_SEPARATORS = {b" ": "a space", b":": "a colon", b"$": "a dollar sign", b"\n": "a line break", b"\t": "a tab"}
"""What ld.so(8) does not take as part of a name in LD_PRELOAD."""

_HIGHEST_CHANNEL = 1023  # programs that close "all" descriptors stop here at the latest
_ST_NOEXEC = 8  # bits/statvfs.h


def probe(grant: Grant, site: Site, command: Command) -> None:
    """Raise UnsupportedError where there is no shim, where it would not reach the command, or no helper can bind."""
    del grant
    check_shim(shim_path(command), command)
    _check_reach(command)
    needs.capabilities(NAME, CAPABILITIES)
    needs.netns_cookie(NAME, site)
    try:
        seccomp.check_confine()
    except OSError as error:
        reason = f"the helper cannot confine itself with seccomp: {strerror(error)}"
        raise _refusal(reason, "the container's own profile may forbid it") from error
    needs.bind_privilege(NAME, site)


def shim_path(command: Command) -> bytes:
    """The shim that this launch preloads, as an absolute path."""
    if command.library is None:
        return own_shim()
    if command.library.startswith(b"/"):
        return command.library
    return posix.getcwdb() + b"/" + command.library


def own_shim() -> bytes:
    """privbind's own shim, whether it was built or not."""
    return (__file__.rsplit("/", 2)[0] + "/" + SHIM).encode("utf-8", "surrogateescape")


def check_shim(path: bytes, command: Command) -> None:
    """Raise UnsupportedError when ld.so(8) would not load this shim into the command.

    It would say so at most on stderr and start the command without it.
    """
    shown = path.decode("utf-8", "backslashreplace")
    for separator, name in _SEPARATORS.items():
        if separator in path:
            raise _refusal(f"the path of the shim '{shown}' has {name} in it, which LD_PRELOAD cannot name")
    try:
        fd = open_regular(path, command.account)
    except FileNotFoundError:
        if command.library is not None:
            raise _refusal(f"the shim '{shown}' does not exist") from None
        raise _refusal("its shim was not built", "install a C compiler and make, then install privbind again") from None
    except OSError as error:
        reason = f"{command.account} cannot read the shim '{shown}': {strerror(error)}"
        raise _refusal(reason, "install privbind where that user may read it") from error
    try:
        elf = read_elf(fd)
        not_executable = posix.fstatvfs(fd).f_flag & _ST_NOEXEC
    except OSError as error:
        raise _refusal(f"cannot read the shim '{shown}': {strerror(error)}") from error
    finally:
        posix.close(fd)
    if elf is None or not elf.shared:
        raise _refusal(f"the shim '{shown}' is not a shared ELF library")
    if (elf.bits, elf.machine) != (64, machine()):
        raise _refusal(f"the shim '{shown}' is for {elf.machine}, not for {machine()}")
    if not_executable:
        raise _refusal(f"the shim '{shown}' is on a file system that is mounted noexec")


def _check_reach(command: Command) -> None:
    """Raise UnsupportedError when the shim would not be loaded into the command, or would be inert there."""
    program = command.program
    image = program.image.decode("utf-8", "backslashreplace")
    other = " or a mechanism that reaches it, with --via"
    if program.unreadable:
        raise _refusal(f"cannot see what kind of program '{image}' is: {program.unreadable}")
    elf = program.elf
    if elf is None:
        raise _refusal(f"'{image}' is no program that preloading reaches (not ELF)")
    if (elf.bits, elf.machine) != (64, machine()):
        raise _refusal(f"'{image}' is a {elf.bits}-bit program for {elf.machine}, the shim is for {machine()}")
    if not elf.interpreter:
        raise _refusal(f"'{image}' is statically linked, so nothing can be preloaded", "use a dynamic build" + other)
    if gained := program.gained(no_new_privileges=command.no_new_privileges):
        raise _refusal(f"'{image}': {gained}, so ld.so preloads nothing", "use a plain copy" + other)


def _refusal(reason: str, remedy: str = "") -> UnsupportedError:
    return UnsupportedError(NAME, reason, remedy)


def describe(grant: Grant, site: Site, command: Command) -> list[str]:
    """What would be preloaded, and the entries of the environment that change."""
    del site
    shim = shim_path(command).decode("utf-8", "backslashreplace")
    channel = f"PRIVBIND_CHANNEL=NUMBER:COOKIE{_reuse(grant)}"
    return [f"LD_PRELOAD={shim} before what is there, and {channel}", "a helper with its own uid"]


def _reuse(grant: Grant) -> str:
    """The third part of PRIVBIND_CHANNEL: the ports that the shim sets SO_REUSEPORT for. Empty where there are none."""
    return ":" * bool(grant.reuse_ports) + ",".join(f"{ports.low}-{ports.high}" for ports in grant.reuse_ports)


def prepare(grant: Grant, holder: Holder, site: Site, command: Command) -> Prepared:
    """Start the helper. Raises PrivbindError and leaves nothing behind."""
    probe(grant, site, command)
    return _Preload(grant, holder, site, command)


class _Preload(Prepared):
    def __init__(self, grant: Grant, holder: Holder, site: Site, command: Command) -> None:
        self._shim = shim_path(command)
        self._reuse = _reuse(grant).encode()
        ledger = Ledger(record.encode(record.describe(grant, holder, site, NAME)))
        executor = Executor(grant, site, ledger.counters)
        command_end, helper_end = sockets.pair()
        try:
            pid = Starting(
                Job(
                    lambda: channel.serve(helper_end, executor),
                    lambda: channel.refuse(helper_end),
                    (helper_end.fileno(), *ledger.descriptors),
                    command.account,
                    site,
                    CAPABILITIES,
                )
            ).wait()
            self._cookie = sockets.option_u64(command_end, sockets.SO_COOKIE)
            self._fd = _to_high_number(command_end)
        finally:
            ledger.close()
            helper_end.close()
            command_end.close()
        shown = self._shim.decode("utf-8", "backslashreplace")
        self.notes = (f"shim {shown}, channel at descriptor {self._fd}, helper is process {pid}", *ledger.notes)

    def environment(self, entries: list[bytes]) -> list[bytes]:
        """Put the shim first in LD_PRELOAD, and name the channel."""
        edited = []
        found = False
        for entry in entries:
            if entry.startswith(_CHANNEL):
                continue
            if entry.startswith(_LIBRARIES):
                others = entry[len(_LIBRARIES) :]
                entry = _LIBRARIES + self._shim + (b":" + others if others else b"")
                found = True
            edited.append(entry)
        if not found:
            edited.append(_LIBRARIES + self._shim)
        edited.append(_CHANNEL + b"%d:%x%b" % (self._fd, self._cookie, self._reuse))
        return edited

    def cancel(self) -> None:
        """Close the channel, whereupon the helper ends."""
        posix.close(self._fd)


def _to_high_number(end: socket) -> int:
    """Duplicate the channel for the command, at the highest free number that programs count to."""
    soft, _ = process.limit(process.RLIMIT_NOFILE)
    for number in range(min(soft - 1, _HIGHEST_CHANNEL), sockets.FIRST_FREE - 1, -1):
        try:
            fd = int(fcntl(end.fileno(), F_DUPFD, number))
        except OSError:  # EMFILE: this number and those above it are taken
            continue
        if fd == number:
            return fd
        posix.close(fd)
    raise PrivbindError("no descriptor is free for the channel (raise the limit: ulimit -n)")
