# SPDX-License-Identifier: MIT
"""Adding the hook to a container's bundle: for Docker and Podman, which can be given another runtime, but no hook."""

from __future__ import annotations

import posix
from _stat import S_IMODE, S_ISREG

from ..errors import PrivbindError, strerror
from ..linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAKE = ("create", "run")
_BUNDLE = ("--bundle", "-b")
_CONFIG = "config.json"
_NEW = ".config.json.privbind"
_MAX_CONFIG = 16 << 20  # bytes
_READ = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
_WRITE = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW


def bundle_of(arguments: list[str]) -> str | None:
    """The bundle that a runtime with these arguments makes a container from; None where it makes none. Pure."""
    found = None
    for number, word in enumerate(arguments):
        name, equals, given = word.partition("=")
        if name in _BUNDLE:
            found = given if equals else "".join(arguments[number + 1 : number + 2])
    if not any(word in _MAKE for word in arguments):
        return None
    return found or "."


def with_hook(config: dict[str, Any], hook: str, rules: list[str]) -> bool:
    """Add the hook to a bundle's configuration; False where it is there already. Pure."""
    entry = {"path": hook, "args": ["privbind-oci-hook", *(f"--allow={rule}" for rule in rules)]}
    hooks = config.setdefault("hooks", {})
    if not isinstance(hooks, dict):
        raise PrivbindError("the bundle's hooks are no JSON object")
    listed = hooks.setdefault("createRuntime", [])
    if not isinstance(listed, list):
        raise PrivbindError("the bundle's createRuntime hooks are no JSON array")
    if entry in listed:
        return False
    listed.append(entry)
    return True


def add_hook(arguments: list[str], hook: str, rules: list[str]) -> None:
    """Put the hook into the bundle that a runtime's arguments name. Raises PrivbindError; then nothing changed."""
    bundle = bundle_of(arguments)
    if bundle is None:
        return
    try:
        folder = posix.open(bundle, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise PrivbindError(f"bundle '{bundle}': {strerror(error)}") from error
    try:
        _change(folder, hook, rules)
    except OSError as error:
        raise PrivbindError(f"the configuration in bundle '{bundle}': {strerror(error)}") from error
    finally:
        posix.close(folder)


def _change(folder: int, hook: str, rules: list[str]) -> None:
    from json import dumps, loads

    fd = posix.open(_CONFIG, _READ, dir_fd=folder)
    try:
        found = posix.fstat(fd)
        if not S_ISREG(found.st_mode) or found.st_size > _MAX_CONFIG:
            raise PrivbindError("the bundle's configuration is no regular file of a usual size")
        data = bytearray()
        while len(data) <= _MAX_CONFIG and (block := posix.read(fd, 1 << 20)):
            data += block
    finally:
        posix.close(fd)
    try:
        config = loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise PrivbindError(f"the bundle's configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise PrivbindError("the bundle's configuration is no JSON object")
    if not with_hook(config, hook, rules):
        return
    try:
        posix.unlink(_NEW, dir_fd=folder)  # left by a process that was killed
    except FileNotFoundError:
        pass
    fd = posix.open(_NEW, _WRITE, 0o600, dir_fd=folder)
    try:
        write_all(fd, dumps(config).encode())
        posix.fchown(fd, found.st_uid, found.st_gid)
        posix.fchmod(fd, S_IMODE(found.st_mode))
        posix.rename(_NEW, _CONFIG, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        posix.unlink(_NEW, dir_fd=folder)
        raise
    finally:
        posix.close(fd)
