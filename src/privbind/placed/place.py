# SPDX-License-Identifier: MIT
"""Where a grant is placed: which cgroup is meant, whether it may carry one, and for which network namespace.

A name or a pid can mean something else a moment later. So a process is held by a pidfd, what was read of it is read
again, and from then on the cgroup's open directory and the namespace's cookie are what counts.
"""

from __future__ import annotations

import posix
from errno import ENOENT, ESRCH

from ..errors import PrivbindError, strerror
from ..grant.site import Site
from ..linux import cgroup, hierarchy, process, procfs, sockets
from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ..linux.cgroup import Cgroup

_CONTROL = "/.control"  # where systemd runs ExecReload=+ of a unit with Delegate= (systemd.resource-control(5))


@value
class Place:
    """A cgroup, held open, and whose network namespace is meant: a process's, or None for that of all in it."""

    cgroup: Cgroup
    netns_of: int | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cgroup.close()

    def site(self) -> Site:
        """Where the grant will hold. Raises PrivbindError."""
        pids = members(self.cgroup) if self.netns_of is None else [self.netns_of]
        found = _namespace(pids, self.cgroup.path)
        return found.in_cgroup(self.cgroup.identity, self.cgroup.depth, self.cgroup.exact)


def of_process(pid: int) -> Place:
    """The cgroup that a process is in, alone. Raises PrivbindError."""
    pidfd = _open_process(pid)
    try:
        found = _stable(lambda: _of_pid(pid), pid, pidfd)
    finally:
        posix.close(pidfd)
    place = _checked(Place(found, pid))
    others = [member for member in members(found) if member != pid]
    if others:
        path = found.path
        found.close()
        raise PrivbindError(
            f"process {pid} shares cgroup '{path}' with {len(others)} others, {others[0]} among them"
            f" (to mean all of them: --cgroup {path})"
        )
    return place


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
        with find() as second:
            if first.identity == second.identity and process.is_alive(pidfd):
                return first
        first.close()
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
        remedy = f" ({error.remedy})" if error.remedy else ""
        raise PrivbindError(f"cgroup '{path}': {error.reason}{remedy}") from error


def _checked(place: Place) -> Place:
    """Refuse a cgroup that can carry no grant of its own."""
    target = place.cgroup
    kind = target.read("cgroup.type")
    reason = ""
    if not kind:
        reason = "it is the root, which all processes share (a standing grant is for users: privbindctl allow)"
    elif kind != "domain":
        reason = f"it is {kind}, so its processes are not apart from others'"
    if reason:
        target.close()
        raise PrivbindError(f"cgroup '{target.path}': {reason}")
    return place


def _namespace(pids: list[int], path: str) -> Site:
    """The network namespace that all these processes are in, seen from inside."""
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
        return _site_in(pid)
    raise PrivbindError(f"the processes of cgroup '{path}' have ended")


def _site_in(pid: int) -> Site:
    """The site of a process's network namespace, which a child enters to look."""
    try:
        namespace = posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        reason = "it has ended" if error.errno == ENOENT else strerror(error)
        raise PrivbindError(f"cannot see the network namespace of process {pid}: {reason}") from error
    reader, writer = posix.pipe()
    child = posix.fork()
    if child == 0:
        try:
            process.enter_network_namespace(namespace)
            answer = f"{sockets.netns_cookie()} {sockets.port_start()}"
        except OSError as error:
            answer = strerror(error)
        posix.write(writer, answer.encode())
        posix._exit(0)
    posix.close(namespace)
    posix.close(writer)
    with open(reader, "rb") as file:
        answer = file.read().decode()
    posix.waitpid(child, 0)
    words = answer.split(" ")
    if len(words) == 2 and all(word.isdigit() for word in words):
        return Site(int(words[0]), int(words[1]))
    raise PrivbindError(f"cannot enter the network namespace of process {pid}: {answer}")
