# SPDX-License-Identifier: MIT
"""bpf: programs on a cgroup of the launch's own lift the capability check for exactly the granted binds.

Nothing of privbind stays in the command: the kernel holds the programs as long as the cgroup, which is removed, once
empty, at the next launch. What a socket may do is decided where it was made, so the command enters its cgroup before
it starts, and descriptors that it inherits carry no grant.
"""

from __future__ import annotations

import posix
from errno import EPERM
from time import time

from ... import __version__, record
from ...errors import PrivbindError, UnsupportedError, strerror
from ...linux import bpf, cgroup
from ...linux.sockets import netns_cookie
from .. import Prepared
from . import compiler, features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...linux.cgroup import Cgroup
    from ...request import Request
    from .assembly import Assembly

NAME = "bpf"


def probe(request: Request) -> None:
    """Raise UnsupportedError where the kernel, the cgroups or this process's privileges cannot honour the request."""
    features.check(request.grant)
    _netns()
    parent = _own_cgroup()
    try:
        cgroup.check_usable(parent)
        _check_above(parent, _hooks(request))
    except cgroup.CgroupError as error:
        raise _refusal(error) from error
    finally:
        parent.close()


def describe(request: Request) -> list[str]:
    """The programs for a request as commented assembly, a line each."""
    from .listing import lines

    text = ["# The cgroup and the network namespace are known once there is a launch: here they are 0."]
    for program in _compile(request, compiler.Site(0, 1, True, 0)).values():
        text += lines(program)
    return text


def prepare(request: Request) -> Prepared:
    """Make a cgroup and put the programs on it. Raises PrivbindError and leaves nothing behind."""
    netns = _netns()
    parent = _own_cgroup()
    try:
        removed = cgroup.sweep(parent.fd)
        cgroup.check_usable(parent)
        _check_above(parent, _hooks(request))
        name, child = cgroup.make_child(parent)
    except cgroup.CgroupError as error:
        parent.close()
        raise _refusal(error) from error
    except BaseException:
        parent.close()
        raise
    launch = _Bpf(parent, name, child)
    try:
        launch.honour(request, netns)
        launch.tell(removed)
    except BaseException:
        launch.cancel()
        raise
    return launch


class _Bpf(Prepared):
    def __init__(self, parent: Cgroup, name: str, child: Cgroup) -> None:
        self._parent = parent
        self._name = name
        self._child = child
        self._entered = False

    def honour(self, request: Request, netns: int) -> None:
        """Load the programs and put them on the cgroup."""
        child = self._child
        programs = _compile(request, compiler.Site(child.identity, child.depth, child.exact, netns))
        fds: list[int] = []
        try:
            maps = {compiler.COUNTERS: bpf.create_array("counters", compiler.COUNTERS_SIZE, bpf.MAP_MMAPABLE)}
            fds += maps.values()
            if request.grant.limit:
                maps[compiler.MARKS] = bpf.create_array("marks", compiler.MARKS_SIZE)
                fds.append(maps[compiler.MARKS])
            grant = _record(request)
            fds.append(grant)
            for hook, program in programs.items():
                fd = bpf.load(compiler.NAMES[hook], hook, program.code(maps))
                fds.append(fd)
                bpf.tie(fd, grant)
                self._attach(fd, hook)
        except bpf.LoadError as error:
            raise features.missing(request.grant, error) from error
        except OSError as error:
            raise PrivbindError(f"cannot make a BPF map for the grant: {strerror(error)}") from error
        finally:
            for fd in fds:
                posix.close(fd)
        sizes = " + ".join(str(len(program.lines)) for program in programs.values())
        self.notes = (f"cgroup '{child.path}', {sizes} instructions",)

    def _attach(self, fd: int, hook: int) -> None:
        try:
            bpf.attach(self._child.fd, fd, hook)
        except OSError as error:
            if error.errno == EPERM:
                raise _alone("a cgroup above that cannot be seen from here") from error
            raise PrivbindError(f"cannot put a program on cgroup '{self._child.path}': {strerror(error)}") from error
        # By its flags an ancestor's program can be one that any other further down replaces.
        above = bpf.effective(self._parent.fd, hook)
        if above and not set(above) <= set(bpf.effective(self._child.fd, hook)):
            raise _silenced("a cgroup above that cannot be seen from here")

    def tell(self, removed: int) -> None:
        """Say what else there is to know of the cgroups around."""
        if removed:
            self.notes += (f"removed {removed} empty {'cgroup' if removed == 1 else 'cgroups'} of ended launches",)
        if bpf.effective(self._parent.fd, bpf.INET4_BIND):
            from .outer import grants

            for rules in grants(self._parent):
                self.notes += (f"inside another launch of privbind, whose grant holds as well: {rules}",)

    def enter(self) -> None:
        try:
            self._child.enter()
            self._entered = True
            self._child.open_to_all()
        except OSError as error:
            raise PrivbindError(f"cannot enter cgroup '{self._child.path}': {strerror(error)}") from error

    def cancel(self) -> None:
        try:
            if self._entered:
                self._parent.enter()
            cgroup.remove(self._parent.fd, self._name)
        except OSError:
            pass  # without privileges by now: this process is about to end, and the next launch removes the cgroup
        finally:
            self._child.close()
            self._parent.close()


def _compile(request: Request, site: compiler.Site) -> dict[int, Assembly]:
    return compiler.programs(request.grant, request.port_start, site)


def _hooks(request: Request) -> tuple[int, ...]:
    if request.grant.limit:
        return bpf.INET4_BIND, bpf.INET6_BIND, bpf.INET4_POST_BIND, bpf.INET6_POST_BIND
    return bpf.INET4_BIND, bpf.INET6_BIND


def _record(request: Request) -> int:
    """A map that says what is granted to whom, and that nobody can change."""
    text = record.encode(record.describe(request, NAME, __version__, posix.getpid(), int(time())))
    fd = bpf.create_array(record.NAME, len(text), bpf.MAP_READ_ONLY_IN_PROGRAMS)
    try:
        bpf.write_array(fd, text)
        bpf.freeze(fd)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def _own_cgroup() -> Cgroup:
    try:
        return cgroup.own()
    except cgroup.CgroupError as error:
        raise _refusal(error) from error


def _netns() -> int:
    try:
        return netns_cookie()
    except OSError as error:
        reason = f"cannot tell the network namespace (SO_NETNS_COOKIE): {strerror(error)}"
        raise UnsupportedError(NAME, reason, "Linux 5.14 has it") from error


def _refusal(error: cgroup.CgroupError) -> UnsupportedError:
    return UnsupportedError(NAME, error.reason, error.remedy)


def _check_above(parent: Cgroup, hooks: tuple[int, ...]) -> None:
    """Raise UnsupportedError when a program further up would forbid ours, or would be silenced by it."""
    try:
        if not any(bpf.effective(parent.fd, hook) for hook in hooks):
            return
        above = cgroup.ancestors(parent.fd)
        try:
            for hook in hooks:
                _check_hook(parent, above, hook)
        finally:
            for fd in above:
                posix.close(fd)
    except OSError as error:
        raise UnsupportedError(
            NAME, f"cannot see which programs are on cgroup '{parent.path}': {strerror(error)}", "needs CAP_NET_ADMIN"
        ) from error


def _check_hook(parent: Cgroup, above: list[int], hook: int) -> None:
    """The nearest cgroup with programs decides: its flags are those that the kernel asks."""
    for steps, fd in enumerate([parent.fd, *above]):
        flags, ids = bpf.query(fd, hook)
        if ids and not flags & bpf.ALLOW_MULTI:
            path = "/" + "/".join(parent.path.strip("/").split("/")[: parent.depth - steps])
            raise _silenced(f"cgroup '{path}'") if flags & bpf.ALLOW_OVERRIDE else _alone(f"cgroup '{path}'")
        if ids:
            return


def _alone(where: str) -> UnsupportedError:
    return UnsupportedError(
        NAME, f"{where} has a bind program that forbids any other below", "attach that one with BPF_F_ALLOW_MULTI"
    )


def _silenced(where: str) -> UnsupportedError:
    return UnsupportedError(
        NAME,
        f"{where} has a bind program that ours would put out of effect",
        "attach that one with BPF_F_ALLOW_MULTI",
    )
