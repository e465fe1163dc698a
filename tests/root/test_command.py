"""The command is the main process, and no privilege is left in it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import NOBODY, Host, gone, helper_of, python, read_line, status_of, wait_for
from ..harness.needs import need

pytestmark = pytest.mark.parametrize("mechanism", MECHANISMS)

BIND = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); "


def test_control_without_privbind_the_port_is_out_of_reach(host: Host, mechanism: str) -> None:
    """The same bind as nobody, without privbind."""
    del mechanism
    assert "Permission denied" in host.plain(python(BIND)).err


def test_same_pid(host: Host, mechanism: str) -> None:
    """The pid that was started is the command's."""
    process = host.start(python(BIND + "import os; print(os.getpid())"), f"--via={mechanism}", stdout=-1)
    assert int(read_line(process)) == process.pid
    assert process.wait() == 0


@pytest.mark.parametrize("status", [0, 1, 7, 125, 126, 127, 255])
def test_exit_status(host: Host, mechanism: str, status: int) -> None:
    """The command's own, whatever it is."""
    assert host.granted(python(BIND + f"raise SystemExit({status})"), f"--via={mechanism}").status == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGPIPE])
def test_death_by_signal(host: Host, mechanism: str, number: signal.Signals) -> None:
    """Its parent sees the signal."""
    code = BIND + "import os, signal; "
    if number != signal.SIGKILL:
        code += f"signal.signal({int(number)}, signal.SIG_DFL); "
    code += f"os.kill(os.getpid(), {int(number)})"
    assert host.granted(python(code), f"--via={mechanism}").status == -number


def test_signals_go_to_the_command(host: Host, mechanism: str) -> None:
    """What is sent to the pid that was started is handled by the command."""
    code = BIND + (
        # Not print, which a handler may interrupt but not call meanwhile.
        "import os, signal; signal.signal(signal.SIGHUP, lambda *_: os.write(1, b'hup\\n')); "
        "os.write(1, b'ready\\n'); signal.pause(); signal.pause()"
    )
    process = host.start(python(code), f"--via={mechanism}", stdout=-1)
    assert read_line(process) == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert read_line(process) == "hup\n"
    process.kill()
    assert process.wait() == -signal.SIGKILL


DESCRIPTORS = """
import os, sys
seen = {}
for name in os.listdir("/proc/self/fd"):
    try:
        seen[int(name)] = os.readlink("/proc/self/fd/" + name)
    except FileNotFoundError:
        pass  # the folder's own
print(sorted(fd for fd in seen if fd < 900 and "/proc/" not in seen[fd]))
"""


def test_descriptors_keep_their_numbers(host: Host, mechanism: str) -> None:
    """Inherited ones are there, with their numbers and content; no other is in the low numbers."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"x" * 4)
        shell = f"exec 7<&{reading} {reading}<&- 8>&{writing} {writing}>&- 20</dev/null; exec "
        command = shlex.join(host.command(python(DESCRIPTORS + "print(os.read(7, 4))"), f"--via={mechanism}"))
        found = host.run(["bash", "-c", shell + command], pass_fds=(reading, writing)).ok()
    finally:
        os.close(reading)
        os.close(writing)
    assert found.lines == ["[0, 1, 2, 7, 8, 20]", "b'xxxx'"]


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "0 1 2"])
def test_closed_standard_descriptors_stay_closed(host: Host, mechanism: str, closed: str, folder: Path) -> None:
    """A command started without stdin, stdout or stderr finds them closed, and nothing of ours in their place."""
    out = folder / "out"
    list_fds = f"ls -l /proc/self/fd 2>/dev/null | grep -o '[0-9]* -> .*' > {out}"
    closing = " ".join(f"{fd}>&-" for fd in closed.split())
    command = shlex.join(host.command(["sh", "-c", list_fds], f"--via={mechanism}"))
    host.run(["bash", "-c", f"exec {closing}; exec {command}"])
    shown = {int(line.split(" -> ")[0]): line.split(" -> ")[1] for line in out.read_text().splitlines()}
    ours = [target for fd, target in shown.items() if fd < 900 and ("socket:" in target or "memfd" in target)]
    assert ours == []


def test_standard_input_is_the_commands(host: Host, mechanism: str) -> None:
    """Nothing of it is read before the command does."""
    assert host.granted(["cat"], f"--via={mechanism}", input="hello\n").ok().out == "hello\n"


def test_pipeline_ends_with_the_command(host: Host, mechanism: str) -> None:
    """No process of ours holds the pipe's other end open."""
    command = shlex.join(host.command(python("import time, os; print('x', flush=True)"), f"--via={mechanism}"))
    assert host.run(["sh", "-c", command + " | cat"]).ok().out == "x\n"


def test_no_child_that_it_did_not_start(host: Host, mechanism: str) -> None:
    """waitpid gives ECHILD, also after the helper's end, and no SIGCHLD is pending or comes."""
    code = (
        "import os, signal\n"
        "print(signal.SIGCHLD in signal.sigpending())\n" + BIND + "\ntry:\n os.waitpid(-1, 0x40000000)\n"
        "except ChildProcessError as error:\n print(error.strerror)\n"
        "print(signal.SIGCHLD in signal.sigpending())"
    )
    blocked = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD}); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = host.command(python(code), f"--via={mechanism}", "-n1")
    found = host.run([*python(blocked), *command]).ok()
    assert found.lines == ["False", "No child processes", "False"]


def test_children_that_it_had_before_are_still_its_own(host: Host, mechanism: str) -> None:
    """A child started before privbind was execed is waited for by the command."""
    before = "import os, sys\nif os.fork() == 0: os._exit(9)\nos.execv(sys.argv[1], sys.argv[1:])"
    after = "import os; pid, status = os.wait(); print(os.waitstatus_to_exitcode(status))"
    found = host.run([*python(before), *host.command(python(after), f"--via={mechanism}")]).ok()
    assert found.lines == ["9"]


@pytest.mark.parametrize("disposition", ["SIG_DFL", "SIG_IGN"])
@pytest.mark.parametrize("name", ["SIGPIPE", "SIGXFSZ", "SIGCHLD", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_signal_dispositions_and_mask_arrive_as_they_were(
    host: Host, mechanism: str, name: str, disposition: str
) -> None:
    """Ignored stays ignored, default stays default, blocked stays blocked; as without privbind."""
    setting = (
        "import os, signal, sys\n"
        "for s in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT): signal.signal(s, signal.SIG_DFL)\n"
        f"signal.signal(signal.{name}, signal.{disposition})\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2, signal.SIGTERM})\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    show = ["grep", "^Sig[^Q]\\|^ShdPnd", "/proc/self/status"]
    bare = host.run([*python(setting), "/usr/bin/env", *show]).ok()
    assert host.run([*python(setting), *host.command(show, f"--via={mechanism}")]).ok().out == bare.out


def test_limits_directory_umask_and_session_stay(host: Host, mechanism: str, folder: Path) -> None:
    """What a process inherits is what it would have inherited without privbind."""
    show = ["sh", "-c", "pwd; umask; ulimit -a; ps -o pgid=,sid=,tty=,nice= -p $$ | tr -d 0-9"]
    setting = f"cd {folder}; umask 027; ulimit -c 100; ulimit -n 200; exec "
    bare = host.run(["sh", "-c", setting + shlex.join(show)]).ok()
    found = host.run(["sh", "-c", setting + shlex.join(host.command(show, f"--via={mechanism}"))]).ok()
    assert found.out == bare.out


def test_no_privilege_is_left(host: Host, mechanism: str) -> None:
    """Ids, groups and capabilities of the running command; the bounding set is the caller's."""
    process = host.start(python(BIND + "print('up', flush=True); input()"), f"--via={mechanism}", stdin=-1, stdout=-1)
    assert read_line(process) == "up\n"
    status = status_of(process.pid)
    assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert status["Groups"].split() == [str(NOBODY.pw_gid)]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["CapBnd"] == status_of(os.getpid())["CapBnd"]
    assert status["NoNewPrivs"] == "0"
    process.communicate("\n")


def test_no_new_privs(host: Host, mechanism: str) -> None:
    """Set when it was asked for, never otherwise (see above)."""
    found = host.granted(["grep", "NoNewPrivs", "/proc/self/status"], f"--via={mechanism}", "--no-new-privs").ok()
    assert found.out.split() == ["NoNewPrivs:", "1"]
    host.granted(python(BIND), f"--via={mechanism}", "--no-new-privs").ok()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-u", "daemon"], "uid=1 gid=1 groups=1"),
        (["-u", "1"], "uid=1 gid=1 groups=1"),
        (["-u", "daemon", "-g", "www-data"], "uid=1 gid=33 groups=33"),
        (["-u", "daemon", "-g", "33"], "uid=1 gid=33 groups=33"),
        (["-u", "daemon:www-data"], "uid=1 gid=33 groups=33"),
        (["-u", "1:33"], "uid=1 gid=33 groups=33"),
        (["-u", "123456:654321"], "uid=123456 gid=654321 groups=654321"),
        (["-u", "daemon", "-G"], "uid=1 gid=1 groups=1"),
        (["-u", "daemon", "-g", "0", "-G"], "uid=1 gid=0 groups=0"),
        (["-u", "123456", "-g", "654321"], "uid=123456 gid=654321 groups=654321"),
        (["-u", "4294967294", "-g", "4294967294"], "uid=4294967294 gid=4294967294 groups=4294967294"),
    ],
)
def test_accounts(host: Host, mechanism: str, options: list[str], expected: str) -> None:
    """By name and by number, with and without entry."""
    show = "import os; print(f'uid={os.getuid()} gid={os.getgid()} groups={os.getgid()}', os.getgroups())"
    found = host.run([host.privbind, *options, f"--via={mechanism}", *python(show)]).ok()
    identity, groups = found.out.strip().split(" [")
    assert identity == expected
    gid = expected.split("gid=")[1].split(maxsplit=1)[0]
    has_groups = "-G" not in options and not {"123456", "123456:654321", "4294967294"} & {*options}
    assert groups == (f"{gid}]" if has_groups else "]")
    host.run([host.privbind, *options, f"--via={mechanism}", *python(BIND)]).ok()


def test_supplementary_groups(host: Host, mechanism: str, folder: Path) -> None:
    """Those that initgroups gives for the user and the group chosen; the user's own primary group is not among them."""
    passwd = folder / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + "web:x:4001:4001::/srv/web:/bin/false\n")
    group = folder / "group"
    group.write_text(Path("/etc/group").read_text() + "web:x:4001:\nlogs:x:4002:web\ncerts:x:4003:other,web\n")
    mount = f"mount --bind {passwd} /etc/passwd; mount --bind {group} /etc/group; exec "
    show = python("import os; print(os.getgid(), sorted(os.getgroups()))")

    def run(*options: str) -> str:
        command = shlex.join(host.command(show, f"--via={mechanism}", *options, user="web"))
        return host.run(["unshare", "--mount", "sh", "-c", mount + command]).ok().out.strip()

    assert run() == "4001 [4001, 4002, 4003]"
    assert run("-g", "logs") == "4002 [4002, 4003]"
    assert run("-G") == "4001 []"
    command = shlex.join(host.command(["env"], f"--via={mechanism}", "--set-home", user="web"))
    found = host.run(["unshare", "--mount", "sh", "-c", mount + "env HOME=/root USER=x A=1 " + command]).ok().lines
    assert {"HOME=/srv/web", "USER=web", "LOGNAME=web", "SHELL=/bin/false", "A=1"} <= set(found)
    assert sum(line.startswith(("HOME=", "USER=")) for line in found) == 2


def test_listen_fds_under_systemd_socket_activate(host: Host, mechanism: str) -> None:
    """The socket is at 3, and LISTEN_PID is the command's pid."""
    need("systemd-socket-activate")
    code = (
        "import os, socket; s = socket.socket(fileno=3); print(os.environ['LISTEN_FDS'], "
        "int(os.environ['LISTEN_PID']) == os.getpid(), s.getsockname()[1], flush=True); s.accept(); "
        + BIND.replace("s =", "t =").replace("s.bind", "t.bind")
        + "print('bound', flush=True)"
    )
    command = host.command(python(code), f"--via={mechanism}")
    process = host.popen(
        ["systemd-socket-activate", "-l", "127.0.0.1:9000", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    connect = python("import socket; socket.create_connection(('127.0.0.1', 9000)).close()")
    wait_for(lambda: host.run(connect).status == 0, "the activator listens")
    assert read_line(process) == "1 True 9000\n"
    assert read_line(process) == "bound\n"
    assert process.wait() == 0


def test_nothing_stays_behind(host: Host, mechanism: str) -> None:
    """With the command ended, its helper ends too."""
    process = host.start(python(BIND), f"--via={mechanism}", "-v", stderr=-1)
    if mechanism in ("preload", "seccomp"):
        helper = helper_of(process)
        assert process.wait() == 0
        wait_for(lambda: gone(helper), "the helper's end")
    else:
        assert process.wait() == 0


@pytest.mark.parametrize("extra", [[], ["-v"]])
def test_control_characters_do_not_reach_the_terminal(host: Host, mechanism: str, extra: list[str]) -> None:
    """A name with a line break is still one line."""
    found = host.granted(["/no/such\nthing\x1b[31m"], f"--via={mechanism}", *extra)
    assert found.status == 127
    assert len(found.err.splitlines()) == 1
    assert "\x1b" not in found.err


def test_sockets_are_the_commands_own(host: Host, mechanism: str) -> None:
    """A bound socket listens and answers, and the port is in use for others."""
    code = (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); s.listen(); print('up', flush=True)\n"
        "c, _ = s.accept(); c.sendall(b'hi'); c.close()"
    )
    process = host.start(python(code), f"--via={mechanism}", "--allow=tcp:80", stdout=-1)
    assert read_line(process) == "up\n"
    ask = "import socket; print(socket.create_connection(('127.0.0.1', 80)).recv(9).decode())"
    assert host.run(python(ask)).ok().out == "hi\n"
    assert process.wait() == 0


KEYRING = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "make":
    assert libc.syscall(250, 1, None) > 0
    assert libc.syscall(248, b"user", b"privbind-test", b"secret", 6, -3) > 0
    os.execv(sys.argv[2], sys.argv[2:])
print(libc.syscall(250, 10, -3, b"user", b"privbind-test", 0))
"""


def test_keys_of_the_callers_session_are_out_of_reach(host: Host, mechanism: str) -> None:
    """Who has root's session keyring can use the keys in it, whatever his uid; the command gets a new one."""
    ask = [*python(KEYRING), "ask"]
    control = ["setpriv", "--reuid=65534", "--clear-groups", *ask]
    assert int(host.run([*python(KEYRING), "make", "/usr/bin/env", *control]).ok().out) > 0
    assert host.run([*python(KEYRING), "make", *host.command(ask, f"--via={mechanism}")]).ok().out == "-1\n"


@pytest.mark.parametrize("bits", [1 << 2, 1 << 2 | 1 << 3], ids=["no_setuid_fixup", "locked"])
def test_with_securebits_that_keep_capabilities(host: Host, mechanism: str, bits: int) -> None:
    """A change of uid then takes none away: they are cleared all the same, and a locked bit stops no launch."""
    code = f"import ctypes, os, sys; ctypes.CDLL(None).prctl(28, {bits}, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    command = host.command(["grep", "Cap[IPEA]", "/proc/self/status"], f"--via={mechanism}")
    found = host.run([*python(code), *command]).ok()
    assert {int(line.split()[1], 16) for line in found.lines} == {0}
