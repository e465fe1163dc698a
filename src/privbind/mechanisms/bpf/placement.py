# SPDX-License-Identifier: MIT
"""A grant's programs on a cgroup: loaded, attached, replaced, detached, and found again.

The cgroup may be one that a launch has made, or one that existed before. The programs stay attached when nobody holds
them open, and go with the cgroup. Only their names, and the record in a map of theirs, tell that they are privbind's.
"""

from __future__ import annotations

import posix
from errno import EPERM

from ...errors import PrivbindError, UnsupportedError, strerror
from ...grant import record
from ...linux import bpf, cgroup
from . import compiler, features
from .features import NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ...grant.grant import Grant
    from ...grant.site import Site
    from ...linux.cgroup import Cgroup

_BIND_HOOKS = (bpf.INET4_BIND, bpf.INET6_BIND)
_REMEDY = "attach that one with BPF_F_ALLOW_MULTI"


class Loaded:
    """A grant's programs, loaded into the kernel for one site; ``programs`` are their descriptors by hook.

    ``text`` is the grant's record. Raises UnsupportedError where the kernel cannot honour the grant.
    """

    def __init__(self, grant: Grant, site: Site, text: bytes) -> None:
        """Load them."""
        self.programs: dict[int, int] = {}
        self.sizes: list[int] = []
        maps: dict[str, int] = {}
        try:
            maps[compiler.COUNTERS] = bpf.create_array("counters", compiler.COUNTERS_SIZE, bpf.MAP_MMAPABLE)
            if grant.limit:
                maps[compiler.MARKS] = bpf.create_array("marks", compiler.MARKS_SIZE)
            maps[record.NAME] = _frozen(text)
            for hook, program in compiler.programs(grant, site).items():
                self.programs[hook] = fd = bpf.load(compiler.NAMES[hook], hook, program.code(maps))
                self.sizes.append(len(program.lines))
                bpf.bind_map(fd, maps[record.NAME])
        except bpf.LoadError as error:
            self.close()
            raise features.missing(grant, error) from error
        except OSError as error:
            self.close()
            raise PrivbindError(f"cannot make a BPF map for the grant: {strerror(error)}") from error
        finally:
            for fd in maps.values():
                posix.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let them go; those that are attached stay loaded."""
        while self.programs:
            posix.close(self.programs.popitem()[1])


def hooks(grant: Grant) -> tuple[int, ...]:
    """The hooks that a grant has programs for."""
    return (*_BIND_HOOKS, bpf.INET4_POST_BIND, bpf.INET6_POST_BIND) if grant.limit else _BIND_HOOKS


def attach(target: Cgroup, loaded: Loaded) -> None:
    """Put programs on a cgroup, beside all that are there, above and below. Raises PrivbindError; then none is.

    Those that count come first: a process may bind at this moment.
    """
    done: list[int] = []
    try:
        for hook, fd in _counting_first(loaded):
            _attach(target, fd, hook)
            done.append(hook)
            _check_above_runs(target, hook)
    except BaseException:
        for hook in reversed(done):
            _put_back(target, hook, loaded.programs[hook], None)
        raise


def replace(target: Cgroup, loaded: Loaded) -> None:
    """Replace our programs on a cgroup by these; each bind hook changes from the old one to the new one in one step.

    Programs that count binds are attached before those whose binds they count, and old ones are removed last: so a
    limit holds at every moment, the old grant's or the new one's. Raises PrivbindError; then all is as it was before.
    """
    before = ours(target)
    held: dict[int, int] = {}
    done: list[int] = []
    try:
        for hook in _BIND_HOOKS:
            if before.get(hook):
                held[hook] = _open(target, before[hook].pop(0))
        for hook, fd in _counting_first(loaded):
            if hook in held:
                _replace(target, fd, hook, held[hook])
            else:
                _attach(target, fd, hook)
            done.append(hook)
    except BaseException:
        for hook in reversed(done):
            _put_back(target, hook, loaded.programs[hook], held.get(hook))
        raise
    finally:
        for fd in held.values():
            posix.close(fd)
    for hook, programs in before.items():
        for program in programs:
            _detach(target, hook, program)


def _counting_first(loaded: Loaded) -> list[tuple[int, int]]:
    """The programs by hook, those that count before those whose binds they count."""
    return sorted(loaded.programs.items(), key=lambda found: found[0] in _BIND_HOOKS)


def detach(target: Cgroup) -> int:
    """Take all programs of ours off a cgroup; how many they were. What is bound stays bound. Raises PrivbindError."""
    found = [(hook, program) for hook, programs in ours(target).items() for program in programs]
    for hook, program in found:
        _detach(target, hook, program)
    return len(found)


def ours(target: Cgroup) -> dict[int, list[int]]:
    """The ids of the programs of ours on a cgroup, by hook. Needs CAP_SYS_ADMIN. Raises PrivbindError."""
    found: dict[int, list[int]] = {}
    for hook, name in compiler.NAMES.items():
        try:
            numbers = [number for number in bpf.query(target.fd, hook)[1] if _name(number) == name]
        except OSError as error:
            raise _failed("see which programs are on", target, error) from error
        if numbers:
            found[hook] = numbers
    return found


def check_above(parent: Cgroup, wanted: tuple[int, ...]) -> None:
    """Raise UnsupportedError when a program on this cgroup or above would forbid ours below, or be silenced by it."""
    try:
        if not any(bpf.effective(parent.fd, hook) for hook in wanted):
            return
        above = cgroup.ancestors(parent.fd)
        try:
            for hook in wanted:
                _check_hook(parent, above, hook)
        finally:
            for fd in above:
                posix.close(fd)
    except OSError as error:
        reason = f"cannot see which programs are on cgroup '{parent.path}': {strerror(error)}"
        raise features.refused_call(error) or UnsupportedError(NAME, reason) from error


def _attach(target: Cgroup, fd: int, hook: int) -> None:
    try:
        bpf.attach(target.fd, fd, hook)
    except OSError as error:
        if error.errno == EPERM:
            raise _forbidden("a cgroup above that cannot be seen from here") from error
        raise _failed("put a program on", target, error) from error


def _check_above_runs(target: Cgroup, hook: int) -> None:
    """A program above may have been attached so that any program further down replaces it: ours must not do so."""
    above = cgroup.ancestors(target.fd)
    try:
        silent = above and not set(bpf.effective(above[0], hook)) <= set(bpf.effective(target.fd, hook))
    except OSError as error:
        raise _failed("see which programs are in effect on", target, error) from error
    finally:
        for fd in above:
            posix.close(fd)
    if silent:
        raise _silenced("a cgroup above that cannot be seen from here")


def _open(target: Cgroup, program: int) -> int:
    try:
        return bpf.open_program(program)
    except OSError as error:
        raise _failed("replace the program on", target, error) from error


def _replace(target: Cgroup, fd: int, hook: int, old: int) -> None:
    try:
        bpf.replace(target.fd, fd, hook, old)
    except OSError as error:
        raise _failed("replace the program on", target, error) from error


def _put_back(target: Cgroup, hook: int, fd: int, old: int | None) -> None:
    """Have what was there before in the place of a program that was put on a cgroup just now."""
    try:
        if old is None:
            bpf.detach(target.fd, fd, hook)
        else:
            bpf.replace(target.fd, old, hook, fd)
    except OSError:
        pass  # the first error is told


def _detach(target: Cgroup, hook: int, program: int) -> None:
    try:
        fd = bpf.open_program(program)
        try:
            bpf.detach(target.fd, fd, hook)
        finally:
            posix.close(fd)
    except FileNotFoundError:
        pass  # another took it off just now
    except OSError as error:
        raise _failed("take the program off", target, error) from error


def _name(program: int) -> str:
    try:
        fd = bpf.open_program(program)
    except FileNotFoundError:
        return ""  # it was taken off just now
    try:
        return bpf.program_info(fd)[1]
    finally:
        posix.close(fd)


def _frozen(text: bytes) -> int:
    """A map that holds a record and that nobody can change."""
    fd = bpf.create_array(record.NAME, len(text), bpf.MAP_READ_ONLY_IN_PROGRAMS)
    try:
        bpf.write_array(fd, text)
        bpf.freeze(fd)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def _check_hook(parent: Cgroup, above: list[int], hook: int) -> None:
    """The nearest cgroup with programs decides: its flags are those that the kernel asks."""
    for steps, fd in enumerate([parent.fd, *above]):
        flags, programs = bpf.query(fd, hook)
        if programs and not flags & bpf.ALLOW_MULTI:
            path = "/" + "/".join(parent.path.strip("/").split("/")[: parent.depth - steps])
            raise _silenced(f"cgroup '{path}'") if flags & bpf.ALLOW_OVERRIDE else _forbidden(f"cgroup '{path}'")
        if programs:
            return


def _forbidden(where: str) -> UnsupportedError:
    return UnsupportedError(NAME, f"{where} has a bind program that forbids any other below", _REMEDY)


def _silenced(where: str) -> UnsupportedError:
    return UnsupportedError(NAME, f"{where} has a bind program that ours would put out of effect", _REMEDY)


def _failed(what: str, target: Cgroup, error: OSError) -> PrivbindError:
    return PrivbindError(f"cannot {what} cgroup '{target.path}': {strerror(error)}")
