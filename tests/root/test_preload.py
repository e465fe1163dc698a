"""preload's own promises: its helper's end, and what a command can send to it without the shim."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..harness.host import MANY, Host, gone, helper_of, python, read_line, table, wait_for
from ..harness.install import PYTHON


def test_the_helper_is_gone_after_the_last_bind(host: Host) -> None:
    """With nothing left to grant, no process stays (preload)."""
    code = MANY + "\nsys.stdout.flush(); input()"
    process = host.start(python(code, "80"), "--via=preload", "-n1", "-v", stdin=-1, stdout=-1, stderr=-1)
    helper = helper_of(process)
    wait_for(lambda: gone(helper), "the helper's end")
    assert process.poll() is None
    process.communicate("\n")


def test_a_helper_ends_although_a_daemon_has_lost_the_channel(host: Host) -> None:
    """When the last holder of the channel is gone, the helper is, even if a descendant lives on without it."""
    code = (
        "import ctypes, os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-I', '-c', 'import ctypes, sys\\n"
        "ctypes.CDLL(None).syscall(436, 3, 0xffffffff, 0)\\nprint(1, flush=True)\\nsys.stdin.read()'])\n"
    )
    process = host.start(python(code), "--via=preload", "-v", stdin=-1, stdout=-1, stderr=-1)
    helper = helper_of(process)
    assert read_line(process) == "1\n"
    wait_for(lambda: gone(helper), "the helper's end")
    process.communicate("")


def test_an_attacker_cannot_stop_the_helper(host: Host, programs: Path) -> None:
    """Garbage, foreign and missing descriptors, full reply sockets, floods: a proper bind works after each."""
    found = host.granted([programs / "hostile"], "--via=preload", "-v").ok()
    results: dict[str, list[str]] = {}
    for line in found.lines:
        case, _, result = line.partition(" ")
        results.setdefault(case, []).append(result)
    assert len(results) > 30
    assert {case for case, got in results.items() if got[-1] != "ok"} == set()
    answered = {case for case, got in results.items() if got[0] == "answered ok"}
    assert answered == {"proper", "length-17"}  # 17 bytes hold a whole address, as the kernel sees it too


HOSTILE_POLICY = """
import array, os, socket, struct
number, cookie = os.environ["PRIVBIND_CHANNEL"].split(":")
channel = socket.socket(fileno=int(number))
def send(sock, address, reply):
    rights = array.array("i", [sock.fileno(), reply.fileno()])
    message = struct.pack("=II", 0x31766270, len(address)) + address
    channel.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
def ask(sock, address):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    send(sock, address, theirs)
    theirs.close()
    return struct.unpack("=Ii", ours.recv(8))[1]
def ipv4(port):
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
print("granted", ask(socket.socket(), ipv4(80)))
print("not-granted", ask(socket.socket(), ipv4(81)))
print("udp", ask(socket.socket(type=socket.SOCK_DGRAM), ipv4(80)))
print("unreserved", ask(socket.socket(), ipv4(8080)))
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
print("lingering", ask(listening, ipv4(80)), end=" ")
print(struct.unpack("ii", listening.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
listening.close()
server = socket.create_server(("127.0.0.1", 8081))
client = socket.create_connection(("127.0.0.1", 8081))
peer, _ = server.accept()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
client.setblocking(False)
try:
    while True:
        client.send(bytes(1 << 20))
except BlockingIOError:
    pass
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
# The helper's is the last descriptor of a connection that would wait ten minutes for its unread data.
send(client, ipv4(80), theirs)
client.close()
print("after-linger", ask(socket.socket(), ipv4(80)))
"""


def test_what_is_not_granted_is_refused_by_the_helper_itself(host: Host) -> None:
    """A command that speaks to the helper without the shim gets no more than with it, and cannot make it wait."""
    found = table(host.granted(python(HOSTILE_POLICY), "--via=preload", "--allow=tcp:80").ok())
    assert found == {
        "granted": "0",
        "not-granted": "13",
        "udp": "13",
        "unreserved": "13",
        "lingering": "0 (1, 600)",
        "after-linger": "0",
    }


def test_descriptors_do_not_leak_in_the_helper(host: Host, programs: Path) -> None:
    """After an attack it holds what it held before."""
    argv = ["sh", "-c", f"echo up; read x; {programs}/hostile >/dev/null; echo done; read x"]
    process = host.start(argv, "--via=preload", "-v", stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    helper = helper_of(process)
    assert read_line(process) == "up\n"
    # It says that it is ready before it has closed what it says it by. What it keeps is 0 to 2, the grant's
    # counters and the channel.
    wait_for(lambda: len(held(helper)) == 5, "the end of its start")
    before = held(helper)
    process.stdin.write("\n")
    process.stdin.flush()
    assert read_line(process) == "done\n"
    wait_for(lambda: held(helper) == before, "the last of the attack to be closed")
    process.communicate("\n")


def held(pid: int) -> dict[str, str]:
    """A process's descriptors."""
    return {entry.name: os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}


SHUT = """
import os, socket, time
channel = socket.socket(fileno=int(os.environ["PRIVBIND_CHANNEL"].split(":")[0]))
channel.shutdown(socket.SHUT_WR)
print("shut", flush=True)
input()
"""


def test_a_channel_that_is_shut_down_ends_the_helper(host: Host) -> None:
    """Nobody can ask any more, so it does not wait, let alone spin, while the command lives."""
    process = host.start(python(SHUT), "--via=preload", "-v", stdin=-1, stdout=-1, stderr=-1)
    helper = helper_of(process)
    assert read_line(process) == "shut\n"
    wait_for(lambda: gone(helper), "the helper's end")
    process.communicate("\n")


@pytest.mark.parametrize("gains", ["setuid", "file capabilities", "both"])
def test_a_program_that_gains_privileges(host: Host, folder: Path, gains: str) -> None:
    """ld.so preloads nothing into it; with --no-new-privs it does if it is setuid, but not if it has capabilities."""
    program = folder / "program"
    shutil.copy(PYTHON, program)
    if gains != "file capabilities":
        program.chmod(0o4755)
    if gains != "setuid":
        subprocess.run(["setcap", "cap_chown=ep", program], check=True)
    bind = [program, "-I", *python(MANY, "80")[2:]]
    found = host.granted(bind, "--via=preload")
    assert (found.status, found.out) == (125, "")
    assert ", so ld.so preloads nothing" in found.err
    found = host.granted(bind, "--via=preload", "--no-new-privs")
    if gains == "setuid":
        assert found.ok().out == "ok\n"
    else:
        assert (found.status, found.out) == (125, "")
        assert "it has file capabilities, so ld.so preloads nothing" in found.err
