# SPDX-License-Identifier: MIT
"""A program as text, for ``--dry-run -v``: one instruction a line, labels of their own, comments behind."""

from __future__ import annotations

from . import assembly
from .search import BOTH, TCP, UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .assembly import Assembly

_COMMENT_COLUMN = 44
_PROTOCOLS = {TCP: "tcp:", UDP: "udp:", BOTH: ""}
_TESTS = {code: text for text, code in assembly.TESTS.items()}
_HELPERS = {number: name for name, number in assembly.HELPERS.items()}
_OPERATORS = {assembly.ADD: "+=", assembly.AND: "&=", assembly.LSH: "<<=", assembly.RSH: ">>=", assembly.MOV: "="}
_X = assembly.X
_CLASS = 0x07
_FIRST_IN_HEX = 1 << 16  # what is larger than a port is an address
_OPERATION = 0xF0


def lines(program: Assembly) -> list[str]:
    """The whole program, its title first."""
    names: dict[int, list[str]] = {}
    for name, place in program.labels.items():
        if name in program.wanted:
            names.setdefault(place, []).append(name)
    text = [f"# {program.title}"]
    for place, line in enumerate(program.lines):
        text += [f"{name}:" for name in names.get(place, ())]
        if line[0]:  # 0: the second half of a wide constant
            instruction = f"    {_instruction(line, program.lines[place + 1 : place + 2])}"
            comment = _comment(line[5])
            text.append(f"{instruction:{_COMMENT_COLUMN}}# {comment}" if comment else instruction)
    return text


def _instruction(line: assembly.Line, following: list[assembly.Line]) -> str:
    opcode, registers, _, immediate, target, _ = line
    to = f"r{registers & 15}"
    kind = opcode & _CLASS
    if opcode == assembly.WIDE:
        upper = following[0][3]
        address = f"&{target}" + (f" + {upper}" if upper else "")
        constant = f"{upper << 32 | immediate:#x}"
        return f"{to} = {constant if target is None else target if registers >> 4 == assembly.MAP else address}"
    if kind in (assembly.LDX, assembly.ST, assembly.STX):
        return _access(line)
    if kind in (assembly.JMP, assembly.JMP32):
        return _jump(line)
    if opcode == assembly.ALU | assembly.TO_BE:
        return f"{to} = be{immediate}({to})"
    right = f"r{registers >> 4}" if opcode & _X else str(_signed(immediate))
    narrow = kind == assembly.ALU
    return f"{_narrow(to, narrow)} {_OPERATORS[opcode & _OPERATION]} {_narrow(right, narrow)}"


def _access(line: assembly.Line) -> str:
    opcode, registers, offset, immediate, _, _ = line
    to, source = f"r{registers & 15}", f"r{registers >> 4}"
    if opcode in (assembly.LOAD_8, assembly.LOAD_32, assembly.LOAD_64):
        return f"{to} = {_memory(opcode, source, offset)}"
    memory = _memory(opcode, to, offset)
    if opcode == assembly.ATOMIC_ADD_64:
        return f"{source} = fetch_add({memory}, {source})" if immediate else f"add({memory}, {source})"
    return f"{memory} = {immediate if opcode == assembly.STORE_CONSTANT_32 else source}"


def _jump(line: assembly.Line) -> str:
    opcode, registers, _, immediate, target, _ = line
    operation = opcode & _OPERATION
    if operation == assembly.EXIT:
        return "exit"
    if operation == assembly.CALL:
        return f"call {target or _HELPERS[immediate]}"
    if operation == assembly.JA:
        return f"goto {target}"
    narrow = opcode & _CLASS == assembly.JMP32
    left = _narrow(f"r{registers & 15}", narrow)
    if opcode & _X:
        right = _narrow(f"r{registers >> 4}", narrow)
    else:
        right = str(immediate) if immediate < _FIRST_IN_HEX else f"{immediate:#x}"
    return f"if {left} {_TESTS[operation]} {right} goto {target}"


def _narrow(register: str, narrow: bool) -> str:
    """A register's name where only its low 32 bits count."""
    return register.replace("r", "w") if narrow else register


def _memory(opcode: int, base: str, offset: int) -> str:
    bits = {assembly.DW: 64, assembly.W: 32, assembly.B: 8}[opcode & assembly.DW]
    return f"u{bits}[{base}{offset:+d}]" if offset else f"u{bits}[{base}]"


def _signed(immediate: int) -> int:
    return immediate - (1 << 32) if immediate >> 31 else immediate


def _comment(comment: object) -> str:
    """What a place grants, written as a rule, or the comment as it is."""
    if comment is None:
        return ""
    if not isinstance(comment, tuple):
        return str(comment)
    here, (low, high, mask) = comment
    ports = str(low) if low == high else f"{low}-{high}"
    address = "" if here in ("any address", "shared") else f"{here}:"
    return f"{_PROTOCOLS[mask]}{address}{ports}"
