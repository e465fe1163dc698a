"""Servers × mechanisms: which real server works by which mechanism, and in privbind's own words why one cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ..harness.host import Host, python, status_of, wait_for
from ..harness.install import PYTHON, copy_for_all, world_readable_folder
from ..harness.matrix import MATRIX
from ..harness.needs import need

HERE = Path(__file__).parent
SERVERS = HERE.parent / "servers"
COLUMNS = ("bpf", "seccomp", "preload", "ambient")

PASS = "pass"
STATIC = "statically linked"

EXPECTED = {
    "python http.server": (PASS, PASS, PASS, PASS),
    "gunicorn, 2 workers": (PASS, PASS, PASS, PASS),
    "uvicorn, 2 workers": (PASS, PASS, PASS, PASS),
    "nginx, 2 workers": (PASS, PASS, PASS, PASS),
    "node http": (PASS, PASS, PASS, PASS),
    "node cluster": (PASS, PASS, PASS, PASS),
    "java HttpServer": (PASS, PASS, PASS, PASS),
    "dnsmasq": (PASS, PASS, PASS, PASS),
    "busybox httpd, static": (PASS, PASS, STATIC, PASS),
    "go net/http, static": (PASS, PASS, STATIC, PASS),
    "musl server, static": (PASS, PASS, STATIC, PASS),
}
"""What each cell must be: a pass, or words of the reason that privbind gives."""

GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1/hello.txt", timeout=30).read().decode(), end="")
"""
ASK = """
import socket, struct
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + b"\\5hello\\4test\\0" + struct.pack("!2H", 1, 1)
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.settimeout(30)
    s.sendto(query, ("127.0.0.1", 53))
    assert socket.inet_ntoa(s.recv(512)[-4:]) == "192.0.2.7"
with socket.create_connection(("127.0.0.1", 53)) as s:
    s.sendall(struct.pack("!H", len(query)) + query)
    assert socket.inet_ntoa(s.recv(514)[-4:]) == "192.0.2.7"
print("hello")
"""
LISTENING = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
except ConnectionRefusedError:
    raise SystemExit(1)
"""


class Server(NamedTuple):
    """How a server is started, on which port, and how it is asked."""

    argv: list[str]
    port: int = 80
    ask: str = GET


class Kit:
    """What the servers are made of, built once."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """A folder that every user may enter, with the servers' files in it."""
        self.folder = folder
        self.programs = programs
        copy_for_all(SERVERS, folder)
        folder.chmod(0o1777)  # the copy gave it the mode of its source
        self.refused: set[str] = set()
        (folder / "hello.txt").write_text("hello\n")
        self._venv: Path | None = None

    def venv(self) -> Path:
        """A virtual environment with gunicorn and uvicorn in it."""
        if self._venv is None:
            self._venv = self.folder / "venv"
            subprocess.run([PYTHON, "-m", "venv", "--without-pip", self._venv], check=True)
            pip = [sys.executable, "-m", "pip", "--python", str(self._venv / "bin/python3"), "install", "--quiet"]
            subprocess.run([*pip, "gunicorn", "uvicorn"], check=True)
        return self._venv

    def tool(self, name: str) -> str:
        """A program's path; the test is skipped where it is not installed, which CI does not allow."""
        need(name)
        return shutil.which(name) or name

    def python_http_server(self) -> Server:
        """As in the README."""
        return Server([PYTHON, "-m", "http.server", "--directory", str(self.folder), "80"])

    def gunicorn(self) -> Server:
        """A master that binds, and two workers."""
        return Server(
            [f"{self.venv()}/bin/gunicorn", "-w2", "-b0.0.0.0:80", f"--chdir={self.folder}", "wsgi:application"]
        )

    def uvicorn(self) -> Server:
        """A supervisor that binds, and two workers started by multiprocessing."""
        return Server(
            [
                *(f"{self.venv()}/bin/uvicorn", "--workers=2", "--host=0.0.0.0", "--port=80"),
                *(f"--app-dir={self.folder}", "asgi:application"),
            ]
        )

    def nginx(self) -> Server:
        """Its own configuration, master and workers as the account."""
        folder = self.folder
        (folder / "nginx.conf").write_text(
            f"daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
            f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
            f"server {{ listen 80; listen [::]:80; root {folder}; }} }}\n"
        )
        return Server([self.tool("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)])

    def node(self) -> Server:
        """node's own http module."""
        return Server([self.tool("node"), str(self.folder / "serve.js")])

    def node_cluster(self) -> Server:
        """A primary that binds for its workers."""
        return Server([self.tool("node"), str(self.folder / "cluster.js")])

    def java(self) -> Server:
        """The JDK's own HTTP server."""
        if not (self.folder / "Serve.class").exists():
            subprocess.run([self.tool("javac"), "-d", self.folder, self.folder / "Serve.java"], check=True)
        return Server([self.tool("java"), "-cp", str(self.folder), "Serve"])

    def dnsmasq(self) -> Server:
        """Port 53 over UDP and TCP."""
        argv = [
            *(self.tool("dnsmasq"), "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="),
            *("--bind-interfaces", "--listen-address=127.0.0.1", "--address=/hello.test/192.0.2.7"),
            f"--pid-file={self.folder}/dnsmasq.pid",
        ]
        return Server(argv, 53, ASK)

    def busybox(self) -> Server:
        """A static program of Debian's."""
        return Server([self.tool("busybox"), "httpd", "-f", "-p80", "-h", str(self.folder)])

    def go(self) -> Server:
        """A static program by way of Go's own system calls."""
        program = self.folder / "serve-go"
        if not program.exists():
            environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": f"{self.folder}/cache", "GOFLAGS": "-mod=mod"}
            build = [self.tool("go"), "build", "-o", str(program), str(self.folder / "serve.go")]
            subprocess.run(build, check=True, env=environment, cwd=self.folder)
        return Server([str(program)])

    def musl(self) -> Server:
        """A static program with musl."""
        need("musl-gcc")
        return Server([str(self.programs / "serve-musl-static")])


MAKE: dict[str, Callable[[Kit], Server]] = {
    "python http.server": Kit.python_http_server,
    "gunicorn, 2 workers": Kit.gunicorn,
    "uvicorn, 2 workers": Kit.uvicorn,
    "nginx, 2 workers": Kit.nginx,
    "node http": Kit.node,
    "node cluster": Kit.node_cluster,
    "java HttpServer": Kit.java,
    "dnsmasq": Kit.dnsmasq,
    "busybox httpd, static": Kit.busybox,
    "go net/http, static": Kit.go,
    "musl server, static": Kit.musl,
}


@pytest.fixture(scope="module")
def kit(programs: Path) -> Iterator[Kit]:
    """Everything that the servers need."""
    with world_readable_folder() as folder:
        yield Kit(folder, programs)


def outcome(host: Host, server: Server, mechanism: str) -> str:
    """PASS when the server answers as nobody without privilege but ambient's; else what privbind said."""
    options = [f"--via={mechanism}"]
    if mechanism != "ambient":
        options.append(f"--allow={server.port}")
    process = host.start(server.argv, *options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def decided() -> bool:
        return process.poll() is not None or host.run(python(LISTENING, str(server.port))).status == 0

    wait_for(decided, "the server's start or end")
    if process.poll() is not None:
        _, err = process.communicate()
        return str(err).strip()
    assert host.run(python(server.ask)).ok().out == "hello\n"
    capabilities = 1 << 10 if mechanism == "ambient" else 0
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        status = status_of(pid)
        assert status["Uid"].split() == ["65534"] * 4
        assert int(status["CapEff"], 16) == capabilities
    process.terminate()
    process.communicate(timeout=60)
    return PASS


@pytest.mark.parametrize("mechanism", COLUMNS)
@pytest.mark.parametrize("name", EXPECTED)
def test_server(host: Host, kit: Kit, name: str, mechanism: str) -> None:
    """The cell is what the committed table says; without privbind the same server cannot start."""
    server = MAKE[name](kit)
    if name not in kit.refused:
        control = host.plain(server.argv)
        assert control.status != 0
        assert re.search("ermission denied|EACCES|BindException", control.out + control.err), control
        kit.refused.add(name)
    expected = EXPECTED[name][COLUMNS.index(mechanism)]
    found = outcome(host, server, mechanism)
    MATRIX.setdefault(name, {})[mechanism] = PASS if found == PASS else found.removeprefix(f"privbind: {mechanism}: ")
    if expected == PASS:
        assert found == PASS
    else:
        assert expected in found
        assert found.startswith(f"privbind: {mechanism}: ")
        assert len(found.splitlines()) == 1
