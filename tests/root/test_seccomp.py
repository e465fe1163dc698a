"""What is seccomp's own: any program, signals, races, and the conditions under which it is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..harness.host import Host, Result, python
from ..harness.install import PROGRAMS, PYTHON
from ..harness.needs import build_i386, need
from ..harness.patience import fewer, period_us

VIA = "--via=seccomp"
BINDS = [
    "tcp",
    "4",
    "127.0.0.1",
    "80",
    "tcp",
    "6",
    "::1",
    "80",
    "tcp",
    "4",
    "127.0.0.1",
    "81",
    "tcp",
    "6",
    "::1",
    "8080",
]
OUTCOME = ["ok", "ok", "EACCES", "ok"]
LONG_S = 900
"""For what makes hundreds of thousands of binds."""


def outcomes(found: Result) -> list[str]:
    """The first word of each line."""
    return [line.split()[0] for line in found.lines]


def counts(found: Result) -> dict[str, int]:
    """What a program counted."""
    return {line.split()[0]: int(line.split()[1]) for line in found.lines}


def run_long(host: Host, argv: Sequence[str | Path], *options: str) -> Result:
    """Run a program that takes its time."""
    process = host.start(argv, VIA, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=LONG_S)
    return Result(process.returncode, out, err)


CLUSTER = """
const cluster = require('cluster'), net = require('net');
if (cluster.isPrimary) {
  for (let i = 0; i < 4; i++) cluster.fork();
  cluster.on('exit', (worker, code) => console.log('ended', code));
} else {
  const failed = error => { console.log(error.code); process.exit(1); };
  const listen = (options, then) =>
    net.createServer().on('error', failed).listen(options, function () { this.close(then); });
  let left = 40;
  const next = () => {
    if (!left--) process.exit(0);
    listen({host: '127.0.0.1', port: 80}, () =>
      listen({host: '127.0.0.1', port: 100 + cluster.worker.id, exclusive: true}, next));
  };
  next();
}
"""


class TestPrograms:
    """Whatever a program is linked with, a bind is a system call."""

    @pytest.mark.parametrize("raw", [(), ("-raw",)], ids=["libc", "raw"])
    @pytest.mark.parametrize("kind", ["", "-static", "-musl", "-musl-static"])
    def test_c(self, host: Host, programs: Path, kind: str, raw: tuple[str, ...]) -> None:
        """glibc and musl, dynamic and static, through the C library and by the system call alone."""
        if "musl" in kind:
            need("musl-gcc")
        argv = [programs / f"trybind{kind}", *raw, *BINDS]
        assert outcomes(host.granted(argv, VIA, "--allow=tcp:80")) == OUTCOME
        assert outcomes(host.plain(argv)) == ["EACCES", "EACCES", "EACCES", "ok"]

    @pytest.mark.parametrize("raw", [(), ("-raw",)], ids=["libc", "raw"])
    def test_i386(self, host: Host, folder: Path, raw: tuple[str, ...]) -> None:
        """By the number of its own that bind has there."""
        assert outcomes(host.granted([build_i386("trybind", folder), *raw, *BINDS], VIA, "--allow=tcp:80")) == OUTCOME

    def test_i386_socketcall(self, host: Host, folder: Path) -> None:
        """By the older call, whose arguments are in memory."""
        argv = [build_i386("net_socketcall", folder), "127.0.0.1", "80", "81", "8080"]
        assert host.granted(argv, VIA, "--allow=tcp:80").lines == ["ok", "EACCES", "ok"]
        assert host.plain(argv).lines == ["EACCES", "EACCES", "ok"]

    def test_rust(self, host: Host, folder: Path) -> None:
        """Static."""
        need("rustc")
        build = ["rustc", "-C", "target-feature=+crt-static", "-o", f"{folder}/rust", f"{PROGRAMS}/net_bind.rs"]
        subprocess.run(build, check=True)
        argv = [folder / "rust", "127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "127.0.0.1:8080"]
        assert outcomes(host.granted(argv, VIA, "--allow=tcp:80")) == OUTCOME

    def test_go_under_load(self, host: Host, programs: Path, folder: Path) -> None:
        """net.Listen of a program without the C library, whose runtime signals its threads, while others bind."""
        need("go")
        go = folder / "go"
        settings = {"CGO_ENABLED": "0", "GOCACHE": str(folder / "cache"), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
        subprocess.run(["go", "build", "-o", go, PROGRAMS / "net_bind.go"], env=os.environ | settings, check=True)
        load = f'{programs}/procs 4 500 443 >&2 & {go} "$@"; status=$?; wait; exit $status'
        argv = ["sh", "-c", load, "sh", *["127.0.0.1:80", "[::1]:80", "127.0.0.1:81"] * 100]
        found = host.granted(argv, VIA, "--allow=tcp:80,tcp:443").ok()
        assert found.lines == ["ok", "ok", "EACCES"] * 100
        assert found.err == "ok 2000\n"

    def test_node_cluster_under_load(self, host: Host, programs: Path, folder: Path) -> None:
        """Workers that listen, through their primary and by themselves, while others bind."""
        need("node")
        script = folder / "cluster.js"
        script.write_text(CLUSTER)
        argv = ["sh", "-c", f'{programs}/procs 4 500 443 >&2 & exec node "$1"', "sh", script]
        found = host.granted(argv, VIA, "--allow=tcp:1-500").ok()
        assert found.lines == ["ended 0"] * 4

    def test_no_other_call_is_touched(self, host: Host) -> None:
        """Binds of other families go on as they would; what a filter alone could change is as it was."""
        code = (
            "import socket, tempfile, os\n"
            "with tempfile.TemporaryDirectory() as folder:\n"
            "  s = socket.socket(socket.AF_UNIX); s.bind(folder + '/s'); print('unix')\n"
            "s = socket.socket(socket.AF_UNIX); s.bind('\\0' + 'a' * 100); print('abstract')\n"
            "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0)); print('netlink')\n"
            "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('any')\n"
            "lines = open('/proc/self/status').read().splitlines()\n"
            "print(*[line.split()[1] for line in lines if line.startswith(('NoNewPrivs', 'Seccomp'))])\n"
        )
        assert host.granted(python(code), VIA).ok().lines == ["unix", "abstract", "netlink", "any", "0 2 1"]


class TestSignals:
    """A bind waits for the helper, so signals come meanwhile."""

    def test_1_khz_timer(self, host: Host, programs: Path) -> None:
        """20,000 binds give 20,000 right answers, with a handler that has SA_RESTART."""
        count = fewer(20000)
        found = counts(run_long(host, [programs / "seccomp_signals", str(count), period_us(1000)]))
        assert found.pop("ticks") > 0
        assert found == {"ok": count}

    def test_10_khz_timer_with_a_limit(self, host: Host, programs: Path) -> None:
        """A request that is made again after a signal is not counted again."""
        fifth = fewer(1000)
        found = counts(run_long(host, [programs / "seccomp_signals", str(5 * fifth), period_us(100)], f"-n{4 * fifth}"))
        assert found.pop("ticks") > 0
        assert found == {"ok": 4 * fifth, "EACCES": fifth}

    def test_without_restart(self, host: Host, programs: Path) -> None:
        """A handler without SA_RESTART may see EINTR, as from every call that waits; nothing was bound then."""
        count = fewer(20000)
        found = counts(run_long(host, [programs / "signals", str(count), period_us(1000)], f"-n{2 * count}"))
        assert found.pop("handler-ok") > 0
        assert found["ok"] + found.pop("EINTR", 0) == count


def test_a_race_against_the_helper_wins_nothing(host: Host, programs: Path) -> None:
    """The address is rewritten and the descriptor swapped during the call, 200,000 times."""
    count = fewer(200000)
    found = counts(run_long(host, [programs / "seccomp_race", str(count)], "--allow=tcp:80"))
    assert found["attempts"] == count
    assert found["wrong"] == 0
    assert found["tcp-80"] > 0
    assert found["unreserved"] > 0


LISTENER = """
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("=H6xQ", 1, ctypes.addressof(code)))
listener = libc.syscall({"x86_64": 317, "aarch64": 277}[platform.machine()], 1, 8, program)
assert listener > 0
os.set_inheritable(listener, True)
os.execv(sys.argv[1], sys.argv[1:])
"""
ROOT_AGAIN = """
import os, sys
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class TestRefusal:
    """What this mechanism cannot do here, it says before the command starts."""

    def test_another_listener(self, host: Host) -> None:
        """The kernel takes one a process."""
        argv = python(LISTENER, *host.command(["true"], VIA))
        found = host.run(argv)
        assert found.status == 125
        assert found.err.startswith("privbind: seccomp: another listener is on this process already")

    def test_a_launch_inside_a_launch(self, host: Host, folder: Path) -> None:
        """By a setuid program: another mechanism works inside, this one says why not."""
        become_root = folder / "python3"
        shutil.copy(os.path.realpath(PYTHON), become_root)
        become_root.chmod(0o4755)
        bind = python("import socket; socket.socket().bind(('127.0.0.1', 81)); print('bound')")

        def inside(mechanism: str) -> Result:
            argv = [become_root, "-I", "-c", ROOT_AGAIN, *host.command(bind, f"--via={mechanism}", "--allow=81")]
            return host.granted(argv, VIA, "--allow=80")

        assert inside("preload").ok().out == "bound\n"
        refused = inside("seccomp")
        assert refused.status == 125
        assert refused.err.startswith("privbind: seccomp: another listener is on this process already")

    @pytest.mark.parametrize(
        ("options", "status", "reason"),
        [([], 125, "CAP_SYS_ADMIN is missing"), (["--no-new-privs"], 0, "")],
    )
    def test_without_cap_sys_admin(self, host: Host, options: list[str], status: int, reason: str) -> None:
        """Only with --no-new-privs, which is never set unasked."""
        bind = python("import socket; socket.socket().bind(('127.0.0.1', 80))")
        few = ["setpriv", "--inh-caps=-all", "--bounding-set=-sys_admin"]
        found = host.run([*few, *host.command(bind, VIA, *options)])
        assert found.status == status, found
        assert reason in found.err

    def test_without_cap_sys_ptrace(self, host: Host) -> None:
        """The helper could not see what is to be bound."""
        found = host.run(["setpriv", "--inh-caps=-all", "--bounding-set=-sys_ptrace", *host.command(["true"], VIA)])
        assert (found.status, found.err[:45]) == (125, "privbind: seccomp: CAP_SYS_PTRACE is missing "[:45])

    def test_closed_standard_descriptors_are_no_hindrance(self, host: Host) -> None:
        """What is tried out before does not depend on them."""
        command = " ".join(host.command([PYTHON, "-c", "'import socket; socket.socket().bind((\"\", 80))'"], VIA))
        assert host.run(["sh", "-c", f"exec <&- >&- 2>&-; exec {command}"]).status == 0


@pytest.mark.parametrize("mechanism", ["seccomp", "preload"])
def test_landlock_rules_of_the_command_do_not_reach_the_helper(host: Host, mechanism: str) -> None:
    """Documented in SECURITY.md: the helper binds with its own rights, which the command's rules do not cut."""
    code = (
        "import ctypes, os, socket, struct, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.prctl(38, 1, 0, 0, 0)\n"
        # Nothing of files; LANDLOCK_ACCESS_NET_BIND_TCP, and no rule that allows it.
        "attr = struct.pack('=QQ', 0, 1)\n"
        "rules = libc.syscall(444, attr, 16, 0)\n"
        "if rules < 0 or libc.syscall(446, rules, 0) < 0: sys.exit(77)\n"
        "for port in 80, 8080:\n"
        "  try: socket.socket().bind(('127.0.0.1', port)); print('ok')\n"
        "  except OSError as error: print(error.errno)\n"
    )
    found = host.granted(python(code), f"--via={mechanism}", "--allow=tcp:80")
    if found.status == 77:
        pytest.skip("Landlock rules about ports need Linux 6.7")
    assert found.ok().lines == ["ok", "13"]
