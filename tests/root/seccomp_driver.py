"""Parts of the seccomp mechanism by themselves, for test_seccomp_helper.py: a program that runs as root in a namespace.

Its first argument is what to do; what comes of it is printed.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import NamedTuple, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "src"))

from privbind import account
from privbind.account import Account
from privbind.errors import UnsupportedError
from privbind.grant.grant import Grant
from privbind.grant.holder import Holder
from privbind.grant.policy import Policy
from privbind.helper import backup
from privbind.helper.process import Job, Starting
from privbind.helper.supervisor import await_listener, settle
from privbind.inspect import host as doctor
from privbind.linux import binds, call, landlock, notify, seccomp, sockets, target
from privbind.linux.process import WAIT_ALL
from privbind.linux.target import Memory
from privbind.mechanisms import seccomp as mechanism
from privbind.request import Command
from privbind.request.program import Program
from privbind.request.resolve import own_site
from privbind.values import replaced
from tests.harness import measure

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_CHILD_SUBREAPER = 36
NOBODY = Account(65534, 65534, ())
COMMAND = Command(NOBODY, (b"x",), Program(b"x", b"x", None))
NAMES = {"helper": "privbind-helper", "backup": "privbind-backup", "looker": "privbind-backup"}
"""What is called how; a looker is a backup that looks in /proc."""

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


def prepared(*, opens_threads: bool | None = None) -> mechanism._Seccomp:
    """The mechanism, ready for a command as nobody that may bind everything; ``opens_threads``: what the kernel can."""
    if opens_threads is not None:
        target.opens_threads = lambda: opens_threads
    holder = Holder("nobody", NOBODY.uid, NOBODY.gid, COMMAND.argv, os.getpid(), 0)
    return mechanism._Seccomp(Grant(Policy(None)), holder, own_site(), COMMAND)


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


class Trying:
    """Starts the one process that is tried with something else to do than serve, and none of the others."""

    def __init__(self, who: str, attempt: Callable[[], object]) -> None:
        """``who`` is one of `NAMES`; it tries this once it would serve."""
        self._who = who
        self._attempt = attempt
        self.status = -1

    def __call__(self, job: Job) -> _Started:
        """As `Starting`."""
        if job.name != NAMES[self._who]:
            return _Started(lambda: 0)
        starting = Starting(replaced(job, serve=self._serve))

        def wait() -> int:
            pid = starting.wait()
            _, self.status = os.waitpid(pid, WAIT_ALL)
            return pid

        return _Started(wait)

    def _serve(self) -> None:
        if self._who != "looker":
            settle()
        try:
            self._attempt()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)


class _Started(NamedTuple):
    wait: Callable[[], int]


def ended_by(who: str, attempt: Callable[[], object]) -> str:
    """How a process of the mechanism ends that tries this once it serves: a signal, or what its exit status says."""
    trying = Trying(who, attempt)
    vars(mechanism)["Starting"] = trying
    prepared(opens_threads=who != "looker").cancel()
    if os.WIFSIGNALED(trying.status):
        return signal.Signals(os.WTERMSIG(trying.status)).name
    return f"errno {os.WEXITSTATUS(trying.status)}" if os.WEXITSTATUS(trying.status) else "did it"


def sandbox(who: str) -> None:
    """What a helper, a backup, or a backup that looks in /proc can do beyond its work."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that what is started here is waited for here
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
        print(f"{name}: {ended_by(who, attempt)}")


def refused_without_threads() -> None:
    """Why the mechanism is refused here, on a kernel whose pidfd_open knows no threads; "fits" if it is not.

    Then what the doctor says of it.
    """
    target.opens_threads = lambda: False
    try:
        mechanism.probe(Grant(Policy(None)), own_site(), COMMAND)
        print("fits")
    except UnsupportedError as error:
        print(error)
    told = doctor._ask("seccomp", 1024)
    print("fits" if told.usable else UnsupportedError(told.name, told.reason, told.remedy))


def without_threads(*argv: str) -> None:
    """Run a command as on a kernel whose pidfd_open knows no threads."""
    become(prepared(opens_threads=False), argv)


def become(launch: mechanism._Seccomp, argv: tuple[str, ...]) -> NoReturn:
    """Tell which processes there are, and be a command of theirs."""
    print(launch.notes[0], file=sys.stderr, flush=True)
    launch.enter()
    account.become(NOBODY)
    os.execv(argv[0], argv)


def repeating(*argv: str) -> None:
    """Run a command as on a kernel where a signal interrupts a bind that the helper has received already."""
    seccomp._WAIT_KILLABLE = 1 << 31  # a flag that no kernel knows
    become(prepared(), argv)


def lying(*argv: str) -> None:
    """The same, on a kernel that takes the flag against it and does not keep to it, as 5.19 to 6.17 may."""
    seccomp._WAIT_KILLABLE = 0
    become(prepared(), argv)


def dying(when: str) -> None:
    """A helper that dies with a request in its hands: how the bind ends, and the next ones."""
    page = notify.new_page()
    delivery, theirs = sockets.pair()
    alive, lifeline = sockets.pair()
    asker, questions = sockets.pair()
    reader, writer = os.pipe()
    if os.fork() == 0:
        for end in (alive, lifeline, asker, questions):
            end.close()
        listener = seccomp.install_listener(seccomp.notify_binds())
        sockets.send_descriptor(delivery, listener)
        sockets.send_descriptor(delivery, listener)
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
    if os.fork() == 0:
        os.close(writer)
        for end in (lifeline, questions):
            end.close()
        _die(await_listener(theirs), page, when, asker)
    for end in (alive, asker):
        end.close()
    if os.fork() == 0:
        os.close(writer)
        asked = when == "asking"
        if asked:
            _answer_when_nobody_hears(questions)
        backup.serve(theirs, page, lifeline, questions if asked else None)
        os._exit(0)
    for end in (theirs, lifeline, questions):
        end.close()
    os.close(writer)
    with open(reader, "rb") as file:
        print(file.read().decode())
    for _ in range(3):
        os.wait()


def _answer_when_nobody_hears(questions: _socket.socket) -> None:
    """Have this process, a backup, look up threads so slowly that whoever asks has died before the answer."""

    def slow(tid: int) -> int:
        ended = select.poll()
        ended.register(questions, 0)  # that the other end is closed is always told
        ended.poll()
        return tid

    vars(backup)["_leader_of"] = slow


def _die(fd: int | None, page: mmap, when: str, asker: _socket.socket) -> None:
    assert fd is not None
    listener = notify.Listener(fd, page)

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
    elif when == "asking":
        listener.receive()
        sockets.send_now(asker.fileno(), backup._QUESTION.pack(1))
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
        try:
            Memory(8).read(child, call.address_of(memory), 8)
            print("read")
        except OSError as error:
            print(error.errno)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    measure.begin()
    assert binds.calls()
    parts: dict[str, Callable[..., None]] = {
        "sandbox": sandbox,
        "refused-without-threads": refused_without_threads,
        "without-threads": without_threads,
        "repeating": repeating,
        "lying": lying,
        "dying": dying,
        "landlocked": landlocked,
    }
    parts[sys.argv[1]](*sys.argv[2:])
