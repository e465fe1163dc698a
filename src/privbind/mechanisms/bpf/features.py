# SPDX-License-Identifier: MIT
"""What a kernel must be able to do for a grant, found out by loading programs that do just that."""

from __future__ import annotations

import posix
from errno import EMFILE, ENFILE, ENOSYS, EPERM

from ...errors import PrivbindError, UnsupportedError, strerror
from ...linux import bpf, capabilities
from .. import needs
from .assembly import R0, R1, R2, R3, R4, R5, R6, R10, Assembly
from .compiler import LIFTED, NATIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...grant.grant import Grant

NAME = "bpf"

_USER_NAMESPACE = "/proc/self/ns/user"
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO, linux/proc_ns.h

_FLOOR = "Linux 5.14 has all that is needed"  # SO_NETNS_COOKIE, the youngest of the parts
_BIND_HELPERS = ("get_current_ancestor_cgroup_id", "get_netns_cookie")
_TAKE_CONTEXT = ("get_netns_cookie", "setsockopt")
_SINCE = {
    "get_current_ancestor_cgroup_id": _FLOOR,
    "get_netns_cookie": _FLOOR,
    "setsockopt": "-r needs it",
    "set_retval": "Linux 5.18; -n needs it",
}


def check(grant: Grant) -> None:
    """Raise UnsupportedError, naming what is missing, when this kernel or this process cannot honour the grant."""
    helpers = _BIND_HELPERS + (("setsockopt",) if grant.reuse_ports else ())
    try:
        _try(bpf.INET4_BIND, helpers, LIFTED)
        if grant.limit:
            _try(bpf.INET4_POST_BIND, ("set_retval",), NATIVE)
    except OSError as error:
        raise missing(grant, error) from error


def missing(grant: Grant, failure: OSError) -> UnsupportedError:
    """Find out why a program could not be loaded. Raises PrivbindError where that says nothing about the kernel."""
    if failure.errno in (EMFILE, ENFILE):
        raise PrivbindError(f"cannot load a BPF program: {strerror(failure)}") from failure
    refusal = refused_call(failure)
    if refusal is not None:
        return refusal
    helpers = _BIND_HELPERS + (("setsockopt",) if grant.reuse_ports else ())
    steps: list[tuple[str, str, int, tuple[str, ...], int]] = [
        ("the kernel has no cgroup bind hooks", f"CONFIG_CGROUP_BPF; {_FLOOR}", bpf.INET4_BIND, (), NATIVE),
        ("a bind hook cannot lift the capability check", _FLOOR, bpf.INET4_BIND, (), LIFTED),
        *((f"a bind hook cannot call bpf_{name}", _SINCE[name], bpf.INET4_BIND, (name,), LIFTED) for name in helpers),
    ]
    if grant.limit:
        text = "a post-bind hook cannot call bpf_set_retval"
        steps.append((text, _SINCE["set_retval"], bpf.INET4_POST_BIND, ("set_retval",), NATIVE))
    for reason, remedy, hook, called, result in steps:
        try:
            _try(hook, called, result)
        except OSError:
            return UnsupportedError(NAME, reason, remedy)
    said = failure.verifier if isinstance(failure, bpf.LoadError) else ""
    return UnsupportedError(NAME, f"the kernel refuses the program: {said or strerror(failure)}")


def _try(hook: int, helpers: tuple[str, ...], result: int) -> None:
    """Load a program that calls these helpers and gives this result. Raises OSError."""
    asm = Assembly("a trial")
    asm.move(R6, R1)
    for helper in helpers:
        if helper == "setsockopt":
            asm.store_32(R10, -4, 1)
            asm.move(R4, R10)
            asm.add(R4, -4)
            asm.move(R2, 1)
            asm.move(R3, 1)
            asm.move(R5, 4)
        if helper in _TAKE_CONTEXT:
            asm.move(R1, R6)
        else:
            asm.move(R1, 0)
        asm.call(helper)
    asm.move(R0, result)
    asm.exit()
    posix.close(bpf.load("privbind_trial", hook, asm.code({})))


def refused_call(failure: OSError) -> UnsupportedError | None:
    """What an error of bpf(2) means that would come whatever is asked of it; None for another error."""
    if failure.errno == ENOSYS:
        return UnsupportedError(NAME, "the kernel has no bpf(2)", "CONFIG_BPF_SYSCALL")
    return forbidden() if failure.errno == EPERM else None


def check_privileges() -> None:
    """Raise UnsupportedError where this process cannot load programs, whatever the kernel can do."""
    held = capabilities.get()[1]
    if not held >> capabilities.CAP_SYS_ADMIN & 1:  # which stands for both
        needed = (capabilities.CAP_BPF, capabilities.CAP_NET_ADMIN)
        missing = [capabilities.NAMES[wanted] for wanted in needed if not held >> wanted & 1]
        if missing:
            raise needs.lacking(NAME, missing)
    try:
        if posix.stat(_USER_NAMESPACE).st_ino == _FIRST_USER_NAMESPACE:
            return
    except OSError:
        return  # without /proc nothing can be told
    raise UnsupportedError(
        NAME, "bpf(2) is not permitted inside a user namespace", "run it in the first user namespace"
    )


def forbidden() -> UnsupportedError:
    """Why bpf(2) is not permitted, and what would change that."""
    try:
        check_privileges()
    except UnsupportedError as error:
        return error
    if not capabilities.effective(capabilities.CAP_NET_ADMIN):
        # To query a cgroup's programs, kernels up to 6.1 at least want this one; others take CAP_SYS_ADMIN instead.
        return needs.lacking(NAME, ["CAP_NET_ADMIN"])
    return UnsupportedError(
        NAME, "bpf(2) is not permitted", "look for a seccomp filter, a security module or kernel lockdown"
    )
