# SPDX-License-Identifier: MIT
"""The programs of standing grants: one for each bind hook, the same on every host. Who may bind what is data.

A program answers 3 (allow, and do not ask for CAP_NET_BIND_SERVICE) or 1 (allow; the kernel decides), nothing else. In
the table (`table`) that the slot holds at that moment, it looks for the caller: by the real uid, by the block of 256
subordinate uids that this uid is in, and by the real gid. All of these are numbers of the first user namespace, so no
user namespace can forge or hide them. The program does not check whether the port is reserved: an answer of 3 where the
kernel makes no check changes nothing, and which ports are reserved may change later.
"""

from __future__ import annotations

from _socket import IPPROTO_TCP, IPPROTO_UDP

from ..linux.bpf import INET4_BIND, INET6_BIND
from ..mechanisms.bpf.assembly import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Assembly
from ..mechanisms.bpf.compiler import LIFTED, NATIVE
from . import table

NAMES = {INET4_BIND: "privbind_user4", INET6_BIND: "privbind_user6"}
"""What the programs are called, at most 15 bytes."""

SLOT = "privbind_slot2"
"""The map that holds the table; its number changes when the table's layout does."""

# struct bpf_sock_addr, linux/bpf.h
_USER_IP4 = 4  # network order; readable in INET4 hooks only
_USER_IP6 = 8  # network order; readable in INET6 hooks only
_USER_PORT = 24  # network order, in the low 16 bits
_PROTOCOL = 36
_MAPPED = 0xFFFF0000  # the third 32 bits of ::ffff:0:0/96 as a little-endian machine reads them (RFC 4291 2.5.5.2)

# On the stack of the program: what is looked up (the key, then the address), and who asks.
_KEY = -32
_ADDRESS = -24
_UID_GID = -8
# On the stacks of its functions.
_HOLDER = -16
_NETWORK_KEY = -8
_SET_KEY = -8


def programs(netns: int = 0) -> dict[int, Assembly]:
    """The programs by hook. ``netns`` is the cookie of the network namespace that they are for, 0 for the first one."""
    return {hook: _bind(hook, netns) for hook in NAMES}


def _bind(hook: int, netns: int) -> Assembly:
    asm = Assembly(f"before a bind of an {'IPv4' if hook == INET4_BIND else 'IPv6'} socket")
    asm.move(R6, R1)
    asm.load_32(R7, R6, _USER_PORT)
    asm.from_network(R7, 16, "the port")
    asm.jump_if(R7, "==", 0, "native", "any free port: never a reserved one")
    asm.load_32(R1, R6, _PROTOCOL)
    asm.jump_if(R1, "==", IPPROTO_TCP, "namespace")
    asm.jump_if(R1, "!=", IPPROTO_UDP, "native", "rules are for TCP and UDP")
    asm.add(R7, table.UDP << 16)
    asm.label("namespace")
    asm.move(R1, R6)
    asm.call("get_netns_cookie", "the socket's network namespace")
    asm.move(R8, R0)
    if netns:
        asm.wide(R0, netns, "the one that these grants are for")
    else:
        asm.move(R1, 0)
        asm.call("get_netns_cookie", "the first one: the host's")
    asm.jump_if_wide(R0, "!=", R8, "native", "another network namespace")
    (_ipv4 if hook == INET4_BIND else _ipv6)(asm)
    asm.store_32(R10, _KEY, 0)
    asm.map(R1, SLOT)
    _key(asm, _KEY)
    asm.call("map_lookup_elem", "the table that is in force")
    asm.jump_if_wide(R0, "==", 0, "native", "none is")
    asm.move(R6, R0)
    asm.call("get_current_uid_gid", "real ids, as the first user namespace knows them")
    asm.store_64(R10, _UID_GID, R0)
    for kind, who in ((table.USER, "uid"), (table.BLOCK, "block of subordinate uids"), (table.GROUP, "gid")):
        asm.load_32(R1, R10, _UID_GID + (4 if kind == table.GROUP else 0))
        if kind == table.BLOCK:
            asm.shift_right(R1, table.BLOCK_BITS)
        asm.store_32(R10, _KEY, R1)
        asm.store_32(R10, _KEY + 4, table.kind(kind))
        asm.move(R1, R6)
        _key(asm, _KEY)
        asm.move(R3, R9)
        asm.move(R4, R7)
        asm.call_function("holder", f"by its {who}")
        asm.jump_if(R0, "!=", 0, "lifted")
    asm.label("native")
    asm.move(R0, NATIVE)
    asm.exit("the kernel decides")
    asm.label("lifted")
    asm.move(R0, LIFTED)
    asm.exit("allowed without CAP_NET_BIND_SERVICE")
    _holder(asm)
    _port_set(asm)
    return asm


def _key(asm: Assembly, place: int) -> None:
    """Have R2 point to a key on the stack."""
    asm.move(R2, R10)
    asm.add(R2, place)


def _ipv4(asm: Assembly) -> None:
    """Put the address on the stack, and into R9 which field of a holder's entry is about it."""
    asm.load_32(R1, R6, _USER_IP4)
    asm.move(R9, table.WILDCARD4)
    asm.jump_if(R1, "==", 0, "address", "0.0.0.0")
    asm.move(R9, table.NETWORKS4)
    asm.label("address")
    asm.store_64(R10, _ADDRESS, R1)
    asm.move(R1, 0)
    asm.store_64(R10, _ADDRESS + 8, R1)


def _ipv6(asm: Assembly) -> None:
    """The same for IPv6; an IPv4-mapped address is judged as that IPv4 address, by IPv4 rules."""
    asm.load_64(R1, R6, _USER_IP6)
    asm.load_64(R2, R6, _USER_IP6 + 8)
    asm.move(R9, table.NETWORKS6)
    asm.jump_if_wide(R1, "!=", 0, "address")
    asm.jump_if(R2, "==", _MAPPED, "mapped")
    asm.jump_if_wide(R2, "!=", 0, "address")
    asm.move(R9, table.WILDCARD6, "[::]")
    asm.goto("address")
    asm.label("mapped")
    asm.move(R1, R2)
    asm.shift_right(R1, 32, "the IPv4 address")
    asm.move(R2, 0)
    asm.move(R9, table.NETWORKS4)
    asm.jump_if_wide(R1, "!=", 0, "address")
    asm.move(R9, table.WILDCARD4)
    asm.label("address")
    asm.store_64(R10, _ADDRESS, R1)
    asm.store_64(R10, _ADDRESS + 8, R2)


def _holder(asm: Assembly) -> None:
    """The function "holder": whether a holder of grants may bind; 1 or 0.

    R1 is the table, R2 points to the holder's key and the address, R3 is which field of the entry is about the address,
    R4 is the port, with the protocol above it.
    """
    asm.label("holder")
    asm.move(R6, R1)
    asm.move(R7, R2)
    asm.move(R8, R3)
    asm.move(R9, R4)
    asm.call("map_lookup_elem")
    asm.jump_if_wide(R0, "==", 0, "not granted", "nobody's grant")
    asm.store_64(R10, _HOLDER, R0)
    asm.load_32(R2, R0, table.ANY_ADDRESS)
    _in_port_set(asm, "by rules without an address")
    asm.load_64(R1, R10, _HOLDER)
    asm.add(R1, R8)
    asm.load_32(R2, R1, 0)
    asm.jump_if(R8, "<", table.NETWORKS4, "set", "a wildcard's")
    asm.jump_if(R2, "==", 0, "not granted", "no rule with an address")
    asm.store_32(R10, _NETWORK_KEY, R2)
    asm.move(R8, table.kind(table.NETWORK), "the narrowest network first")
    asm.label("next network")
    asm.store_32(R10, _NETWORK_KEY + 4, R8)
    asm.move(R1, R6)
    _key(asm, _NETWORK_KEY)
    asm.call("map_lookup_elem")
    asm.jump_if_wide(R0, "==", 0, "not granted", "no more of them")
    for half in (0, 8):
        asm.load_64(R1, R7, _ADDRESS - _KEY + half)
        asm.load_64(R2, R0, table.MASK + half)
        asm.mask(R1, R2)
        asm.load_64(R2, R0, table.ADDRESS + half)
        asm.jump_if_wide(R1, "!=", R2, "other network")
    asm.load_32(R2, R0, table.PORT_SET)
    asm.goto("set", "that of this network and of all around it")
    asm.label("other network")
    asm.add(R8, 1)
    asm.jump_if(R8, "<", table.kind(table.NETWORK) + table.MAX_NETWORKS, "next network")
    asm.goto("not granted")
    asm.label("set")
    _in_port_set(asm, "by rules with an address")
    asm.label("not granted")
    asm.move(R0, 0)
    asm.exit()
    asm.label("granted")
    asm.load_64(R1, R10, _HOLDER)
    asm.move(R2, 1)
    asm.atomic_add(R1, table.GRANTED, R2, "one more")
    asm.move(R0, 1)
    asm.exit()


def _in_port_set(asm: Assembly, comment: str) -> None:
    """Go to "granted" if the port is in the set that R2 names."""
    asm.move(R1, R6)
    asm.move(R3, R9)
    asm.call_function("port set", comment)
    asm.jump_if(R0, "!=", 0, "granted")


def _port_set(asm: Assembly) -> None:
    """The function "port set": whether a port is in a set; not 0, or 0.

    R1 is the table, R2 the set, R3 the port, with the protocol above it.
    """
    asm.label("port set")
    asm.move(R0, 0)
    asm.jump_if(R2, "==", 0, "done", "the empty set")
    asm.store_32(R10, _SET_KEY, R2)
    asm.move(R6, R3)
    asm.shift_right(R3, 8)
    asm.add(R3, table.kind(table.PORTS), "protocol, and the port's upper half")
    asm.store_32(R10, _SET_KEY + 4, R3)
    _key(asm, _SET_KEY)
    asm.call("map_lookup_elem", "a bit for each of 256 ports")
    asm.jump_if_wide(R0, "==", 0, "done", "none of them")
    asm.mask(R6, 0xFF)
    asm.move(R1, R6)
    asm.shift_right(R1, 3)
    asm.add(R0, R1)
    asm.load_8(R0, R0, 0)
    asm.mask(R6, 7)
    asm.shift_right(R0, R6)
    asm.mask(R0, 1)
    asm.label("done")
    asm.exit()
