# SPDX-License-Identifier: MIT
"""Where a grant is placed: which cgroup is meant, whether it may carry one, and for which network namespace.

A name or a pid can mean something else a moment later. So a process is held by a pidfd, what was read of it is read
again, and from then on the cgroup's open directory and the namespace's cookie are what counts.
"""

from __future__ import annotations

import posix
from errno import ENOENT, ESRCH

from ..errors import PrivbindError, counted, strerror, with_remedy
from ..grant.site import Site
from ..linux import cgroup, hierarchy, network, process, procfs
from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ..linux.cgroup import Cgroup

_CONTROL = "/.control"  # where systemd runs ExecReload=+ of a unit with Delegate= (systemd.resource-control(5))


@value
class Place:
    """A cgroup, held open, and whose network namespace is meant: a process's, or None for that of all in it.

    ``pidfd`` holds that process, -1 where there is nothing to hold.
    """

    cgroup: Cgroup
    netns_of: int | None
    pidfd: int = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the cgroup and the process go."""
        self.cgroup.close()
        if self.pidfd >= 0:
            posix.close(self.pidfd)

    def site(self) -> Site:
        """Where the grant will hold. Raises PrivbindError."""
        pid = self.netns_of
        if pid is None:
            pid = _representative(members(self.cgroup), self.cgroup.path)
        found = _site_in(pid)
        # What was read by its number may be another process's by now.
        if pid not in members(self.cgroup) or (self.pidfd >= 0 and not process.is_alive(self.pidfd)):
            raise PrivbindError(f"process {pid} has just ended or left cgroup '{self.cgroup.path}' (try again)")
        return found.in_cgroup(self.cgroup.identity, self.cgroup.depth, self.cgroup.exact)


def of_process(pid: int) -> Place:
    """The cgroup that a process is in, alone. Raises PrivbindError."""
    pidfd = _open_process(pid)
    try:
        place = alone_in(pid, pidfd)
    except BaseException:
        posix.close(pidfd)
        raise
    return place


def alone_in(pid: int, pidfd: int) -> Place:
    """The cgroup that a process is in, alone; ``pidfd`` is taken over. Raises PrivbindError; then it is not."""
    found = _stable(lambda: _of_pid(pid), pid, pidfd)
    try:
        _check(found)
        others = [member for member in members(found) if member != pid]
        if others:
            raise PrivbindError(
                f"process {pid} shares cgroup '{found.path}' with {counted(len(others), 'other')}, {others[0]} among"
                f" them (to mean all of them: --cgroup {found.path})"
            )
    except BaseException:
        found.close()
        raise
    return Place(found, pid, pidfd)


def of_self() -> Place:
    """The cgroup that this process is in. Raises PrivbindError."""
    found = _of_pid(posix.getpid())
    return _checked(Place(found, posix.getpid()))


def of_directory(directory: str) -> Place:
    """A cgroup by its directory, or by the path that /proc tells. Raises PrivbindError."""
    return _checked(Place(_open(directory), None))


def of_unit(unit: str) -> Place:
    """The cgroup of a unit of systemd's, as systemctl tells it. Raises PrivbindError."""
    import subprocess

    command = ["systemctl", "show", "--property=ControlGroup", "--property=LoadState", "--", unit]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PrivbindError(f"cannot ask systemctl about unit '{unit}': {strerror(error)}") from error
    said = dict(line.partition("=")[::2] for line in done.stdout.split("\n"))
    if done.returncode:
        raise PrivbindError(f"cannot ask systemctl about unit '{unit}': {' '.join(done.stderr.split())}")
    if said.get("LoadState") != "loaded":
        raise PrivbindError(f"unit '{unit}' is not known (systemctl list-units)")
    if not said.get("ControlGroup"):
        raise PrivbindError(f"unit '{unit}' has no cgroup: it is not running (start it, or grant in ExecStartPre=+)")
    return _checked(Place(_open(said["ControlGroup"]), None))


def members(target: Cgroup) -> list[int]:
    """All processes in a cgroup and below it. Raises PrivbindError."""
    found: list[int] = []
    try:
        for _, fd in hierarchy.walk_below(target.fd):
            found += hierarchy.members(fd)
    except OSError as error:
        raise PrivbindError(f"cannot list the processes of cgroup '{target.path}': {strerror(error)}") from error
    return found


def _open_process(pid: int) -> int:
    try:
        return posix.pidfd_open(pid)
    except OSError as error:
        reason = "there is no such process" if error.errno == ESRCH else strerror(error)
        raise PrivbindError(f"process {pid}: {reason}") from error


def _stable(find: Callable[[], Cgroup], pid: int, pidfd: int) -> Cgroup:
    """What is found of a process, when it is found twice and the process is still there."""
    for _ in range(100):
        first = find()
        same = False
        try:
            with find() as second:
                same = first.identity == second.identity and process.is_alive(pidfd)
        finally:
            if not same:
                first.close()
        if same:
            return first
        if not process.is_alive(pidfd):
            raise PrivbindError(f"process {pid} has ended")
    raise PrivbindError(f"process {pid} moves from cgroup to cgroup (stop that, or name a cgroup with --cgroup)")


def _of_pid(pid: int) -> Cgroup:
    try:
        path = cgroup.path_of(pid)
    except cgroup.CgroupError as error:
        raise PrivbindError(f"process {pid}: {error.reason}") from error
    return _open(path.removesuffix(_CONTROL) or "/")


def _open(path: str) -> Cgroup:
    """Open a cgroup, given by its directory or by its path in the hierarchy."""
    try:
        return cgroup.open_path(path)
    except cgroup.CgroupError as error:
        raise PrivbindError(f"cgroup '{path}': {with_remedy(error.reason, error.remedy)}") from error


def _checked(place: Place) -> Place:
    """Refuse a cgroup that can carry no grant of its own."""
    try:
        _check(place.cgroup)
    except BaseException:
        place.close()
        raise
    return place


def _check(target: Cgroup) -> None:
    kind = target.read("cgroup.type")
    if not kind:
        reason = "it is the root, which all processes share (it has standing grants: privbindctl allow, disallow)"
    elif kind == "domain":
        return
    else:
        reason = f"it is {kind}, so its processes are not apart from others' (name one whose cgroup.type is domain)"
    raise PrivbindError(f"cgroup '{target.path}': {reason}")


def _representative(pids: list[int], path: str) -> int:
    """One of these processes, when all are in the same network namespace."""
    if not pids:
        raise PrivbindError(
            f"cgroup '{path}' has no process, so it is not known for which network namespace the grant is meant"
            " (start one first)"
        )
    found: dict[str, int] = {}
    for pid in pids:
        try:
            found.setdefault(procfs.namespace(pid, "net"), pid)
        except FileNotFoundError:
            continue  # it has ended
        except OSError as error:
            raise PrivbindError(f"cannot see the network namespace of process {pid}: {strerror(error)}") from error
    if len(found) > 1:
        raise PrivbindError(
            f"the processes of cgroup '{path}' are in {len(found)} network namespaces (name one process: --pid)"
        )
    for pid in found.values():
        return pid
    raise PrivbindError(f"the processes of cgroup '{path}' have ended")


def _site_in(pid: int) -> Site:
    """The site of a process's network namespace, which a child enters to look."""
    try:
        return Site(*network.of_process(pid))
    except OSError as error:
        reason = "it has ended" if error.errno == ENOENT else strerror(error)
        raise PrivbindError(f"cannot see the network namespace of process {pid}: {reason}") from error
