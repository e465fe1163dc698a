# SPDX-License-Identifier: MIT
"""bpf(2): maps, programs, and programs on cgroups. Constants and layouts from linux/bpf.h.

Every descriptor that a function here returns is the caller's to close; the kernel makes them all close-on-exec. An
error is an OSError with the kernel's errno; `LoadError` adds the verifier's words.
"""

from __future__ import annotations

from _struct import Struct, pack, pack_into, unpack_from
from errno import ENOENT, ENOSPC
from sys import byteorder

from .call import address_of, syscall

_MAP_CREATE = 0  # enum bpf_cmd
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_MAP_DELETE_ELEM = 3
_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13  # 4.13
_MAP_GET_FD_BY_ID = 14  # 4.13
_OBJ_GET_INFO_BY_FD = 15  # 4.13
_PROG_QUERY = 16  # 4.15
_MAP_FREEZE = 22  # 5.2
_LINK_CREATE = 28  # 5.7
_MAP_LOOKUP_BATCH = 24  # 5.6
_MAP_UPDATE_BATCH = 26  # 5.6
_PROG_BIND_MAP = 35  # 5.10

_MAP_TYPE_HASH = 1
_MAP_TYPE_ARRAY = 2
_MAP_TYPE_ARRAY_OF_MAPS = 12  # 4.12
_MAP_TYPE_RINGBUF = 27  # 5.8

MAP_READ_ONLY_IN_PROGRAMS = 1 << 7  # BPF_F_RDONLY_PROG, 5.2
MAP_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE, 5.5

PROG_CGROUP_SOCK = 9  # 4.10
PROG_CGROUP_SOCK_ADDR = 18  # 4.17

INET4_BIND = 8  # enum bpf_attach_type, 4.17
INET6_BIND = 9
INET4_POST_BIND = 12
INET6_POST_BIND = 13

PROGRAM_TYPE = {
    INET4_BIND: PROG_CGROUP_SOCK_ADDR,
    INET6_BIND: PROG_CGROUP_SOCK_ADDR,
    INET4_POST_BIND: PROG_CGROUP_SOCK,
    INET6_POST_BIND: PROG_CGROUP_SOCK,
}
"""The type of program that each hook takes."""

ALLOW_OVERRIDE = 1  # BPF_F_ALLOW_OVERRIDE, 4.10
ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI, 4.15
_REPLACE = 4  # BPF_F_REPLACE, 5.6
_QUERY_EFFECTIVE = 1

_NAME_SIZE = 16  # BPF_OBJ_NAME_LEN, the final NUL included
_INSTRUCTION_SIZE = 8
_LICENSE = b"Dual MIT/GPL\0"
_LOG_LEVEL = 1
_LOG_SIZE = 1 << 20
_LOG_LINES = 3

# union bpf_attr, one structure a command
_CREATE = Struct("=7I16s")  # type, key size, value size, entries, flags, inner map, numa node, name
_ELEMENT = Struct("=I4xQQQ")  # map, key *, value *, flags
_LOAD = Struct("=IIQQIIQII16sII")  # type, count, code *, license *, log level, size, *, version, flags, name, 0, hook
_ATTACH = Struct("=5I")  # cgroup, program, hook, flags, program to replace
_LINK = Struct("=4I")  # program, cgroup, hook, flags
_QUERY = Struct("=IIIIQI4x")  # cgroup, hook, query flags, attach flags (out), ids *, count (in and out)
_QUERY_FLAGS = 12
_QUERY_COUNT = 24
_BATCH = Struct("=QQQQIIQQ")  # in *, out *, keys *, values *, count (in and out), map, flags of elements, flags
_BATCH_COUNT = 32
_BIND_MAP = Struct("=III")  # program, map, flags
_BY_ID = Struct("=II")  # id, next id
_INFO = Struct("=IIQ")  # object, size of the info, info *

_PROGRAM_INFO_SIZE = 72  # struct bpf_prog_info as far as it is read
_PROGRAM_ID = 4
_PROGRAM_TAG = 8  # 8 bytes
_PROGRAM_MAP_COUNT = 52
_PROGRAM_MAPS = 56
_PROGRAM_NAME = 64  # 16 bytes, to 80
_MAP_INFO_SIZE = 40  # struct bpf_map_info as far as it is read
_MAP_ID = 4
_MAP_VALUE_SIZE = 12
_MAP_MAX_ENTRIES = 16
_MAP_NAME = 24

_MAX_IDS = 64  # BPF_CGROUP_MAX_PROGS, linux/bpf-cgroup.h: what one cgroup carries for a hook


class LoadError(OSError):
    """The kernel did not take a program; ``verifier`` holds the last lines that the verifier said, if any."""

    def __init__(self, number: int, text: str, verifier: str) -> None:
        """Keep the errno and the verifier's words."""
        super().__init__(number, text)
        self.verifier = verifier


def _call(command: int, attributes: bytearray) -> int:
    return syscall("bpf", command, attributes, len(attributes))


def _name(name: str) -> bytes:
    return name.encode("ascii")[: _NAME_SIZE - 1]


def create_array(name: str, value_size: int, flags: int = 0) -> int:
    """An array map with a single value of this many bytes, all zero; its descriptor."""
    return _call(_MAP_CREATE, bytearray(_CREATE.pack(_MAP_TYPE_ARRAY, 4, value_size, 1, flags, 0, 0, _name(name))))


def _element(command: int, map_fd: int, value: bytearray) -> None:
    key = bytearray(4)
    _call(command, bytearray(_ELEMENT.pack(map_fd, address_of(key), address_of(value), 0)))


def write_array(map_fd: int, value: bytes) -> None:
    """Set the single value of an array; ``value`` has exactly the value's size."""
    _element(_MAP_UPDATE_ELEM, map_fd, bytearray(value))


def read_array(map_fd: int, value_size: int) -> bytes:
    """The single value of an array."""
    value = bytearray(value_size)
    _element(_MAP_LOOKUP_ELEM, map_fd, value)
    return bytes(value)


def create_hash(name: str, key_size: int, value_size: int, entries: int) -> int:
    """A hash map that takes so many entries; its descriptor."""
    return _call(
        _MAP_CREATE, bytearray(_CREATE.pack(_MAP_TYPE_HASH, key_size, value_size, entries, 0, 0, 0, _name(name)))
    )


def create_ring(name: str, size: int) -> int:
    """A ring buffer of this many bytes, a power of 2 and whole pages (`linux.ring` reads it); its descriptor."""
    return _call(_MAP_CREATE, bytearray(_CREATE.pack(_MAP_TYPE_RINGBUF, 0, 0, size, 0, 0, 0, _name(name))))


def update_all(map_fd: int, entries: dict[bytes, bytes]) -> None:
    """Put entries into a hash map, all at once."""
    keys, values = bytearray(b"".join(entries)), bytearray(b"".join(entries.values()))
    attributes = _BATCH.pack(0, 0, address_of(keys), address_of(values), len(entries), map_fd, 0, 0)
    _call(_MAP_UPDATE_BATCH, bytearray(attributes))


def read_all(map_fd: int, key_size: int, value_size: int) -> dict[bytes, bytes]:
    """All entries of a hash map."""
    info = _map_info(map_fd)
    (room,) = unpack_from("=I", info, _MAP_MAX_ENTRIES)
    keys, values, place = bytearray(room * key_size), bytearray(room * value_size), bytearray(4)
    attributes = bytearray(_BATCH.pack(0, address_of(place), address_of(keys), address_of(values), room, map_fd, 0, 0))
    try:
        _call(_MAP_LOOKUP_BATCH, attributes)
    except OSError as error:
        if error.errno != ENOENT:  # that is the end of the map
            raise
    (count,) = unpack_from("=I", attributes, _BATCH_COUNT)
    return {
        bytes(keys[key_size * place : key_size * (place + 1)]): bytes(
            values[value_size * place : value_size * (place + 1)]
        )
        for place in range(count)
    }


def create_slot(name: str, like_fd: int) -> int:
    """A map that holds one map like that one, or none yet; its descriptor."""
    return _call(_MAP_CREATE, bytearray(_CREATE.pack(_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, 0, like_fd, 0, _name(name))))


def fill_slot(slot_fd: int, map_fd: int) -> None:
    """Put a map into a slot, in the place of any other. A program that looks there afterwards finds the new one."""
    _element(_MAP_UPDATE_ELEM, slot_fd, bytearray(pack("=I", map_fd)))


def clear_slot(slot_fd: int) -> None:
    """Empty a slot. Raises OSError (ENOENT) when it is empty already."""
    key = bytearray(4)
    _call(_MAP_DELETE_ELEM, bytearray(_ELEMENT.pack(slot_fd, address_of(key), 0, 0)))


def open_slot(slot_fd: int) -> int:
    """A descriptor of the map that a slot holds. Raises OSError (ENOENT) when it holds nothing. Needs CAP_SYS_ADMIN."""
    return open_map(int.from_bytes(read_array(slot_fd, 4), byteorder))


def freeze(map_fd: int) -> None:
    """Let nobody change a map through bpf(2) any more."""
    _call(_MAP_FREEZE, bytearray(_BY_ID.pack(map_fd, 0)[:4]))


def load(name: str, hook: int, code: bytes) -> int:
    """Load a program for a hook; its descriptor. Raises LoadError."""
    try:
        return _load(name, hook, code, bytearray())
    except OSError as error:
        failure = error
    # Asking for a log makes every load slower, so it is asked for once it is known to be of use.
    log = bytearray(_LOG_SIZE)
    try:
        return _load(name, hook, code, log)
    except OSError:
        lines = log.partition(b"\0")[0].decode("ascii", "replace").splitlines()
        told = [line for line in lines if line and not line.startswith(("processed ", "verification time"))]
        raise LoadError(failure.errno or 0, failure.strerror or "", "; ".join(told[-_LOG_LINES:])) from failure


def _load(name: str, hook: int, code: bytes, log: bytearray) -> int:
    # A kernel writes to these buffers only the log; the others are kept here so that their addresses stay valid.
    instructions = bytearray(code)
    license_text = bytearray(_LICENSE)
    attributes = _LOAD.pack(
        PROGRAM_TYPE[hook],
        len(code) // _INSTRUCTION_SIZE,
        address_of(instructions),
        address_of(license_text),
        _LOG_LEVEL if log else 0,
        len(log),
        address_of(log) if log else 0,
        0,
        0,
        _name(name),
        0,
        hook,
    )
    return _call(_PROG_LOAD, bytearray(attributes))


def bind_map(program_fd: int, map_fd: int) -> None:
    """Keep a map for as long as a program exists, though no instruction of the program names it."""
    _call(_PROG_BIND_MAP, bytearray(_BIND_MAP.pack(program_fd, map_fd, 0)))


def attach(cgroup_fd: int, program_fd: int, hook: int) -> None:
    """Put a program on a cgroup, beside all others there, above and below.

    It stays when its descriptors are closed, and goes with the cgroup.
    """
    _call(_PROG_ATTACH, bytearray(_ATTACH.pack(cgroup_fd, program_fd, hook, ALLOW_MULTI, 0)))


def link(cgroup_fd: int, program_fd: int, hook: int) -> int:
    """Put a program on a cgroup, beside all others, for as long as the link that is returned is open (5.7)."""
    return _call(_LINK_CREATE, bytearray(_LINK.pack(program_fd, cgroup_fd, hook, 0)))


def replace(cgroup_fd: int, program_fd: int, hook: int, old_fd: int) -> None:
    """Put a program on a cgroup in the place of another one, in one step.

    Raises OSError: ENOENT when the old one is not there, EINVAL when the new one is there already.
    """
    flags = ALLOW_MULTI | _REPLACE
    _call(_PROG_ATTACH, bytearray(_ATTACH.pack(cgroup_fd, program_fd, hook, flags, old_fd)))


def detach(cgroup_fd: int, program_fd: int, hook: int) -> None:
    """Take a program off a cgroup. Raises OSError (ENOENT) when it is not there."""
    _call(_PROG_DETACH, bytearray(_ATTACH.pack(cgroup_fd, program_fd, hook, 0, 0)))


def query(cgroup_fd: int, hook: int) -> tuple[int, list[int]]:
    """The flags with which programs are on a cgroup's hook, and their ids. Needs CAP_NET_ADMIN."""
    return _query(cgroup_fd, hook, 0)


def effective(cgroup_fd: int, hook: int) -> list[int]:
    """The ids of all programs that run for sockets made in a cgroup, its ancestors' included. Needs CAP_NET_ADMIN."""
    return _query(cgroup_fd, hook, _QUERY_EFFECTIVE)[1]


def _query(cgroup_fd: int, hook: int, flags: int) -> tuple[int, list[int]]:
    room = _MAX_IDS
    while True:
        ids = bytearray(4 * room)
        attributes = bytearray(_QUERY.pack(cgroup_fd, hook, flags, 0, address_of(ids), room))
        try:
            _call(_PROG_QUERY, attributes)
        except OSError as error:
            count = unpack_from("=I", attributes, _QUERY_COUNT)[0]
            if error.errno != ENOSPC or count <= room:
                raise
            room = count
        else:
            (attach_flags,) = unpack_from("=I", attributes, _QUERY_FLAGS)
            (count,) = unpack_from("=I", attributes, _QUERY_COUNT)
            return attach_flags, list(unpack_from(f"={count}I", ids))


def open_program(program_id: int) -> int:
    """A descriptor of a loaded program. Needs CAP_SYS_ADMIN."""
    return _call(_PROG_GET_FD_BY_ID, bytearray(_BY_ID.pack(program_id, 0)))


def open_map(map_id: int) -> int:
    """A descriptor of a map. Needs CAP_SYS_ADMIN."""
    return _call(_MAP_GET_FD_BY_ID, bytearray(_BY_ID.pack(map_id, 0)))


def program_info(program_fd: int) -> tuple[int, str, list[int]]:
    """A program's id, its name, and the ids of its maps."""
    info, maps = _program_info(program_fd)
    (number,) = unpack_from("=I", info, _PROGRAM_ID)
    return number, _text(info, _PROGRAM_NAME), maps


def program_tag(program_fd: int) -> bytes:
    """A hash of a program's instructions: equal ones have equal tags, whichever maps they name."""
    return bytes(_program_info(program_fd)[0][_PROGRAM_TAG : _PROGRAM_TAG + 8])


def _program_info(program_fd: int) -> tuple[bytearray, list[int]]:
    ids = bytearray(4 * _MAX_IDS)
    info = bytearray(_PROGRAM_INFO_SIZE + _NAME_SIZE)
    pack_into("=IQ", info, _PROGRAM_MAP_COUNT, _MAX_IDS, address_of(ids))
    _call(_OBJ_GET_INFO_BY_FD, bytearray(_INFO.pack(program_fd, len(info), address_of(info))))
    (count,) = unpack_from("=I", info, _PROGRAM_MAP_COUNT)
    return info, list(unpack_from(f"={count}I", ids))


def map_info(map_fd: int) -> tuple[str, int]:
    """A map's name, and the size of its values in bytes."""
    info = _map_info(map_fd)
    return _text(info, _MAP_NAME), int(unpack_from("=I", info, _MAP_VALUE_SIZE)[0])


def map_id(map_fd: int) -> int:
    """A map's id."""
    return int(unpack_from("=I", _map_info(map_fd), _MAP_ID)[0])


def _map_info(map_fd: int) -> bytearray:
    info = bytearray(_MAP_INFO_SIZE)
    _call(_OBJ_GET_INFO_BY_FD, bytearray(_INFO.pack(map_fd, len(info), address_of(info))))
    return info


def _text(info: bytearray, offset: int) -> str:
    return bytes(info[offset : offset + _NAME_SIZE]).partition(b"\0")[0].decode("ascii", "replace")
