"""Parts of the seccomp mechanism by themselves, for test_seccomp_helper.py: a program that runs as root in a namespace.

Its first argument is what to do; what comes of it is printed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "src"))

from privbind import account
from privbind.account import Account
from privbind.helper import keeper
from privbind.helper.ledger import open_ledger
from privbind.helper.notification import PATIENT, await_listener, settle
from privbind.helper.process import start
from privbind.linux import binds, call, landlock, notify, seccomp, sockets
from privbind.linux.process import WAIT_ALL
from privbind.mechanisms import seccomp as mechanism
from privbind.policy import Grant, Policy
from privbind.request import Request

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_CHILD_SUBREAPER = 36
NOBODY = Account(65534, 65534, ())
REQUEST = cast(
    "Request",
    SimpleNamespace(account=NOBODY, grant=Grant(Policy(None)), argv=[b"x"], port_start=1024, no_new_privileges=False),
)

# System calls by number on x86-64 and aarch64, for what no module of ours calls.
EXTRA = {
    "x86_64": {
        "socket": 41, "connect": 42, "fork": 57, "kill": 62, "ptrace": 101, "setuid": 105, "tgkill": 234,
        "unshare": 272, "process_vm_writev": 311, "memfd_create": 319, "pidfd_send_signal": 424, "clone3": 435,
        "openat2": 437, "io_uring_setup": 425, "dup": 32, "mprotect": 10,
    },
    "aarch64": {
        "socket": 198, "connect": 203, "fork": 220, "kill": 129, "ptrace": 117, "setuid": 146, "tgkill": 131,
        "unshare": 97, "process_vm_writev": 271, "memfd_create": 279, "pidfd_send_signal": 424, "clone3": 435,
        "openat2": 437, "io_uring_setup": 425, "dup": 23, "mprotect": 226,
    },
}  # fmt: skip


def raw(name: str, *args: int | bytes) -> None:
    """Make a system call, whatever comes of it."""
    machine = os.uname().machine
    nr = EXTRA[machine].get(name) or call.number(name)
    LIBC.syscall(ctypes.c_long(nr), *(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))


ATTEMPTS: dict[str, Callable[[], object]] = {
    "open a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "open a file by openat2": lambda: raw("openat2", -100, b"/etc/passwd", b"\0" * 24, 24),
    "make a socket": lambda: raw("socket", 2, 1, 0),
    "connect": lambda: raw("connect", 3, b"\0" * 16, 16),
    "make a process": lambda: raw("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "make a process by clone3": lambda: raw("clone3", b"\0" * 64, 64),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "signal its parent": lambda: raw("kill", os.getppid(), 0),
    "signal a thread": lambda: raw("tgkill", 1, 1, 0),
    "signal by pidfd": lambda: raw("pidfd_send_signal", 3, 9, 0, 0),
    "trace": lambda: raw("ptrace", 16, 1, 0, 0),
    "write memory": lambda: raw("process_vm_writev", 1, 0, 0, 0, 0, 0),
    "execute memory": lambda: raw("mmap", 0, 4096, 7, 0x22, -1, 0),
    "make memory executable": lambda: raw("mprotect", 0, 4096, 7),
    "put a descriptor into the command": lambda: raw("ioctl", 3, 0xC0182103, 0),
    "type into a terminal": lambda: raw("ioctl", 0, 0x5412, 0),
    "change its user": lambda: raw("setuid", 0),
    "make a namespace": lambda: raw("unshare", 0x10000000),
    "use io_uring": lambda: raw("io_uring_setup", 1, 0),
    "keep memory": lambda: raw("memfd_create", b"x", 0),
    "load a program into the kernel": lambda: raw("bpf", 5, 0, 0),
    "change its filter": lambda: raw("seccomp", 1, 0, 0),
}  # fmt: skip


def ended_by(attempt: Callable[[], object], make: Callable[[Any, Any], Any], settled: bool) -> str:
    """How a helper ends that tries this once it serves: a signal, or what its exit status says."""
    ours, theirs = sockets.pair()
    job = make(theirs, notify.new_page())

    def serve() -> None:
        if settled:
            settle()
        try:
            attempt()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)

    job.serve = serve
    pid = start(job)
    theirs.close()
    ours.close()
    _, status = os.waitpid(pid, WAIT_ALL)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"errno {os.WEXITSTATUS(status)}" if os.WEXITSTATUS(status) else "did it"


def sandbox(who: str) -> None:
    """What a helper, a keeper, or a keeper that looks in /proc can do beyond its work."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that what is started here is waited for here
    pidfd = os.pidfd_open(os.getpid())

    def helper(delivery: Any, page: Any) -> Any:
        return mechanism._helper(REQUEST, open_ledger(REQUEST, mechanism.NAME), delivery, page, None)

    def keep(delivery: Any, page: Any) -> Any:
        return mechanism._keeper(REQUEST, delivery, page, pidfd, sockets.pair()[0] if who == "looker" else None)

    attempts = dict(ATTEMPTS)
    if who != "helper":
        attempts["read memory"] = lambda: raw("process_vm_readv", 1, 0, 0, 0, 0, 0)
        attempts["open a process"] = lambda: raw("pidfd_open", 1, 0)
        attempts["fetch a descriptor"] = lambda: raw("pidfd_getfd", 3, 0, 0)
    if who != "looker":
        attempts["speak on a connection"] = lambda: raw("sendto", 3, b"x", 1, 0, 0, 0)
        attempts["hear a connection"] = lambda: raw("recvmsg", 3, 0, 0)
    else:
        attempts["look in /proc"] = lambda: os.read(os.open("/proc/self/status", os.O_RDONLY), 10)
        attempts["write in /proc"] = lambda: os.open("/proc/self/comm", os.O_WRONLY)
        attempts["make a file"] = lambda: os.open("/tmp/x", os.O_WRONLY | os.O_CREAT)
    for name, attempt in attempts.items():
        print(f"{name}: {ended_by(attempt, helper if who == 'helper' else keep, who != 'looker')}")


def without_threads(*argv: str) -> None:
    """Run a command as on a kernel whose pidfd_open knows no threads."""
    prepared = mechanism._Seccomp(REQUEST, opens_threads=False)
    print(prepared.notes[0], file=sys.stderr, flush=True)
    prepared.enter()
    account.become(NOBODY)
    os.execv(argv[0], argv)


def hasty(*argv: str) -> None:
    """Run a command as on a kernel where a signal interrupts a bind that the helper has received already."""
    seccomp._WAIT_KILLABLE = 1 << 31  # a flag that no kernel knows
    prepared = mechanism._Seccomp(REQUEST)
    prepared.enter()
    account.become(NOBODY)
    os.execv(argv[0], argv)


def dying(when: str) -> None:
    """A helper that dies with a request in its hands: how the bind ends, and the next ones."""
    page = notify.new_page()
    delivery, theirs = sockets.pair()
    reader, writer = os.pipe()
    if os.fork() == 0:
        listener, _ = seccomp.install_listener(seccomp.notify_binds())
        sockets.send_descriptor(delivery, listener, PATIENT)
        sockets.send_descriptor(delivery, listener, PATIENT)
        os.close(listener)
        delivery.close()
        theirs.close()
        account.become(NOBODY)
        told = []
        for port in (80, 8080, 81):
            with socket.socket() as sock:
                try:
                    sock.bind(("127.0.0.1", port))
                    told.append("ok")
                except OSError as error:
                    told.append(str(error.errno))
        os.write(writer, " ".join(told).encode())
        os._exit(0)
    delivery.close()
    helper = os.fork()
    if helper == 0:
        os.close(writer)
        _die(await_listener(theirs), page, when)
    pidfd = os.pidfd_open(helper)
    if os.fork() == 0:
        os.close(writer)
        keeper.serve(theirs, page, pidfd, None)
        os._exit(0)
    theirs.close()
    os.close(writer)
    with open(reader, "rb") as file:
        print(file.read().decode())
    for _ in range(3):
        os.wait()


def _die(delivered: tuple[int, bytes] | None, page: Any, when: str) -> None:
    assert delivered is not None
    listener = notify.Listener(delivered[0], page)

    def die() -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    if when == "received":
        listener.receive()
        die()
    elif when == "decided":
        listener.receive()
        listener._sent = die  # type: ignore[method-assign]
        listener.answer(98)
    elif when == "answered":
        listener.receive()
        listener.answer(98)
        die()


def landlocked() -> None:
    """Whether a process under Landlock can read another's memory: it cannot, so the helper is none."""
    memory = bytearray(8)
    child = os.fork()
    if child == 0:
        select.poll().poll()
    try:
        LIBC.prctl(38, 1, 0, 0, 0)
        if not landlock.only_read_below("/proc"):
            print("missing")
            return
        from privbind.linux.foreign import Memory

        try:
            Memory(8).read(child, call.address_of(memory), 8)
            print("read")
        except OSError as error:
            print(error.errno)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    assert binds.calls()
    parts = {
        "sandbox": sandbox,
        "without-threads": without_threads,
        "hasty": hasty,
        "dying": dying,
        "landlocked": landlocked,
    }
    parts[sys.argv[1]](*sys.argv[2:])
