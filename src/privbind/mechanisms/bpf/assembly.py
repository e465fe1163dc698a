# SPDX-License-Identifier: MIT
"""A small assembler for BPF: named registers, labels, and a comment a line where one helps.

Instructions are what Documentation/bpf/standardization/instruction-set.rst describes; the encoding here is that of
little-endian machines, the only ones whose system call numbers are known to privbind. A jump reaches 32,767
instructions; what the compiler makes of the longest policy is shorter (a test says so), and `code` refuses the rest.
"""

from __future__ import annotations

from _struct import Struct

_INSTRUCTION = Struct("<BBhI")  # opcode, source << 4 | destination, offset, immediate
_FARTHEST = 32767

# Classes, and within them sizes, modes and operations (linux/bpf.h, linux/bpf_common.h).
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
W, B, DW = 0x00, 0x10, 0x18
IMM, MEM, ATOMIC = 0x00, 0x60, 0xC0
K, X = 0x00, 0x08
ADD, AND, LSH, RSH, MOV, TO_BE = 0x00, 0x50, 0x60, 0x70, 0xB0, 0xD8
JA, CALL, EXIT = 0x00, 0x80, 0x90
FETCH = 0x01

TESTS = {"==": 0x10, ">": 0x20, ">=": 0x30, "!=": 0x50, "<": 0xA0, "<=": 0xB0}
"""What a jump may depend on; all comparisons are unsigned."""

WIDE = LD | IMM | DW  # a 64-bit constant, in two instructions
LOAD_8 = LDX | MEM | B
LOAD_32 = LDX | MEM | W
LOAD_64 = LDX | MEM | DW
STORE_32 = STX | MEM | W
STORE_64 = STX | MEM | DW
STORE_CONSTANT_32 = ST | MEM | W
ATOMIC_ADD_64 = STX | ATOMIC | DW
MAP = 1  # BPF_PSEUDO_MAP_FD as source of WIDE: a map
MAP_VALUE = 2  # BPF_PSEUDO_MAP_VALUE as source of WIDE: the address of a byte in a map, 5.2

FUNCTION = 1  # BPF_PSEUDO_CALL as source of a call: one of this program's own functions, 4.16

HELPERS = {
    "map_lookup_elem": 1,  # 3.19
    "get_current_pid_tgid": 14,  # 4.2
    "get_current_uid_gid": 15,  # 4.2
    "get_current_comm": 16,  # 4.2
    "setsockopt": 49,  # 4.13
    "get_current_cgroup_id": 80,  # 4.18
    "get_netns_cookie": 122,  # 5.7
    "get_current_ancestor_cgroup_id": 123,  # 5.7
    "ktime_get_boot_ns": 125,  # 5.8
    "ringbuf_output": 130,  # 5.8
    "set_retval": 187,  # 5.18
}


class Register(int):
    """A register by its number, told apart from a constant."""

    __slots__ = ()


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = map(Register, range(11))
"""R0 a result; R1 to R5 arguments, lost in a call; R6 to R9 kept; R10 the top of the stack."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    Line = tuple[int, int, int, int, str | None, object]
    """Opcode, registers, offset, immediate, label or map that is meant, comment."""


class Assembly:
    """A program in the making. ``title`` says what it is."""

    def __init__(self, title: str) -> None:
        """Begin with nothing."""
        self.title = title
        self.lines: list[Line] = []
        self.labels: dict[str, int] = {}
        self.wanted: set[str] = set()
        """The labels that something jumps to."""
        self._labelled = 0  # the place of the last label

    def label(self, name: str) -> None:
        """Name the place of the next instruction."""
        here = len(self.lines)
        if here > self._labelled and self._ends_with_goto(name):
            self.lines.pop()  # it is the next instruction anyway
            here -= 1
        self._labelled = self.labels[name] = here

    def _ends_with_goto(self, name: str) -> bool:
        opcode, _, _, _, target, _ = self.lines[-1]
        return opcode == JMP | JA and target == name

    def move(self, to: Register, value: int, comment: object = None) -> None:
        """Copy a register, or set it to a constant of 32 bits with sign."""
        if isinstance(value, Register):
            self.lines.append((ALU64 | MOV | X, value << 4 | to, 0, 0, None, comment))
        else:
            self.lines.append((ALU64 | MOV | K, to, 0, value & 0xFFFFFFFF, None, comment))

    def move_32(self, to: Register, value: Register, comment: object = None) -> None:
        """Copy the low 32 bits of a register; the others become 0."""
        self.lines.append((ALU | MOV | X, value << 4 | to, 0, 0, None, comment))

    def wide(self, to: Register, value: int, comment: object = None) -> None:
        """Set a register to any constant of 64 bits."""
        self.lines.append((WIDE, to, 0, value & 0xFFFFFFFF, None, comment))
        self.lines.append((0, 0, 0, value >> 32, None, None))

    def map(self, to: Register, map_name: str, comment: object = None) -> None:
        """Set a register to a map, for the helpers that take one."""
        self.lines.append((WIDE, MAP << 4 | to, 0, 0, map_name, comment))
        self.lines.append((0, 0, 0, 0, None, None))

    def map_value(self, to: Register, map_name: str, offset: int = 0, comment: object = None) -> None:
        """Set a register to the address of a byte in the single value of an array."""
        self.lines.append((WIDE, MAP_VALUE << 4 | to, 0, 0, map_name, comment))
        self.lines.append((0, 0, 0, offset, None, None))

    def add(self, to: Register, value: int, comment: object = None) -> None:
        """Add a constant, or another register."""
        self._compute(ADD, to, value, comment)

    def mask(self, to: Register, value: int, comment: object = None) -> None:
        """Keep only these bits."""
        self._compute(AND, to, value, comment)

    def shift_left(self, to: Register, bits: int, comment: object = None) -> None:
        """Shift by a number of bits, or by as many as another register says."""
        self._compute(LSH, to, bits, comment)

    def shift_right(self, to: Register, bits: int, comment: object = None) -> None:
        """Shift by a number of bits, or by as many as another register says; zeros come in."""
        self._compute(RSH, to, bits, comment)

    def _compute(self, operation: int, to: Register, value: int, comment: object) -> None:
        if isinstance(value, Register):
            self.lines.append((ALU64 | operation | X, value << 4 | to, 0, 0, None, comment))
        else:
            self.lines.append((ALU64 | operation | K, to, 0, value & 0xFFFFFFFF, None, comment))

    def from_network(self, register: Register, bits: int, comment: object = None) -> None:
        """Turn the low 16, 32 or 64 bits from network order to the machine's; the others become 0."""
        self.lines.append((ALU | TO_BE, register, 0, bits, None, comment))

    def load_8(self, to: Register, base: Register, offset: int, comment: object = None) -> None:
        """Read a byte of memory."""
        self.lines.append((LOAD_8, base << 4 | to, offset, 0, None, comment))

    def load_32(self, to: Register, base: Register, offset: int, comment: object = None) -> None:
        """Read 32 bits of memory."""
        self.lines.append((LOAD_32, base << 4 | to, offset, 0, None, comment))

    def load_64(self, to: Register, base: Register, offset: int, comment: object = None) -> None:
        """Read 64 bits of memory."""
        self.lines.append((LOAD_64, base << 4 | to, offset, 0, None, comment))

    def store_32(self, base: Register, offset: int, value: int, comment: object = None) -> None:
        """Write 32 bits of memory."""
        if isinstance(value, Register):
            self.lines.append((STORE_32, value << 4 | base, offset, 0, None, comment))
        else:
            self.lines.append((STORE_CONSTANT_32, base, offset, value & 0xFFFFFFFF, None, comment))

    def store_64(self, base: Register, offset: int, value: Register, comment: object = None) -> None:
        """Write 64 bits of memory."""
        self.lines.append((STORE_64, value << 4 | base, offset, 0, None, comment))

    def atomic_add(self, base: Register, offset: int, value: Register, comment: object = None) -> None:
        """Add a register to 64 bits of memory."""
        self.lines.append((ATOMIC_ADD_64, value << 4 | base, offset, ADD, None, comment))

    def atomic_fetch_add(self, base: Register, offset: int, value: Register, comment: object = None) -> None:
        """Add a register to 64 bits of memory; the register gets what was there before (5.12)."""
        self.lines.append((ATOMIC_ADD_64, value << 4 | base, offset, ADD | FETCH, None, comment))

    def goto(self, label: str, comment: object = None) -> None:
        """Go on at a label."""
        self.wanted.add(label)
        self.lines.append((JMP | JA, 0, 0, 0, label, comment))

    def jump_if(self, left: Register, test: str, right: int, label: str, comment: object = None) -> None:
        """Go on at a label if the low 32 bits of a register compare so with a constant, or with another one's."""
        self._jump(JMP32 | TESTS[test], left, right, label, comment)

    def jump_if_wide(self, left: Register, test: str, right: int, label: str, comment: object = None) -> None:
        """Go on at a label if a whole register compares so with another one, or with a constant below 2**31."""
        self._jump(JMP | TESTS[test], left, right, label, comment)

    def _jump(self, opcode: int, left: Register, right: int, label: str, comment: object) -> None:
        self.wanted.add(label)
        if isinstance(right, Register):
            self.lines.append((opcode | X, right << 4 | left, 0, 0, label, comment))
        else:
            self.lines.append((opcode | K, left, 0, right, label, comment))

    def call(self, helper: str, comment: object = None) -> None:
        """Call a helper of the kernel, by its name without ``bpf_``."""
        self.lines.append((JMP | CALL, 0, 0, HELPERS[helper], None, comment))

    def call_function(self, label: str, comment: object = None) -> None:
        """Call a function of this program, which begins at a label; it takes R1 to R5 and gives R0."""
        self.wanted.add(label)
        self.lines.append((JMP | CALL, FUNCTION << 4, 0, 0, label, comment))

    def exit(self, comment: object = None) -> None:
        """End the program; its result is in R0."""
        self.lines.append((JMP | EXIT, 0, 0, 0, None, comment))

    def code(self, maps: dict[str, int]) -> bytes:
        """The program as the kernel takes it; ``maps`` has the descriptor of each map by its name.

        Raises OverflowError for a jump that is too far.
        """
        pack_into = _INSTRUCTION.pack_into
        code = bytearray(8 * len(self.lines))
        labels = self.labels
        for place, (opcode, registers, offset, immediate, target, _) in enumerate(self.lines):
            if target is None:
                pack_into(code, 8 * place, opcode, registers, offset, immediate)
            elif opcode == WIDE:
                pack_into(code, 8 * place, opcode, registers, offset, maps[target])
            else:
                distance = labels[target] - place - 1
                if opcode == JMP | CALL:
                    pack_into(code, 8 * place, opcode, registers, 0, distance & 0xFFFFFFFF)
                    continue
                if not -_FARTHEST <= distance <= _FARTHEST:
                    raise OverflowError(f"{self.title}: '{target}' is {distance} instructions away")
                pack_into(code, 8 * place, opcode, registers, distance, immediate)
        return bytes(code)
