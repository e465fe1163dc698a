"""Real programs, unmodified, on reserved ports as nobody."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..harness.cases import MECHANISMS
from ..harness.host import Host, python, status_of, wait_for
from ..harness.install import PYTHON
from ..harness.needs import need
from ..harness.pythons import pythons, reachable

pytestmark = pytest.mark.parametrize("mechanism", MECHANISMS)

GET = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/hello.txt", timeout=30).read().decode(), end="")
"""
LISTENING = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
except ConnectionRefusedError:
    raise SystemExit(1)
"""


@pytest.fixture
def site(folder: Path) -> Path:
    """A folder with a page in it."""
    (folder / "hello.txt").write_text("hello\n")
    return folder


def serves(host: Host, process: subprocess.Popen[Any], port: int = 80) -> None:
    """Check that a server on this port answers with the page, and that nobody runs it."""

    def listening() -> bool:
        assert process.poll() is None, process.communicate()
        return host.run(python(LISTENING, str(port))).status == 0

    wait_for(listening, f"a server on port {port}")
    assert host.run(python(GET, str(port))).ok().out == "hello\n"
    status = status_of(process.pid)
    assert status["Uid"].split() == ["65534"] * 4
    assert int(status["CapEff"], 16) == 0


def refuses(host: Host, argv: list[str], **options: Any) -> None:
    """The control: the same server as nobody without privbind does not start."""
    found = host.plain(argv, **options)
    assert found.status != 0
    assert "ermission denied" in found.out + found.err or "EACCES" in found.out + found.err, found


def test_python_http_server(host: Host, site: Path, mechanism: str) -> None:
    """python3 -m http.server 80, as in the README."""
    argv = [PYTHON, "-m", "http.server", "80"]
    refuses(host, argv, cwd=site)
    process = host.start(argv, f"--via={mechanism}", "--allow=tcp:80", cwd=site, stderr=subprocess.DEVNULL)
    serves(host, process)


def test_python_http_server_in_a_virtual_environment(host: Host, site: Path, mechanism: str) -> None:
    """With the environment's interpreter, found in PATH."""
    venv = site / "venv"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", venv], check=True)
    command = host.command(["python3", "-m", "http.server", "80"], f"--via={mechanism}", "--allow=tcp:80")
    process = host.popen(["env", f"PATH={venv}/bin:/usr/bin:/bin", *command], cwd=site, stderr=subprocess.DEVNULL)
    serves(host, process)
    assert Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0] == b"python3"


CHILD = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=80)"


@pytest.mark.parametrize(
    "how", ["close_fds=True", "close_fds=False", "start_new_session=True", "close_fds=True, env=LIBRARIES"]
)
@pytest.mark.parametrize("interpreter", pythons(), ids=lambda path: path.name)
def test_python_http_server_under_subprocess(
    host: Host, site: Path, mechanism: str, interpreter: Path, how: str
) -> None:
    """subprocess closes every descriptor that it knows of in the child, one way or another on each Python.

    Only a child that gets another environment does not inherit preload's grant.
    """
    stops = how.endswith("LIBRARIES") and mechanism == "preload"
    parent = (
        "import signal, subprocess, sys\n"
        "LIBRARIES = {'LD_LIBRARY_PATH': '/mnt/lib'}\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"process = subprocess.Popen([sys.executable, '-c', {CHILD!r}], {how})\n"
        "try: sys.exit(process.wait())\n"
        "finally: process.kill()"
    )
    before, program = reachable(interpreter)
    command = host.command([program, "-I", "-c", parent], f"--via={mechanism}", "--allow=tcp:80")
    process = host.popen([*before, *command], cwd=site, stderr=subprocess.PIPE)
    if stops:
        _, err = process.communicate(timeout=60)
        assert "PermissionError: [Errno 13]" in err
        return
    serves(host, process)
    process.terminate()
    process.wait()


def test_nginx(host: Host, site: Path, mechanism: str) -> None:
    """Master and workers as nobody, with a configuration of its own."""
    need("nginx")
    configuration = site / "nginx.conf"
    configuration.write_text(
        f"daemon off; worker_processes 2; pid {site}/pid; error_log stderr;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {site}/b; proxy_temp_path {site}/p;\n"
        f"fastcgi_temp_path {site}/f; uwsgi_temp_path {site}/u; scgi_temp_path {site}/s;\n"
        f"server {{ listen 80; listen [::]:80; root {site}; }} }}\n"
    )
    argv = [shutil.which("nginx") or "nginx", "-c", str(configuration), "-p", str(site)]
    refuses(host, argv)
    process = host.start(argv, f"--via={mechanism}", "--allow=tcp:80", stderr=subprocess.DEVNULL)
    serves(host, process)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    # The first may answer before the second is there.
    children = wait_for(lambda: (found := listed.read_text().split())[1:] and found, "two workers")
    assert len(children) == 2
    for child in children:
        assert status_of(int(child))["Uid"].split() == ["65534"] * 4


NODE = """
require("http").createServer((request, response) => response.end("hello\\n")).listen(80, "127.0.0.1");
"""


def test_node_http_server(host: Host, folder: Path, mechanism: str) -> None:
    """node's own http module, through libuv."""
    need("node")
    program = folder / "server.js"
    program.write_text(NODE)
    argv = [shutil.which("node") or "node", str(program)]
    refuses(host, argv)
    process = host.start(argv, f"--via={mechanism}", "--allow=tcp:80")
    serves(host, process)


ASK_DNS = """
import socket, struct, sys
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + b"\\5hello\\4test\\0" + struct.pack("!2H", 1, 1)
if sys.argv[1] == "udp":
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.settimeout(30)
        s.sendto(query, ("127.0.0.1", 53))
        answer = s.recv(512)
else:
    with socket.create_connection(("127.0.0.1", 53)) as s:
        s.sendall(struct.pack("!H", len(query)) + query)
        answer = s.recv(514)[2:]
print(socket.inet_ntoa(answer[-4:]))
"""


def test_dnsmasq(host: Host, folder: Path, mechanism: str) -> None:
    """Port 53 over UDP and TCP."""
    need("dnsmasq")
    argv = [
        shutil.which("dnsmasq") or "dnsmasq",
        *("--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user="),
        *("--listen-address=127.0.0.1", "--address=/hello.test/192.0.2.7", f"--pid-file={folder}/pid"),
    ]
    refuses(host, argv)
    process = host.start(argv, f"--via={mechanism}", "--allow=domain", stderr=subprocess.DEVNULL)
    wait_for(lambda: process.poll() is not None or host.run(python(LISTENING, "53")).status == 0, "dnsmasq on port 53")
    assert process.poll() is None
    for protocol in ("udp", "tcp"):
        assert host.run(python(ASK_DNS, protocol)).ok().out == "192.0.2.7\n"
    assert status_of(process.pid)["Uid"].split() == ["65534"] * 4
