# SPDX-License-Identifier: MIT
"""privbindctl oci-install: the files that have a container runtime run the hook, printed or written."""

from __future__ import annotations

import posix

from ..errors import PrivbindError, UsageError, strerror
from ..grant.policy import Policy
from ..linux.files import make_folders, write_all
from ..placed import oci_files
from .output import print_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..placed.oci_files import File
    from .privbindctl import Call

_PROGRAM = "privbindctl"
_HOOK = "privbind-oci-hook"
_RUNTIMES = ("podman", "docker", "containerd", "cri-o")
_BINARIES = "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"
_MAX_FILE = 16 << 20
_NEW = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW


def run(call: Call, place: str) -> int:
    """Do what was asked for; the exit status. Raises PrivbindError, PolicyError."""
    if len(call.words) == 2 and call.words[0] in _RUNTIMES and call.words[1] not in _RUNTIMES:
        raise UsageError(
            f"oci-install: one runtime is enough, but got '{call.words[1]}' as well",
            f"rules are given by --allow: --allow {call.words[1]}",
        )
    if len(call.words) != 1 or call.words[0] not in _RUNTIMES:
        raise UsageError(f"oci-install: for which runtime? (one of {', '.join(_RUNTIMES)})")
    files = _files(call.words[0], call.values.get("allow"), _hook(place))
    if "write" not in call.flags:
        return print_out("\n".join(f"# {file.path}\n{file.text}" for file in files), _PROGRAM)
    lines = _write(tuple(file for file in files if not file.part))
    lines += [f"to be added to {file.path} by hand:\n{file.text}" for file in files if file.part]
    return print_out("".join(f"{line}\n" for line in lines), _PROGRAM)


def _files(runtime: str, allow: str | None, hook: str) -> tuple[File, ...]:
    if runtime in ("podman", "docker"):
        from _socket import getservbyname

        if allow is None:
            raise UsageError(
                f"oci-install {runtime}: no rule says what the containers of this runtime may bind"
                " (--allow RULE, for example --allow tcp:80)"
            )
        rules = str(Policy.parse([allow], getservbyname))
        made = oci_files.podman if runtime == "podman" else oci_files.docker
        return made(hook, _find("there is no OCI runtime", "install one", "runc", "crun"), rules)
    if allow is not None:
        raise UsageError(f"oci-install {runtime}: --allow is for podman and docker (here grants.d decides)")
    return oci_files.containerd(hook, _spec()) if runtime == "containerd" else oci_files.cri_o(hook)


def _hook(place: str) -> str:
    """The hook's own path: beside this command, wherever that is installed."""
    for folder in (place, *_BINARIES):
        if folder and posix.access(f"{folder}/{_HOOK}", posix.X_OK):
            return f"{folder}/{_HOOK}"
    raise PrivbindError(f"{_HOOK} is not installed beside privbindctl (install all of privbind)")


def _find(what: str, remedy: str, *names: str) -> str:
    for name in names:
        for folder in _BINARIES:
            if posix.access(f"{folder}/{name}", posix.X_OK):
                return f"{folder}/{name}"
    raise PrivbindError(f"{what}: {' or '.join(names)} is not in {', '.join(_BINARIES[:4])}", remedy)


def _spec() -> dict[str, Any]:
    """What containerd starts from, for this host."""
    import subprocess
    from json import loads

    ctr = _find("cannot ask for containerd's own specification", "it comes with containerd: link it there", "ctr")
    try:
        done = subprocess.run(
            [ctr, "oci", "spec"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        found = loads(done.stdout)
    except OSError as error:
        raise PrivbindError(f"cannot ask ctr for containerd's own specification: {strerror(error)}") from error
    except ValueError as error:
        reason = " ".join(done.stderr.split()) or str(error)
        raise PrivbindError(f"cannot ask ctr for containerd's own specification: {reason}") from error
    if not isinstance(found, dict):
        raise PrivbindError("ctr oci spec printed no JSON object")
    return found


def _write(files: tuple[File, ...]) -> list[str]:
    """Write those that are not there yet; what to say. Raises PrivbindError; then none is written."""
    missing = []
    for file in files:
        there = _read(file.path)
        if there is None:
            missing.append(file)
        elif there != file.text.encode():
            raise PrivbindError(
                f"{file.path} is there already, with something else in it, and nothing was written (add by hand what"
                " privbindctl prints without --write, or move it away)"
            )
    done: list[str] = []
    try:
        for file in missing:
            make_folders(file.path.rpartition("/")[0])
            _create(file)
            done.append(file.path)
    except OSError as error:
        for path in done:
            posix.unlink(path)
        raise PrivbindError(f"cannot write {file.path}: {strerror(error)}; nothing was written") from error
    kept = [file.path for file in files if file not in missing]
    return [*(f"written: {path}" for path in done), *(f"there already: {path}" for path in kept)]


def _read(path: str) -> bytes | None:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrivbindError(f"{path}: {strerror(error)}") from error
    try:
        return posix.read(fd, _MAX_FILE)
    except OSError as error:
        raise PrivbindError(f"{path}: {strerror(error)}") from error
    finally:
        posix.close(fd)


def _create(file: File) -> None:
    fd = posix.open(file.path, _NEW, 0o600)
    try:
        write_all(fd, file.text.encode())
        posix.fchmod(fd, 0o755 if file.program else 0o644)
    except OSError:
        posix.unlink(file.path)
        raise
    finally:
        posix.close(fd)
