# SPDX-License-Identifier: MIT
"""The program: which file a name means for an account, and what kind of program that file is."""

from __future__ import annotations

import posix
from _stat import S_IMODE, S_ISGID, S_ISREG, S_ISUID, S_IXGRP
from _struct import Struct
from errno import EACCES, EINVAL

from ..account import FileAccess
from ..errors import NotExecutableError, NotFoundError, strerror
from ..linux.call import has_attribute, machine
from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..account import Account

SHELL = b"/bin/sh"
"""What execvp(3) runs a file with that the kernel does not know how to execute."""

_DEFAULT_PATH = b"/bin:/usr/bin"  # execvp(3), glibc since 2.24
_MAX_INTERPRETERS = 5  # fs/exec.c: bprm recursion depth
_HEAD = 256  # BINPRM_BUF_SIZE, linux/binfmts.h

_QUIETLY = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY
_ELF = b"\x7fELF"
_ELF_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm"}  # linux/elf-em.h
_PT_INTERP = 3
_ET_DYN = 3


@value
class Elf:
    """What matters of an ELF file: its class in bits, its machine, whether a loader is named, whether it is shared.

    ``interpreter`` is the path in PT_INTERP, empty for a static program; ``shared`` says that it is of type ET_DYN.
    """

    bits: int
    machine: str
    interpreter: bytes
    shared: bool


_CAPABLE = "it has file capabilities"


@value
class Program:
    """The file that a command name means.

    ``path`` is what is executed. ``image`` is the file whose machine code runs in the end: the same file, or for a
    script the last interpreter of its ``#!`` lines. ``elf`` is None when that is no ELF file, or ``unreadable``
    says why it could not be looked at. ``gains`` names the privilege that executing the image gives ("" for none).
    """

    path: bytes
    image: bytes
    elf: Elf | None
    gains: str = ""
    unreadable: str = ""

    def gained(self, *, no_new_privileges: bool) -> str:
        """The privilege for which the kernel executes the image in its secure mode, without ambient capabilities.

        Under no_new_privs it ignores setuid and setgid. File capabilities then give nothing either, but still turn on
        the secure mode (security/commoncap.c: has_fcap, effective).
        """
        return self.gains if self.gains == _CAPABLE or not no_new_privileges else ""


def find(name: bytes, path: bytes | None, account: Account) -> Program:
    """Find the file that ``name`` means for the account, as execvp(3) would: PATH is ``path``, None for the default.

    Raises NotFoundError, or NotExecutableError when the account may not execute what there is, or what that needs.
    """
    refused: list[bytes] = []
    with FileAccess(account):
        for candidate in _candidates(name, path):
            try:
                if _may_execute(candidate):
                    break
                refused.append(candidate)
            except PermissionError:
                refused.append(candidate)
            except (OSError, ValueError):
                continue
        else:
            candidate = b""
    if candidate:
        return inspect(candidate, account, path)
    for candidate in refused:
        # A folder of PATH that the account may not enter hides whether the command is there; it hides it from execvp(3)
        # too, which then blames that folder for every misspelt name.
        if exists(candidate):
            from . import obstacle

            raise _refusal(candidate, account, obstacle.of(candidate, account))
    raise NotFoundError(f"command '{_shown(name)}' was not found")


def _may_execute(path: bytes) -> bool:
    """Whether this is a regular file that this process may execute. Raises OSError, ValueError."""
    return S_ISREG(posix.stat(path).st_mode) and posix.access(path, posix.X_OK, effective_ids=True)


def _refusal(path: bytes, account: Account, reason: str) -> NotExecutableError:
    return NotExecutableError(f"cannot execute '{_shown(path)}' as {account.who}: {reason}")


def exists(path: bytes) -> bool:
    """Whether there is such a file, as far as this process can see: what it may not look at counts as there."""
    try:
        posix.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _candidates(name: bytes, path: bytes | None) -> list[bytes]:
    if b"/" in name or not name:
        return [name] if name else []
    folders = (_DEFAULT_PATH if path is None else path).split(b":")
    return [(folder or b".") + b"/" + name for folder in folders]


def inspect(path: bytes, account: Account, search: bytes | None = None) -> Program:
    """Look at an executable, following ``#!`` lines. A file that is neither ELF nor a script is run by the shell.

    ``search`` is the PATH in which env(1) would look. Raises NotExecutableError when it needs an interpreter, or a
    loader, that does not exist or that the account may not execute.
    """
    image = path
    for _ in range(_MAX_INTERPRETERS + 1):
        try:
            fd = _open_program(image, account)
            try:
                head = posix.read(fd, _HEAD)
                if head.startswith(_ELF):
                    elf = _read_elf(head, fd)
                    _check_loader(path, elf, account)
                    return Program(path, image, elf, _gains(fd, account))
            finally:
                posix.close(fd)
        except OSError as error:
            return Program(path, image, None, unreadable=strerror(error))
        interpreter, argument = _first_line(head)
        if interpreter:
            reason = _interpreter_fault(image, interpreter, argument, account, search)
            if reason:
                whose = "its" if image == path else f"'{_shown(image)}' is a script itself, and its"
                raise _refusal(path, account, f"{whose} {reason}")
        image = interpreter or SHELL
    raise _refusal(path, account, f"its interpreter is a script, and so on, more than {_MAX_INTERPRETERS} times")


def _interpreter_fault(
    script: bytes, interpreter: bytes, argument: bytes, account: Account, search: bytes | None
) -> str:
    """What is wrong with the ``#!`` line of a script, in words, if it leads to nothing that the account can execute."""
    # env(1) looks for a program of that name; other interpreters can deal with the end of the line.
    for_env = interpreter.endswith(b"/env") and argument.endswith(b"\r") and b" " not in argument
    wanted = _candidates(argument, search) if for_env else [interpreter]
    with FileAccess(account):
        for candidate in wanted:
            try:
                if _may_execute(candidate):
                    return ""
            except OSError:
                continue
    if for_env or interpreter.endswith(b"\r"):
        line = _shown(b"#!" + interpreter + b" " * bool(argument) + argument)
        return f"first line '{line}' ends in a carriage return (Unix has none: sed -i 's/\\r$//' '{_shown(script)}')"
    from . import obstacle

    return f"interpreter '{_shown(interpreter)}': {obstacle.of(interpreter, account)}"


def _check_loader(path: bytes, elf: Elf | None, account: Account) -> None:
    """Raise NotExecutableError where a program of this machine names a loader that does not exist."""
    if elf and elf.interpreter and (elf.bits, elf.machine) == (64, machine()) and not exists(elf.interpreter):
        reason = f"its loader '{_shown(elf.interpreter)}' does not exist (it was built for another C library or system)"
        raise _refusal(path, account, reason)


def open_regular(path: bytes, account: Account) -> int:
    """Open a regular file for reading, with the account's rights and without side effects. Raises OSError.

    The account may have chosen the path, in a ``#!`` line or by a link. So the file must not be opened with root's
    rights, and opening it must neither wait for the other end of a pipe nor take a terminal.
    """
    with FileAccess(account):
        fd = posix.open(path, _QUIETLY)
    if S_ISREG(posix.fstat(fd).st_mode):
        return fd
    posix.close(fd)
    raise OSError(EINVAL, "it is not a regular file")


def _open_program(path: bytes, account: Account) -> int:
    """Open a program that the account may execute, even if it may not read it. Raises OSError."""
    try:
        return open_regular(path, account)
    except PermissionError:
        pass
    with FileAccess(account):
        # O_PATH does nothing to the file, and needs no right to it.
        place = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        try:
            same = f"/proc/self/fd/{place}"
            fits = S_ISREG(posix.fstat(place).st_mode) and posix.access(same, posix.X_OK, effective_ids=True)
        except BaseException:
            posix.close(place)
            raise
    try:
        if not fits:
            raise PermissionError(EACCES, "Permission denied")
        return posix.open(same, _QUIETLY)
    finally:
        posix.close(place)


def _first_line(head: bytes) -> tuple[bytes, bytes]:
    """Interpreter and argument of a ``#!`` line as the kernel reads it (fs/binfmt_script.c), both empty without one."""
    if not head.startswith(b"#!"):
        return b"", b""
    line, newline, _ = head[2:].partition(b"\n")
    line, nul, _ = line.replace(b"\t", b" ").lstrip(b" ").partition(b"\0")
    interpreter, space, argument = line.partition(b" ")
    if len(head) == _HEAD and not (newline or nul or space):
        return b"", b""  # its path is cut off by the end of what the kernel reads
    return interpreter, argument.strip(b" ")


def read_elf(fd: int) -> Elf | None:
    """What kind of ELF file this is, None for any other file. Raises OSError when it cannot be read."""
    head = posix.pread(fd, _HEAD, 0)
    return _read_elf(head, fd) if head.startswith(_ELF) else None


def _read_elf(head: bytes, fd: int) -> Elf | None:
    """Read the headers (elf(5)); None when they make no sense."""
    if len(head) < 52 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    bits = 32 * head[4]
    order = "<" if head[5] == 1 else ">"
    word = "I" if bits == 32 else "Q"
    # e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum
    header = Struct(f"{order}HHI{word}{word}{word}IHHH")
    if len(head) < 16 + header.size:
        return None
    kind, machine, _, _, table, _, _, _, entry_size, entries = header.unpack_from(head, 16)
    # 64 bits: p_type, p_flags, p_offset …, p_filesz; 32 bits: p_type, p_offset …, p_filesz
    entry = Struct(f"{order}I4xQ16xQ" if bits == 64 else f"{order}II8xI")
    interpreter = b""
    if entry_size >= entry.size:
        block = posix.pread(fd, entries * entry_size, table)
        for start in range(0, len(block) - entry.size + 1, entry_size):
            segment, offset, size = entry.unpack_from(block, start)
            if segment == _PT_INTERP:
                interpreter = posix.pread(fd, min(size, 4096), offset).split(b"\0", 1)[0]
    return Elf(bits, _ELF_MACHINES.get(machine, f"machine {machine}"), interpreter, kind == _ET_DYN)


def _gains(fd: int, account: Account) -> str:
    """The privilege that this account gains by executing this file, in words."""
    if has_attribute(fd, "security.capability"):
        return _CAPABLE
    found = posix.fstat(fd)
    mode = S_IMODE(found.st_mode)
    if mode & S_ISUID and found.st_uid != account.uid:
        return f"it is setuid to uid {found.st_uid}"
    if mode & S_ISGID and mode & S_IXGRP and found.st_gid != account.gid:
        return f"it is setgid to gid {found.st_gid}"
    return ""
