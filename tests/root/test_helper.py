"""The helper: what it is, what it holds, when it ends, and what its death does."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from privbind.linux import target

from ..harness.host import (
    BIND_WHEN_TOLD,
    HELPER_IDS,
    Host,
    gone,
    helper_of,
    python,
    read_line,
    status_of,
    tell,
    wait_for,
)

HELPED = ("seccomp", "preload")
"""The mechanisms that have a helper."""

CAPABILITIES = {"seccomp": 1 << 10 | 1 << 19, "preload": 1 << 10}
"""CAP_NET_BIND_SERVICE, and CAP_SYS_PTRACE for seccomp."""

ASKS = [] if target.opens_threads() else ["socket"]
DESCRIPTORS = {"seccomp": ["anon_inode:seccomp notify", "socket", *ASKS], "preload": ["socket"]}
"""What a helper has besides /dev/null and its ledger: where it hears of binds; by seccomp's socket its backup hears of
its end, and by another one of threads, where those cannot be opened."""

pytestmark = pytest.mark.parametrize("mechanism", HELPED)

WAIT = "print('up', flush=True); input()"


def test_what_a_helper_is(host: Host, mechanism: str) -> None:
    """Its ids, capabilities, flags and descriptors, as /proc tells them."""
    process = host.start(python(WAIT), f"--via={mechanism}", "-v", stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    helper = helper_of(process)
    status = status_of(helper)
    (uid,) = set(status["Uid"].split())
    (gid,) = set(status["Gid"].split())
    assert int(uid) in HELPER_IDS
    assert gid == uid
    assert status["Groups"].split() == []
    wanted = f"{CAPABILITIES[mechanism]:016x}"
    empty = f"{0:016x}"
    names = ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")
    assert [status[name].strip() for name in names] == [wanted, wanted, empty, empty, empty]
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert status["Threads"].strip() == "1"
    assert os.getsid(helper) != os.getsid(process.pid)
    assert os.readlink(f"/proc/{helper}/cwd") == "/"
    stat = Path(f"/proc/{helper}/stat").read_text().rsplit(") ", 1)[1].split()
    assert stat[1] == "1"  # init's child
    assert stat[4] == "0"  # no terminal
    descriptors = {int(entry.name): os.readlink(entry) for entry in Path(f"/proc/{helper}/fd").iterdir()}
    assert [descriptors.pop(fd) for fd in (0, 1, 2)] == ["/dev/null"] * 3
    ledgers = [fd for fd, link in descriptors.items() if link == "/memfd:privbind_grant (deleted)"]
    assert len(ledgers) == 1
    del descriptors[ledgers[0]]
    assert sorted(link.partition(":[")[0] for link in descriptors.values()) == DESCRIPTORS[mechanism]
    ignored = int(status["SigIgn"], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert ignored >> (number - 1) & 1
    process.communicate("\n")
    wait_for(lambda: gone(helper), "the helper's end")


def test_helpers_do_not_share_a_uid(host: Host, mechanism: str) -> None:
    """One helper could kill or trace another of the same uid, so no two have one."""
    running = [host.start(python(WAIT), f"--via={mechanism}", "-v", stdin=-1, stdout=-1, stderr=-1) for _ in range(6)]
    helpers = [helper_of(process) for process in running]
    uids = [status_of(helper)["Uid"].split()[0] for helper in helpers]
    assert len(set(uids)) == len(uids)
    assert "65534" not in uids  # nobody's, the account
    for process in running:
        process.communicate("\n")


def test_signals_that_end_a_service_do_not_end_the_helper(host: Host, mechanism: str) -> None:
    """SIGINT, SIGTERM and SIGHUP, which a service manager or a terminal sends to all, are ignored."""
    process = host.start(python(BIND_WHEN_TOLD), f"--via={mechanism}", "-v", stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    helper = helper_of(process)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper, number)
    assert tell(process, 80) == "ok"
    process.communicate("")


def test_a_killed_helper_leaves_eacces(host: Host, mechanism: str) -> None:
    """Reserved binds then get what nobody gets, unreserved ones go on; no signal, no hang."""
    process = host.start(python(BIND_WHEN_TOLD), f"--via={mechanism}", "-v", stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    helper = helper_of(process)
    assert tell(process, 80) == "ok"
    os.kill(helper, signal.SIGKILL)
    wait_for(lambda: gone(helper), "the helper's end")
    assert tell(process, 80) == "13"
    assert tell(process, 8080) == "ok"
    process.communicate("")
    assert process.returncode == 0


def test_a_helper_killed_during_a_request(host: Host, mechanism: str) -> None:
    """The bind that waits for it gets EACCES at once."""
    process = host.start(python(BIND_WHEN_TOLD), f"--via={mechanism}", "-v", stdin=-1, stdout=-1, stderr=-1)
    assert read_line(process) == "up\n"
    helper = helper_of(process)
    os.kill(helper, signal.SIGSTOP)
    wait_for(lambda: status_of(helper)["State"].startswith("T"), "the helper's stop")
    assert process.stdin is not None
    process.stdin.write("80\n")
    process.stdin.flush()
    blocked = re.compile("poll|recv|unix|skb|wait|seccomp")
    wait_for(
        lambda: blocked.search(Path(f"/proc/{process.pid}/wchan").read_text()) and sent(process.pid), "the request"
    )
    os.kill(helper, signal.SIGKILL)
    assert read_line(process) == "13\n"
    assert tell(process, 8080) == "ok"
    process.communicate("")


def sent(pid: int) -> bool:
    """Whether the program sleeps in a system call other than its reading of stdin (descriptor 0)."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return words[0] not in ("running", "0")


CHILDREN = """
def children(options):
    try:
        return os.waitpid(-1, os.WNOHANG | options)
    except ChildProcessError:
        return None
"""


def test_as_pid_1_the_helper_is_a_child_that_does_not_end_first(host: Host, mechanism: str) -> None:
    """There an orphan comes back to the command, so it stays until the command ends, without a right after -n.

    A plain wait does not see it, one for children of every kind (__WALL) does.
    """
    code = CHILDREN + (
        "import os, socket\n"
        "def bind(port):\n"
        " with socket.socket() as s:\n"
        "  try: s.bind(('127.0.0.1', port)); return 'ok'\n"
        "  except OSError as error: return error.errno\n"
        "print(os.getpid(), bind(80), bind(81), bind(8080), children(0), children(0x40000000))\n"
        "helper = [int(n) for n in os.listdir('/proc') if n.isdigit() and n != '1'][0]\n"
        "import time\n"
        "while 'CapPrm:\\t0000000000000000' not in open(f'/proc/{helper}/status').read(): time.sleep(0.001)\n"
        "print(helper > 1)"
    )
    command = host.command(python(code), f"--via={mechanism}", "-n1")
    found = host.run(["unshare", "--pid", "--fork", "--mount-proc", *command]).ok()
    assert found.lines == ["1 ok 13 ok None (0, 0)", "True"]


def test_under_a_subreaper_of_its_own_the_helper_ends_with_the_command(host: Host, mechanism: str) -> None:
    """A command that adopts orphans sees no child end, and no helper stays when it is gone."""
    subreaper = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    code = CHILDREN + (
        "import os, socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); "
        "print(children(0), children(0x40000000), flush=True)"
    )
    process = host.popen(
        [*python(subreaper), *host.command(python(code), f"--via={mechanism}", "-v")], stdout=-1, stderr=-1
    )
    helper = helper_of(process)
    assert read_line(process) == "None (0, 0)\n"
    assert process.wait() == 0
    wait_for(lambda: gone(helper), "the helper's end")
