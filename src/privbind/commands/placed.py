# SPDX-License-Identifier: MIT
"""privbindctl's commands for placed grants: grant and revoke."""

from __future__ import annotations

from ..errors import PrivbindError, UsageError
from ..grant.grant import Grant
from ..grant.policy import MAX_U32, Policy, number, parse_ports
from ..placed import grants, place
from .output import print_out, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .privbindctl import Call

_PROGRAM = "privbindctl"
_KEPT_IN = {
    "seccomp": "the memory of its helper",
    "preload": "the memory of its helper",
    "ambient": "the process itself, as a capability",
}
_WAYS = ("pid", "unit", "cgroup", "self")


def run(call: Call) -> int:
    """Do what was asked for; the exit status. Raises PrivbindError, PolicyError."""
    _refuse_other_mechanisms(call)
    if call.command == "revoke":
        with _place(call) as where:
            if grants.revoke(where):
                return _print(f"revoked: cgroup '{where.cgroup.path}' has no grant any more; what is bound stays bound")
            return _print(f"nothing to revoke: cgroup '{where.cgroup.path}' has no grant of privbind's")
    wanted = _grant(call)
    with _place(call) as where:
        changed = grants.grant(where, wanted)
        return _print(f"{'changed' if changed else 'granted'}: cgroup '{where.cgroup.path}' may bind {wanted}")


def _refuse_other_mechanisms(call: Call) -> None:
    """Raise PrivbindError where a process is named whose launch has a grant that is not on a cgroup."""
    pid = call.values.get("pid", "")
    if not (pid.isascii() and pid.isdigit()):
        return
    from ..inspect.grants import find

    for found in find().grants:
        if found.pid == int(pid) and found.kind == "launch" and found.mechanism in _KEPT_IN:
            raise PrivbindError(
                f"process {pid} has its grant by {found.mechanism}, which keeps it in {_KEPT_IN[found.mechanism]}:"
                " it cannot be changed or revoked (end the command; start it under bpf)"
            )


def _grant(call: Call) -> Grant:
    from _socket import getservbyname

    if "allow" not in call.values:
        raise UsageError("grant: no rule says what may be bound (--allow RULE, for example --allow tcp:80)")
    policy = Policy.parse([call.values["allow"]], getservbyname)
    limit = number(call.values.get("binds", "0"), 0, MAX_U32, "-n:")
    reuse = call.values.get("reuse-port")
    return Grant(policy, limit, () if reuse is None else parse_ports(reuse, getservbyname))


def _place(call: Call) -> place.Place:
    """The cgroup that is meant. Raises UsageError unless it is named in just one way."""
    given = [way for way in _WAYS if way in call.values or way in call.flags]
    if len(given) != 1:
        said = " and ".join(f"--{way}" for way in given)
        raise UsageError(
            f"{call.command}: on which cgroup? "
            + (f"{said} name two" if given else "none is named")
            + " (one of --pid PID, --unit UNIT, --cgroup DIR, --self)"
        )
    (way,) = given
    if way == "self":
        return place.of_self()
    text = call.values[way]
    if way == "pid":
        return place.of_process(number(text, 1, 1 << 22, "--pid:"))  # PID_MAX_LIMIT, linux/threads.h
    return place.of_unit(text) if way == "unit" else place.of_directory(text)


def _print(line: str) -> int:
    return print_out(printable(line) + "\n", _PROGRAM)
