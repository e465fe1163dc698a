"""As much of the kernel's BPF machine as our programs use, so that they are run without a kernel.

What is around a program (its maps, the process that binds, the socket) is for each kind of program to add.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping

from privbind.linux import bpf
from privbind.mechanisms.bpf import assembly, compiler

MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
CONTEXT, STACK_TOP = 0x10000000, 0x20000200
FRAME = 512
TCP, UDP, UDPLITE = 6, 17, 136

COMPARE = {
    assembly.TESTS[text]: compare
    for text, compare in {
        "==": operator.eq,
        "!=": operator.ne,
        ">": operator.gt,
        ">=": operator.ge,
        "<": operator.lt,
        "<=": operator.le,
    }.items()
}
HELPERS = {number: name for name, number in assembly.HELPERS.items()}
LOADS = {assembly.LOAD_8: 1, assembly.LOAD_32: 4, assembly.LOAD_64: 8}


class Machine:
    """Runs programs; ``maps`` has the number of each map by its name, ``regions`` what memory there is by its place."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self.maps = dict(maps)
        self.regions = {CONTEXT: bytearray(72), STACK_TOP - FRAME: bytearray(FRAME)}
        self.steps = 0
        self._decoded: dict[assembly.Assembly, list[tuple[int, int, int, int]]] = {}

    def value_of_map(self, number: int) -> int:
        """The place of the single value of an array."""
        raise AssertionError(f"map {number} has no such value")

    def call(self, helper: str, r: list[int]) -> int:
        """What a helper gives for the registers."""
        raise AssertionError(f"bpf_{helper}{r[1:6]} is not known here")

    def bind(self, programs: Mapping[int, assembly.Assembly], protocol: int, address: bytes, port: int) -> int:
        """What the bind hook answers."""
        hook = bpf.INET4_BIND if len(address) == 4 else bpf.INET6_BIND
        context = bytearray(72)
        start = compiler._USER_IP4 if len(address) == 4 else compiler._USER_IP6
        context[start : start + len(address)] = address
        context[24:26] = port.to_bytes(2, "big")
        struct.pack_into("<I", context, 36, protocol)
        return self.run(programs[hook], context)

    def memory(self, address: int, size: int) -> tuple[bytearray, int]:
        """The region that these bytes are in, and where."""
        for start, memory in self.regions.items():
            if start <= address and address + size <= start + len(memory):
                return memory, address - start
        raise AssertionError(f"access outside of all memory: {address:#x}")

    def load(self, address: int, size: int) -> int:
        """Read a number."""
        return int.from_bytes(self.read(address, size), "little")

    def read(self, address: int, size: int) -> bytes:
        """Read bytes."""
        memory, offset = self.memory(address, size)
        return bytes(memory[offset : offset + size])

    def store(self, address: int, size: int, value: int) -> None:
        """Write a number."""
        memory, offset = self.memory(address, size)
        memory[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def run(self, program: assembly.Assembly, context: bytearray) -> int:
        """Run a program to its end."""
        self.regions[CONTEXT] = context
        if program not in self._decoded:
            self._decoded[program] = list(struct.iter_unpack("<BBhI", program.code(self.maps)))
        instructions = self._decoded[program]
        r = [0] * 11
        r[1], r[10] = CONTEXT, STACK_TOP
        callers: list[tuple[int, list[int]]] = []
        place = 0
        self.steps = 0
        while True:
            self.steps += 1
            opcode, registers, offset, immediate = instructions[place]
            to, source = registers & 15, registers >> 4
            signed = immediate - (1 << 32) if immediate >> 31 else immediate
            place += 1
            kind = opcode & 7
            right = r[source] if opcode & 8 else signed & MASK64
            if opcode == assembly.WIDE:
                upper = instructions[place][3]
                is_value = source == assembly.MAP_VALUE
                r[to] = self.value_of_map(immediate) + upper if is_value else upper << 32 | immediate
                place += 1
            elif opcode in LOADS:
                r[to] = self.load(r[source] + offset, LOADS[opcode])
            elif opcode == assembly.STORE_32:
                self.store(r[to] + offset, 4, r[source])
            elif opcode == assembly.STORE_64:
                self.store(r[to] + offset, 8, r[source])
            elif opcode == assembly.STORE_CONSTANT_32:
                self.store(r[to] + offset, 4, immediate)
            elif opcode == assembly.ATOMIC_ADD_64:
                before = self.load(r[to] + offset, 8)
                self.store(r[to] + offset, 8, before + r[source])
                if immediate & assembly.FETCH:
                    r[source] = before
            elif opcode == assembly.ALU | assembly.TO_BE:
                size = immediate // 8
                r[to] = int.from_bytes((r[to] & (1 << immediate) - 1).to_bytes(size, "little"), "big")
            elif opcode == assembly.JMP | assembly.EXIT:
                if not callers:
                    return r[0]
                del self.regions[r[10] - FRAME]
                place, r[6:11] = callers.pop()
                r[1:6] = [0xDEAD] * 5
            elif opcode == assembly.JMP | assembly.CALL and source == assembly.FUNCTION:
                callers.append((place, r[6:11]))
                r[6:10] = [0xDEAD] * 4  # a function does not see them
                r[10] += 2 * FRAME
                self.regions[r[10] - FRAME] = bytearray(FRAME)
                place += signed
            elif opcode == assembly.JMP | assembly.CALL:
                r[0] = self.call(HELPERS[immediate], r) & MASK64
                r[1:6] = [0xDEAD] * 5  # lost
            elif kind in (assembly.ALU, assembly.ALU64):
                left = r[to]
                operation = opcode & 0xF0
                result = {
                    assembly.MOV: right,
                    assembly.ADD: left + right,
                    assembly.AND: left & right,
                    assembly.LSH: left << (right & 63),
                    assembly.RSH: left >> (right & 63),
                }[operation]
                r[to] = result & (MASK32 if kind == assembly.ALU else MASK64)
            elif opcode == assembly.JMP | assembly.JA:
                place += offset
            else:
                mask = MASK32 if kind == assembly.JMP32 else MASK64
                left, right = r[to] & mask, right & mask
                if COMPARE[opcode & 0xF0](left, right):
                    place += offset


def unreachable(program: assembly.Assembly, maps: Mapping[str, int]) -> list[int]:
    """The instructions to which no way leads: the kernel's verifier takes none."""
    return sorted(set(range(len(program.lines))) - reachable(program, maps, (0,), into_functions=True))


def reachable(
    program: assembly.Assembly, maps: Mapping[str, int], starts: tuple[int, ...], *, into_functions: bool
) -> set[int]:
    """The instructions to which a way leads from those, the functions that are called included or not."""
    instructions = list(struct.iter_unpack("<BBhI", program.code(dict(maps))))
    seen: set[int] = set()
    ways = list(starts)
    while ways:
        place = ways.pop()
        if place in seen:
            continue
        seen.add(place)
        opcode, registers, offset, immediate = instructions[place]
        if opcode == assembly.WIDE:
            seen.add(place + 1)
            ways.append(place + 2)
        elif opcode == assembly.JMP | assembly.EXIT:
            continue
        elif opcode == assembly.JMP | assembly.JA:
            ways.append(place + 1 + offset)
        else:
            ways.append(place + 1)
            if opcode == assembly.JMP | assembly.CALL:
                if into_functions and registers >> 4 == assembly.FUNCTION:
                    ways.append(place + 1 + immediate - (immediate >> 31 << 32))
            elif opcode & 7 in (assembly.JMP, assembly.JMP32):
                ways.append(place + 1 + offset)
    return seen
