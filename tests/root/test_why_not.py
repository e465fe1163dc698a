"""What docs/why-not.md says of other ways to a reserved port and marks as tried, and privbind in the same place."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..harness.host import Host, Result, python, read_line, wait_for
from ..harness.install import PYTHON
from ..harness.machine import ALICE, BOB, Granted, as_user
from ..harness.needs import need

BIND = "import socket, sys; [socket.create_server(('127.0.0.1', int(port))) for port in sys.argv[1:]]; print('bound')"
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
CAPABILITY = "cap_net_bind_service=ep"


def refused(found: Result) -> None:
    """Check that the kernel refused the port."""
    assert found.status != 0
    assert "ermission denied" in found.out + found.err or "EACCES" in found.out, found


@pytest.fixture
def marked(folder: Path) -> Path:
    """An interpreter with the capability on its file."""
    need("setcap")
    program = folder / "python"
    shutil.copy(PYTHON, program)
    subprocess.run(["setcap", CAPABILITY, program], check=True)
    return program


def test_setcap_is_for_every_user_and_every_port(host: Host, marked: Path) -> None:
    """Two users, two ports, one mark; without it neither."""
    for uid in (65534, 4711):
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        refused(host.run([*user, PYTHON, "-I", "-c", BIND, "80"]))
        host.run([*user, marked, "-I", "-c", BIND, "80", "443"]).ok()


def test_setcap_is_lost_when_the_file_is_replaced(host: Host, marked: Path, folder: Path) -> None:
    """As an upgrade does; a grant of privbind's is not."""
    shutil.copy(PYTHON, folder / "new")
    (folder / "new").rename(marked)
    refused(host.plain([marked, "-I", "-c", BIND, "80"]))
    host.granted([marked, "-I", "-c", BIND, "80"], "--allow=tcp:80").ok()


def test_setcap_takes_the_library_path(host: Host, marked: Path) -> None:
    """The loader removes LD_LIBRARY_PATH; privbind leaves it alone."""
    show = ["-I", "-c", "import os; print(os.environ.get('LD_LIBRARY_PATH'))"]
    assert host.run(["env", "LD_LIBRARY_PATH=/nowhere", *AS_NOBODY, marked, *show]).ok().out == "None\n"
    granted = host.command([PYTHON, *show], "--allow=tcp:80")
    assert host.run(["env", "LD_LIBRARY_PATH=/nowhere", *granted]).ok().out == "/nowhere\n"


def test_setcap_has_no_effect_without_new_privileges(host: Host, marked: Path) -> None:
    """Where no_new_privs is set, or the file system is mounted nosuid; privbind works in both."""
    # By way of sh, since setpriv itself still holds what it would gain.
    inner = ["sh", "-c", 'exec "$@"', "sh", str(marked), "-I", "-c", BIND, "80"]
    host.run([*AS_NOBODY, *inner]).ok()
    refused(host.run([*AS_NOBODY, "--no-new-privs", *inner]))
    host.granted(python(BIND, "80"), "--allow=tcp:80", "--no-new-privs").ok()
    nosuid = f'mount --bind {marked.parent} {marked.parent}; mount -o remount,bind,nosuid {marked.parent}; exec "$@"'
    mounted = ["unshare", "--mount", "sh", "-ec", nosuid, "sh"]
    refused(host.run([*mounted, *AS_NOBODY, *inner]))
    plain = marked.with_name("plain")
    shutil.copy(PYTHON, plain)
    host.run([*mounted, *host.command([plain, "-I", "-c", BIND, "80"], "--allow=tcp:80")]).ok()


def test_setpriv_gives_every_port(host: Host) -> None:
    """privbind gives the one that was named."""
    ambient = [*AS_NOBODY, "--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]
    host.run([*ambient, *python(BIND, "80", "443")]).ok()
    host.granted(python(BIND, "80"), "--allow=tcp:80").ok()
    refused(host.granted(python(BIND, "443"), "--allow=tcp:80"))


BYPORT = """
mount -t tmpfs -o mode=755 tmpfs /etc/authbind/byport
touch /etc/authbind/byport/80
chown nobody /etc/authbind/byport/80
chmod 500 /etc/authbind/byport/80
exec "$@"
"""


def authbind(argv: list[str], *before: str) -> list[str]:
    """A program under authbind, whose user may bind port 80."""
    need("authbind")
    return ["unshare", "--mount", "sh", "-ec", BYPORT, "sh", *(before or AS_NOBODY), "authbind", "--deep", *argv]


def test_authbind_reaches_dynamic_programs_only(host: Host, programs: Path) -> None:
    """A static program gets nothing, and no word of it; by privbind it does."""
    arguments = ["tcp", "4", "127.0.0.1", "80"]
    host.run(authbind([str(programs / "trybind"), *arguments])).ok()
    static = host.run(authbind([str(programs / "trybind-static"), *arguments]))
    refused(static)
    assert static.err == ""
    host.granted([programs / "trybind-static", *arguments], "--allow=tcp:80").ok()


def test_authbind_refuses_what_the_program_may_do_anyway(host: Host) -> None:
    """With the capability, port 81 is the program's; authbind's library never asks the kernel."""
    ambient = [*AS_NOBODY, "--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]
    host.run([*ambient, *python(BIND, "81")]).ok()
    found = host.run(authbind(python(BIND, "81"), *ambient))
    assert found.status != 0
    assert "Operation not permitted" in found.err


def test_the_sysctl_is_for_everybody(installed: Path) -> None:
    """From 80 on, every user, every port; below it stays as it was."""
    host = Host(installed, "echo 80 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        host.plain(python(BIND, "80", "443", "993")).ok()
        refused(host.plain(python(BIND, "79")))
    finally:
        host.close()


REDIRECT = """
nft add table ip site
nft 'add chain ip site out { type nat hook output priority -100; }'
nft add rule ip site out tcp dport 80 redirect to :8080
"""
SERVE = (
    "import socket; s = socket.create_server(('127.0.0.1', 8080)); print('up', flush=True); s.accept()[0].send(b'8080')"
)
CONNECT = "import socket; print(socket.create_connection(('127.0.0.1', 80)).recv(99).decode())"


def test_a_redirect_leads_to_whoever_has_the_other_port(host: Host) -> None:
    """A server without any right gets port 80's connections, and any user can be that server."""
    need("nft")
    server = host.popen([*AS_NOBODY, *python(SERVE)], stdout=subprocess.PIPE)
    assert read_line(server) == "up\n"
    assert "ConnectionRefusedError" in host.run(python(CONNECT)).err
    host.run(["sh", "-ec", REDIRECT]).ok()
    assert host.run(python(CONNECT)).ok().out == "8080\n"


ACTIVATED = """
import os, socket
try: socket.create_server(("127.0.0.1", 81))
except PermissionError: pass
with socket.socket(fileno=3) as listening:
    capabilities = [line for line in open("/proc/self/status") if line.startswith("CapPrm")]
    listening.accept()[0].send(f"{os.environ['LISTEN_FDS']} {os.getuid()} {capabilities[0].split()[1]}".encode())
"""


def test_socket_activation_leaves_no_right_to_anyone(host: Host) -> None:
    """The server has a socket on port 80, no capability, and no way to bind another."""
    need("systemd-socket-activate")
    refused(host.plain(python(BIND, "80")))
    server = host.popen(
        ["systemd-socket-activate", "--listen=127.0.0.1:80", *AS_NOBODY, *python(ACTIVATED)], stderr=subprocess.DEVNULL
    )
    answered = wait_for(lambda: host.run(python(CONNECT)).out, "an answer")
    assert answered == f"1 65534 {0:016x}\n"
    server.wait(timeout=60)


def test_a_standing_grant_is_for_all_that_its_user_runs(granted: Granted, programs: Path) -> None:
    """Static, a new file, under no_new_privs: nothing is marked. Another user and another port are refused."""
    # /tmp is the machine's own there.
    install = ["install", "-D", "-m", "755", f"/proc/{os.getpid()}/root{programs}/trybind-static", "/run/alice/server"]
    granted.run(install).ok()
    before = ["setpriv", "--no-new-privs"]
    commands = [
        python(BIND, "80"),
        ["/run/alice/server", "tcp", "4", "127.0.0.1", "80"],
        [*before, *python(BIND, "80")],
    ]
    for argv in commands:
        refused(granted.run(as_user(ALICE, argv)))
    granted.ctl("allow", "alice", "tcp:80").ok()
    granted.run(install).ok()
    for argv in commands:
        granted.run(as_user(ALICE, argv)).ok()
        refused(granted.run(as_user(BOB, argv)))
        refused(granted.run(as_user(ALICE, [word.replace("80", "81") for word in argv])))
