# SPDX-License-Identifier: MIT
"""bpf: programs on a cgroup of the launch's own lift the capability check for exactly the granted binds.

Nothing of privbind stays in the command: the kernel holds the programs as long as the cgroup, which is removed, once
empty, at a later launch. What a socket may do is decided where it was made, so the command enters its cgroup before
it starts, and descriptors that it inherits carry no grant.
"""

from __future__ import annotations

from ...errors import UnsupportedError
from ...grant import record
from ...linux import bpf, cgroup
from ...linux.capabilities import CAP_BPF, CAP_NET_ADMIN
from .. import Prepared, needs
from . import compiler, features, own_cgroup, placement
from .features import NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...grant.grant import Grant
    from ...grant.holder import Holder
    from ...grant.site import Site
    from ...linux.cgroup import Cgroup
    from ...request import Command

CAPABILITIES = (CAP_BPF, CAP_NET_ADMIN)


def probe(grant: Grant, site: Site, command: Command) -> None:
    """Raise UnsupportedError where the kernel, the cgroups or this process's privileges cannot honour the grant."""
    del command
    features.check(grant)
    needs.netns_cookie(NAME, site)
    with _own_cgroup() as parent:
        try:
            own_cgroup.check_usable(parent)
        except cgroup.CgroupError as error:
            raise _refusal(error) from error
        placement.check_above(parent, placement.hooks(grant))


def describe(grant: Grant, site: Site, command: Command) -> list[str]:
    """The programs for a grant as commented assembly, a line each."""
    from .disassembly import lines

    del command
    text = ["# The cgroup and the network namespace are known once there is a launch: here they are 0."]
    for program in compiler.programs(grant, type(site)(0, site.port_start, 0, 1)).values():
        text += lines(program)
    return text


def prepare(grant: Grant, holder: Holder, site: Site, command: Command) -> Prepared:
    """Enter a new cgroup and put the programs on it. Raises PrivbindError and leaves nothing behind."""
    del command
    needs.netns_cookie(NAME, site)
    features.check_privileges()
    parent = _own_cgroup()
    try:
        removed = own_cgroup.sweep(parent.fd)
        own_cgroup.check_usable(parent)
        placement.check_above(parent, placement.hooks(grant))
        launch = _Bpf(parent, *own_cgroup.enter_new(parent))
    except cgroup.CgroupError as error:
        parent.close()
        raise _refusal(error) from error
    except BaseException:
        parent.close()
        raise
    try:
        launch.honour(grant, holder, site)
        launch.tell(removed)
    except BaseException:
        launch.cancel()
        raise
    return launch


class _Bpf(Prepared):
    def __init__(self, parent: Cgroup, name: str, own: Cgroup) -> None:
        self._parent = parent
        self._name = name
        self._own = own

    def honour(self, grant: Grant, holder: Holder, site: Site) -> None:
        """Load the programs and put them on the cgroup."""
        own = self._own
        site = site.in_cgroup(own.identity, own.depth, own.exact)
        with placement.Loaded(grant, site, record.encode(record.describe(grant, holder, site, NAME))) as loaded:
            placement.attach(own, loaded)
        self.notes = (f"cgroup '{own.path}', {' + '.join(map(str, loaded.sizes))} instructions",)

    def tell(self, removed: int) -> None:
        """Add notes about cgroups that were removed, and about launches that this one is inside of."""
        if removed:
            self.notes += (f"removed {removed} empty {'cgroup' if removed == 1 else 'cgroups'} of ended launches",)
        if bpf.effective(self._parent.fd, bpf.INET4_BIND):
            from .outer import grants

            for text in grants(self._parent):
                self.notes += (f"inside another launch of privbind, whose grant holds as well: {text}",)

    def cancel(self) -> None:
        own_cgroup.leave(self._parent, self._name)
        self.release()

    def release(self) -> None:
        self._own.close()
        self._parent.close()


def _own_cgroup() -> Cgroup:
    try:
        return cgroup.own()
    except cgroup.CgroupError as error:
        raise _refusal(error) from error


def _refusal(error: cgroup.CgroupError) -> UnsupportedError:
    return UnsupportedError(NAME, error.reason, error.remedy)
