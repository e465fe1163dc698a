# SPDX-License-Identifier: MIT
"""The programs of watch: they record each bind of a reserved port, and change no answer. Pure.

The program on a bind hook writes that a bind was asked for, with all that it can see; the one on a post-bind hook, that
it was done. Both run within one system call of one thread, so the thread's id joins the two. A failed bind reaches only
the first. When the ring is full, a record is counted as lost, by its kind. No process is woken.
"""

from __future__ import annotations

from _struct import Struct

from ..linux.bpf import INET4_BIND, INET4_POST_BIND, INET6_BIND, INET6_POST_BIND
from ..linux.ring import NO_WAKEUP
from ..mechanisms.bpf.assembly import R0, R1, R2, R3, R4, R6, R7, R8, R10, Assembly

NAMES = {
    INET4_BIND: "privbind_asked4",
    INET6_BIND: "privbind_asked6",
    INET4_POST_BIND: "privbind_bound4",
    INET6_POST_BIND: "privbind_bound6",
}
"""What the programs are called, at most 15 bytes; in the order in which they are attached.

So no bind is seen to be done that was not seen to be asked for.
"""

RING = "privbind_watch"
LOST = "privbind_lost"
LOST_COUNTERS = Struct("=QQ")
"""The map of counters: how many binds were lost, and for how many only the end was lost."""

ASKED = Struct("=5QIIBB2x16s16s4x")
"""Time since boot in ns, thread and process, ids, network namespace, cgroup, port, protocol, family, whether it is the
first network namespace, address, name."""
BOUND = Struct("=QQII")
"""Time since boot in ns, thread and process, port."""

_FIELDS = (0, 8, 16, 24, 32, 40, 44, 48, 49, 52, 68)
_TIME, _THREAD, _IDS, _NETNS, _CGROUP, _PORT, _PROTOCOL, _FAMILY, _FIRST, _ADDRESS, _NAME = (
    place - ASKED.size for place in _FIELDS
)

# struct bpf_sock_addr and struct bpf_sock, linux/bpf.h
_USER_IP4 = 4
_USER_IP6 = 8
_USER_PORT = 24
_SOCK_PROTOCOL = 36
_SK = 64  # struct bpf_sock *, 5.3
_SRC_PORT = 44  # host order

_ALLOW = 1


def programs(port_start: int) -> dict[int, Assembly]:
    """The programs by hook, for binds of ports below ``port_start``."""
    found = {hook: _asked(hook, port_start) for hook in (INET4_BIND, INET6_BIND)}
    return found | {hook: _bound(hook, port_start) for hook in (INET4_POST_BIND, INET6_POST_BIND)}


def _asked(hook: int, port_start: int) -> Assembly:
    ipv4 = hook == INET4_BIND
    asm = Assembly(f"when a bind of an {'IPv4' if ipv4 else 'IPv6'} socket is asked for")
    asm.move(R6, R1)
    asm.load_32(R7, R6, _USER_PORT)
    asm.from_network(R7, 16, "the port")
    _only_reserved(asm, port_start)
    asm.load_64(R1, R6, _SK)
    asm.load_32(R1, R1, _SRC_PORT)
    asm.jump_if(R1, "!=", 0, "out", "it has a port already, so this is only a question (inspect/may_bind)")
    asm.move(R1, R6)
    asm.call("get_netns_cookie")
    asm.move(R8, R0)
    asm.store_64(R10, _NETNS, R0)
    asm.move(R1, 0)
    asm.call("get_netns_cookie", "the first one")
    asm.move(R1, 4 if ipv4 else 6)
    asm.jump_if_wide(R0, "!=", R8, "family")
    asm.add(R1, 1 << 8, "the socket is in the first one")
    asm.label("family")
    asm.store_32(R10, _FAMILY, R1)
    asm.store_32(R10, _PORT, R7)
    asm.load_32(R1, R6, _SOCK_PROTOCOL)
    asm.store_32(R10, _PROTOCOL, R1)
    if ipv4:
        asm.load_32(R1, R6, _USER_IP4)
        asm.store_32(R10, _ADDRESS, R1)
        for word in (4, 8, 12):
            asm.store_32(R10, _ADDRESS + word, 0)
    else:
        for word in (0, 4, 8, 12):
            asm.load_32(R1, R6, _USER_IP6 + word)
            asm.store_32(R10, _ADDRESS + word, R1)
    asm.call("get_current_uid_gid")
    asm.store_64(R10, _IDS, R0)
    asm.call("get_current_cgroup_id")
    asm.store_64(R10, _CGROUP, R0)
    asm.move(R1, R10)
    asm.add(R1, _NAME)
    asm.move(R2, 16)
    asm.call("get_current_comm")
    asm.store_32(R10, -4, 0)
    _write(asm, ASKED.size, 0)
    return asm


def _bound(hook: int, port_start: int) -> Assembly:
    asm = Assembly(f"after a bind of an {'IPv4' if hook == INET4_POST_BIND else 'IPv6'} socket")
    asm.load_32(R7, R1, _SRC_PORT)
    _only_reserved(asm, port_start)
    asm.store_32(R10, 16 - BOUND.size, R7)
    asm.store_32(R10, 20 - BOUND.size, 0)
    _write(asm, BOUND.size, 8)
    return asm


def _only_reserved(asm: Assembly, port_start: int) -> None:
    asm.jump_if(R7, "==", 0, "out", "any free port")
    asm.jump_if(R7, ">=", port_start, "out", "not reserved")


def _write(asm: Assembly, size: int, counter: int) -> None:
    """Add time and thread to what is on the stack, write it to the ring, and end."""
    asm.call("get_current_pid_tgid")
    asm.store_64(R10, 8 - size, R0)
    asm.call("ktime_get_boot_ns")
    asm.store_64(R10, -size, R0)
    asm.map(R1, RING)
    asm.move(R2, R10)
    asm.add(R2, -size)
    asm.move(R3, size)
    asm.move(R4, NO_WAKEUP)
    asm.call("ringbuf_output")
    asm.jump_if_wide(R0, "==", 0, "out")
    asm.map_value(R1, LOST, counter)
    asm.move(R2, 1)
    asm.atomic_add(R1, 0, R2, "the ring is full")
    asm.label("out")
    asm.move(R0, _ALLOW)
    asm.exit("the kernel decides")
