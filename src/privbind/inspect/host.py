# SPDX-License-Identifier: MIT
"""What this host offers, found out by trying: each mechanism is asked for what a launch would ask it for.

Answers are three-valued: True, False, and None for what could not be told. An ordinary user gets None for most, since
the mechanisms need privileges. Nothing is changed that can be seen from outside.
"""

from __future__ import annotations

import posix
import sys
from dataclasses import dataclass
from stat import S_ISGID, S_ISREG, S_ISUID

from .. import mechanisms
from ..account import Account, look_up, missing_capabilities
from ..errors import PrivbindError, UnsupportedError, UsageError, strerror, with_remedy
from ..grant.grant import Grant
from ..grant.policy import Policy
from ..grant.site import Site
from ..linux import capabilities, cgroup, hierarchy, seccomp, sockets
from ..linux.call import UnknownMachineError, has_attribute, machine
from ..linux.capabilities import CAP_SETGID, CAP_SETUID
from ..mechanisms import preload
from ..mechanisms.bpf import own_cgroup
from ..request import MECHANISMS, Command
from ..request.program import Elf, Program, read_elf
from . import installation, standing

_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NOBODY = 65534
_PATIENCE_S = 20  # for a program that is to print a file


@dataclass(frozen=True, slots=True)
class Offer:
    """One mechanism: whether it can be used, with a policy, with a limit; why not, and what would change that.

    ``condition`` is the option without which it cannot be used here, empty for none.
    """

    name: str
    usable: bool | None
    policy: bool | None
    limit: bool | None
    reason: str = ""
    remedy: str = ""
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Cgroups:
    """How cgroups are mounted (see `hierarchy.layout`; None: not seen), this process's, and whether one may be made."""

    layout: str | None
    own: str | None
    usable: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Installed:
    """A privbind command, and the privileges that executing its file gives."""

    path: str
    setuid: bool
    setgid: bool
    file_capabilities: bool


@dataclass(frozen=True, slots=True)
class Shim:
    """The library of preload: whether it is there and can be one, and whether ld.so(8) loads it."""

    path: str
    built: bool
    loads: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found. ``port_start`` is the first port that is not reserved, None where that cannot be read."""

    kernel: str
    machine: str
    uid: int
    offers: tuple[Offer, ...]
    port_start: int | None
    cgroups: Cgroups
    installation: installation.Installation
    installed: tuple[Installed, ...]
    shim: Shim
    standing: standing.Standing
    unseen: tuple[str, ...]

    @property
    def honours_policy(self) -> bool:
        """Whether a mechanism is known to."""
        return any(offer.policy for offer in self.offers)


def look(place: str) -> Report:
    """Look at everything. ``place`` is the folder that this command was started from, empty where not known."""
    unseen: list[str] = []
    port_start: int | None = None
    try:
        port_start = sockets.read_port_start()
    except (OSError, ValueError) as error:
        why = strerror(error) if isinstance(error, OSError) else str(error)
        unseen.append(f"the reserved range: {sockets.PORT_START}: {why} (mount /proc)")
    shim = _shim()
    cgroups = _cgroups()
    offers = tuple(_offer(name, port_start, shim, cgroups) for name in MECHANISMS)
    hidden = [offer.name for offer in offers if offer.usable is None]
    if hidden:
        unseen.append(f"whether {', '.join(hidden)} can be used (run as root, as privbind is)")
    if shim.built and shim.loads is None:
        unseen.append(f"whether the shim loads: {shim.reason}")
    grants = standing.look()
    if grants.in_force is None:
        why = grants.reason if posix.geteuid() == 0 else "run as root, or ask for a user: privbindctl test USER RULE"
        unseen.append(f"standing grants ({why})")
    system = posix.uname()
    return Report(
        system.release,
        system.machine,
        posix.geteuid(),
        offers,
        port_start,
        cgroups,
        installation.look(place),
        _installed([place, sys.executable.rpartition("/")[0], *_SYSTEM_FOLDERS]),
        shim,
        grants,
        tuple(unseen),
    )


def _offer(name: str, port_start: int | None, shim: Shim, cgroups: Cgroups) -> Offer:
    missing = missing_capabilities((CAP_SETUID, CAP_SETGID))
    if posix.geteuid() != 0:
        certain = _certain(name, shim, cgroups)
        if certain:
            return Offer(name, False, False, False, certain)
        missing += missing_capabilities(() if name == "bpf" and _administers() else mechanisms.load(name).CAPABILITIES)
        if missing:
            # Of ambient it is known without trying that it takes neither.
            narrower = False if name == "ambient" else None
            return Offer(name, None, narrower, narrower, f"this user lacks {_all_of(missing)}", "run as root")
    if missing:
        return Offer(name, False, False, False, f"{_all_of(missing)} missing", "add what is missing")
    if name == preload.NAME and shim.loads is False:
        return Offer(name, False, False, False, *_refused_shim(shim))
    return _ask(name, port_start)


def _ask(name: str, port_start: int | None) -> Offer:
    """Ask a mechanism for all reserved ports, for one of them, and for one bind of that one."""
    everything = Grant(Policy(None))
    # Where no port is reserved, no mechanism is used; what each could do elsewhere is still found out.
    site = Site(_netns(), port_start if port_start is not None and port_start > 1 else sockets.DEFAULT_PORT_START)
    of_any = _refusal(name, everything, site)
    # Without CAP_SYS_ADMIN a filter needs no_new_privs, which privbind sets when it is asked to.
    sealed = bool(of_any) and name == "seccomp" and not _refusal(name, everything, site, True)
    if of_any and not sealed:
        return Offer(name, False, False, False, of_any.reason, of_any.remedy)
    policy = Policy.parse(["tcp:1"])
    of_policy = _refusal(name, Grant(policy), site, sealed)
    of_limit = _refusal(name, Grant(Policy(None) if of_policy else policy, 1), site, sealed)
    told = of_policy or of_limit or of_any
    reason, remedy = (told.reason, told.remedy) if told else ("", "")
    return Offer(name, True, not of_policy, not of_limit, reason, remedy, "--no-new-privs" if sealed else "")


def _netns() -> int:
    try:
        return sockets.netns_cookie()
    except OSError:
        return 0


def _refusal(name: str, grant: Grant, site: Site, no_new_privileges: bool = False) -> UnsupportedError | None:
    """Why a launch of a plain program as a plain user would be refused."""
    try:
        account = look_up("nobody")
    except UsageError:
        account = Account(_NOBODY, _NOBODY, ())
    program = _dynamic_program() or Program(b"a dynamic program", b"", Elf(64, machine(), b"/lib/ld.so", True))
    command = Command(account, (program.path,), program, no_new_privileges=no_new_privileges)
    try:
        mechanisms.load(name).probe(grant, site, command)
    except UnsupportedError as error:
        return error
    except PrivbindError as error:
        return UnsupportedError(name, str(error))
    except OSError as error:
        return UnsupportedError(name, f"trying it failed: {strerror(error)}")
    return None


def _dynamic_program() -> Program | None:
    """A program that prints a file, into which a library of this machine's can be preloaded."""
    for path in ("/bin/cat", "/usr/bin/cat", sys.executable):
        try:
            elf = _elf(path)
        except OSError:
            continue
        if elf and elf.interpreter and (elf.bits, elf.machine) == (64, machine()):
            name = path.encode("utf-8", "surrogateescape")
            return Program(name, name, elf)
    return None


def _elf(path: str | bytes) -> Elf | None:
    with open(path, "rb", buffering=0) as file:
        return read_elf(file.fileno())


def _certain(name: str, shim: Shim, cgroups: Cgroups) -> str:
    """Why a mechanism cannot be used here whoever tries; empty where privileges would have to tell."""
    if name == "bpf":
        return cgroups.reason if cgroups.usable is False else ""
    if name == preload.NAME:
        return _refused_shim(shim)[0] if not shim.built or shim.loads is False else ""
    if name == "seccomp":
        try:
            seccomp.notify_binds()
            sockets.netns_cookie()
        except UnknownMachineError as error:
            return strerror(error)
        except OSError:
            return "the kernel has no SO_NETNS_COOKIE"
    return ""


def _all_of(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _administers() -> bool:
    return capabilities.effective(capabilities.CAP_SYS_ADMIN)


def _cgroups() -> Cgroups:
    layout: str | None = None
    try:
        layout = hierarchy.layout()
        own = cgroup.own()
    except cgroup.CgroupError as error:
        return Cgroups(layout, None, False if layout else None, with_remedy(error.reason, error.remedy))
    try:
        usable: bool | None = True
        own_cgroup.check_usable(own)
    except cgroup.CgroupError as error:
        # That this user may not do something does not mean that root may not.
        others = own_cgroup.is_read_only(own) or own.read("cgroup.type") not in ("", "domain")
        usable = False if others or posix.geteuid() == 0 else None
        return Cgroups(layout, own.path, usable, with_remedy(error.reason, error.remedy))
    finally:
        own.close()
    return Cgroups(layout, own.path, usable)


def _installed(folders: list[str]) -> tuple[Installed, ...]:
    found: dict[tuple[int, int], Installed] = {}
    for folder in filter(None, folders):
        path = f"{folder}/privbind"
        try:
            status = posix.stat(path)
        except OSError:
            continue
        if S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in found:
            mode = status.st_mode
            found[status.st_dev, status.st_ino] = Installed(
                path, bool(mode & S_ISUID), bool(mode & S_ISGID), has_attribute(path, "security.capability")
            )
    return tuple(found.values())


def _refused_shim(shim: Shim) -> tuple[str, str]:
    if shim.built:
        return f"ld.so does not load the shim: {shim.reason}", "install privbind again"
    return shim.reason, "install a C compiler and make, then install privbind again"


def _shim() -> Shim:
    """Look at the shim and have it loaded into a program that tells what it has loaded."""
    path = preload.own_shim()
    shown = path.decode("utf-8", "backslashreplace")
    try:
        elf = _elf(path)
    except FileNotFoundError:
        return Shim(shown, False, False, "its shim was not built")
    except OSError as error:
        return Shim(shown, True, None, f"cannot read it: {strerror(error)}")
    if elf is None or not elf.shared or (elf.bits, elf.machine) != (64, machine()):
        return Shim(shown, False, False, f"the shim '{shown}' is no shared library for {machine()}")
    program = _dynamic_program()
    if program is None:
        return Shim(shown, True, None, "no dynamically linked program was found to load it into")
    return Shim(shown, True, *_loads(path, program))


def _loads(shim: bytes, program: Program) -> tuple[bool | None, str]:
    import subprocess

    maps = "/proc/self/maps"
    is_python = program.path == sys.executable.encode("utf-8", "surrogateescape")
    rest = ["-I", "-S", "-c", f"print(open({maps!r}).read())"] if is_python else [maps]
    try:
        done = subprocess.run(
            [program.path, *rest],
            env={b"LD_PRELOAD": shim},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"cannot try it: {error}"
    said = " ".join(done.stderr.decode("utf-8", "replace").split())
    if done.returncode == 0 and not said and b"/" + shim.rpartition(b"/")[2] in done.stdout:
        return True, ""
    # glibc ignores a library that it cannot load, musl does not.
    if any(sign in said for sign in ("LD_PRELOAD", "loading shared library", shim.decode("utf-8", "replace"))):
        return False, said
    return None, f"cannot try it: {said or f'the program ended with {done.returncode}'}"
