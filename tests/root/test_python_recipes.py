"""The recipes of docs/python.md: its programs, taken from the page and started by root with the real servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness.budget import LONG
from ..harness.host import kill, python, status_of, wait_for
from ..harness.install import SOURCE
from ..harness.machine import (
    ASK_DNS,
    GET,
    LISTENING,
    WWW_DATA,
    Machine,
    as_user,
    children_of,
    denied,
    descendants,
    unprivileged,
)
from ..harness.needs import need
from ..harness.recipes import PROGRAMS, PYTHON_PAGE
from ..harness.systemd import SYSTEMD, System

PYTHON = "/srv/site/venv/bin/python3"
SERVERS = ("hypercorn", "flask", *(("django",) if LONG else ()), "dnslib", "pyftpdlib", "aiosmtpd", "python-daemon")
"""Beside gunicorn and uvicorn, which other tests have as well. Django has thousands of files, and starts like Flask."""

WEB = {
    "gunicorn.conf.py": 3,
    "uvicorn_one.py": 1,
    "uvicorn_workers.py": 3,
    "serve_hypercorn.py": 1,
    "serve_asyncio.py": 1,
    "serve_flask.py": 2,
    "manage.py": 2,
}
"""Programs that serve the page on port 80, and how many processes each has at the least."""

OTHERS = {
    *("first.py", "gunicorn", "django", "serve_dns.py", "serve_ftp.py", "serve_smtp.py", "hello.service"),
    *("serve_notify.py", "children.py", "supervise.py", "friendly.py", "site_server.py", "test_site_server.py"),
}

SETTINGS = """
from django.http import HttpResponse
from django.urls import re_path
SECRET_KEY = "tests"
DEBUG = True
ROOT_URLCONF = "settings"
ALLOWED_HOSTS = ["*"]
urlpatterns = [re_path("", lambda request: HttpResponse("hello\\n"))]
"""

SEND_MAIL = """
import smtplib
with smtplib.SMTP("127.0.0.1", 25, "localhost", timeout=30) as s:
    print(s.sendmail("a@example.org", ["b@example.org"], "Subject: hello\\n\\nhello"))
"""

FETCH = """
import ftplib
with ftplib.FTP("127.0.0.1", timeout=30) as ftp:
    ftp.login()
    print(ftp.makepasv()[1])
with ftplib.FTP("127.0.0.1", timeout=30) as ftp:
    ftp.login()
    ftp.retrlines("RETR hello.txt", print)
"""


def test_every_program_of_the_page_is_run() -> None:
    """None is without a test, and no block without a name."""
    assert set(PROGRAMS) == WEB.keys() | OTHERS
    assert PYTHON_PAGE.count("```") == 2 * len(PROGRAMS)
    text = Path(__file__).read_text()
    assert [name for name in PROGRAMS if f'"{name}"' not in text] == []


@pytest.fixture(scope="session")
def programs_of_the_page(site: Path, venv: Path, wheel: Path) -> Path:
    """/srv/site with the programs, and its environment with the servers and the package."""
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        venv / "bin/python3",
        "install",
        "--quiet",
        "--no-compile",
    ]
    subprocess.run([*pip, *SERVERS], check=True)
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True)
    for name, text in PROGRAMS.items():
        if "." in name:
            (site / name).write_text(text)
            (site / f"not_{name}").write_text(re.sub(r"tcp:(127.0.0.1:)?(80|53|21|25)\b", "tcp:1", text))
    (site / "settings.py").write_text(SETTINGS)
    return site


@pytest.fixture
def machine(installed: Path, programs_of_the_page: Path) -> Iterator[Machine]:
    """A machine of the test's own."""
    made = Machine(installed, programs_of_the_page)
    try:
        yield made
    finally:
        made.close()


def begin(machine: Machine, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start something as root, in /srv/site."""
    return machine.popen(["env", "-C", "/srv/site", *argv], **options)


def command_of(name: str) -> list[str]:
    """How a program of the page is started."""
    by_server = {"gunicorn.conf.py": "gunicorn", "manage.py": "django"}
    return PROGRAMS[by_server[name]].split() if name in by_server else [PYTHON, name]


def refuses(machine: Machine, name: str) -> None:
    """The control: the same program does not get its port when it has not asked for it."""
    argv = [word.replace(name, f"not_{name}") for word in command_of(name)]
    process = begin(machine, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if "ermission" in line:
            break
    else:
        raise AssertionError("".join(said))
    kill(process.pid)
    process.wait()


def serving(machine: Machine, name: str, port: int = 80) -> subprocess.Popen[Any]:
    """Start a program that is to serve, and check all of its processes."""
    process = begin(machine, command_of(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process, port)
    for pid in (process.pid, *descendants(process.pid)):
        unprivileged(pid)
        assert status_of(pid)["Groups"].split() == [str(WWW_DATA)]
    return process


@pytest.mark.parametrize("name", [name for name in WEB if LONG or name != "manage.py"])
def test_web_servers(machine: Machine, name: str) -> None:
    """Refused where the grant is another; the page, by processes of www-data alone, all of them."""
    refuses(machine, name)
    process = serving(machine, name)
    assert machine.page() == "hello\n"
    wait_for(lambda: 1 + len(descendants(process.pid)) >= WEB[name], "all processes")
    for pid in (process.pid, *descendants(process.pid)):
        unprivileged(pid)


def test_gunicorn_reloads(machine: Machine, programs_of_the_page: Path) -> None:
    """A change of the program is served by new workers of the same master; SIGHUP binds nothing anew."""
    folder = programs_of_the_page / "reloaded"
    folder.mkdir(exist_ok=True)
    shutil.copy(programs_of_the_page / "wsgi.py", folder)
    words = [word.replace("--chdir", "--reload --chdir").split() for word in command_of("gunicorn.conf.py")]
    argv = [part for word in words for part in word]
    argv[argv.index("--chdir") + 1] = "/srv/site/reloaded"
    argv[argv.index("--config") + 1] = "/srv/site/gunicorn.conf.py"
    process = begin(machine, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    assert machine.page() == "hello\n"

    def page() -> str:
        return machine.run(python(GET, "hello.txt")).out

    def changed() -> bool:
        """The reloader takes what it sees first for unchanged, so the file is touched until it ends a worker."""
        if first <= {*children_of(process.pid)}:
            (folder / "wsgi.py").touch()
        return page() == "changed\n"

    first = {*children_of(process.pid)}
    (folder / "wsgi.py").write_text((folder / "wsgi.py").read_text().replace("hello", "changed"))
    wait_for(changed, "the changed page")
    before = {*children_of(process.pid)}
    machine.run(["kill", "-HUP", str(process.pid)]).ok()
    wait_for(lambda: len({*children_of(process.pid)} - before) >= 2, "new workers")
    wait_for(lambda: page() == "changed\n", "the page from the new workers")
    unprivileged(process.pid)


def test_dns(machine: Machine) -> None:
    """Over UDP and TCP."""
    refuses(machine, "serve_dns.py")
    serving(machine, "serve_dns.py", 53)
    assert machine.run(python(ASK_DNS)).ok().lines == ["192.0.2.7"] * 2


def test_ftp(machine: Machine) -> None:
    """Its data come from passive ports that are reserved as well."""
    refuses(machine, "serve_ftp.py")
    serving(machine, "serve_ftp.py", 21)
    port, text = machine.run(python(FETCH)).ok().lines
    assert int(port) in range(900, 910)
    assert text == "hello"


def test_smtp(machine: Machine) -> None:
    """The control is a plain bind: aiosmtpd takes five seconds to say that it was refused."""
    denied(machine.run(as_user(WWW_DATA, python("import socket; socket.create_server(('', 25))"))))
    serving(machine, "serve_smtp.py", 25)
    assert machine.run(python(SEND_MAIL)).ok().out == "{}\n"


def test_children(machine: Machine) -> None:
    """Two share a port; a program has the other; nothing else."""
    process = begin(machine, command_of("children.py"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    machine.serves(process, 443)
    listeners = Path(f"/proc/{process.pid}/net/tcp")
    wait_for(lambda: len(re.findall(r":0050 00000000:0000 0A ", listeners.read_text())) == 2, "both servers")
    for pid in (process.pid, *descendants(process.pid)):
        unprivileged(pid)


def test_a_program_that_starts_others(machine: Machine) -> None:
    """It stays root; the server is www-data's."""
    process = begin(machine, command_of("supervise.py"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    (server,) = children_of(process.pid)
    unprivileged(server)
    assert status_of(process.pid)["Uid"].split() == ["0"] * 4
    assert machine.page() == "hello\n"


def test_a_message_that_says_what_to_do(machine: Machine) -> None:
    """Of a user without a grant; and root has nothing to be told."""
    found = machine.run(as_user(WWW_DATA, [PYTHON, "/srv/site/friendly.py"]))
    assert found.status == 1
    assert "www-data) may not bind tcp:80" in found.err.splitlines()[0]
    assert "sudo privbindctl allow www-data tcp:80" in found.err
    assert PROGRAMS["friendly.py"]
    machine.run([PYTHON, "/srv/site/friendly.py"]).ok()


def test_a_few_lines(machine: Machine) -> None:
    """The page's first program, and that it gets neither another port nor root back."""
    more = (
        "import os\nprint(server.getsockname()[1], os.getresuid(), os.getgroups())\n"
        "for attempt in (lambda: socket.create_server(('', 81)), lambda: os.setuid(0)):\n"
        "    try: attempt()\n    except PermissionError: print('refused')\n"
    )
    found = machine.run([PYTHON, "-c", PROGRAMS["first.py"] + more]).ok()
    assert found.lines == [f"80 {(WWW_DATA,) * 3} [{WWW_DATA}]", "refused", "refused"]


def test_a_systemd_service(machine: Machine, programs_of_the_page: Path) -> None:
    """It is ready when it has said so, its main process is the one that was started, and it stops."""
    if not Path(SYSTEMD).exists():
        pytest.skip("not installed: systemd")
    units = {"hello.service": PROGRAMS["hello.service"]}
    system = System(machine, programs_of_the_page, f"privbind-python.{os.getpid()}", units)
    try:
        assert PROGRAMS["serve_notify.py"]
        system.control("start", "hello.service").ok()
        shown = system.control("show", "hello.service", "-p", "MainPID,StatusText,ActiveState,Type").ok().lines
        assert {"Type=notify", "ActiveState=active"} <= {*shown}
        assert machine.page() == "hello\n"
        system.control("restart", "hello.service").ok()
        assert machine.page() == "hello\n"
        system.control("stop", "hello.service").ok()
        assert machine.run(python(LISTENING, "80")).status == 1
    finally:
        system.close()


def test_ones_own_tests(tmp_path: Path) -> None:
    """The page's tests with a fake pass as they stand there, and one fails when the program binds too early."""
    for name in ("site_server.py", "test_site_server.py"):
        (tmp_path / name).write_text(PROGRAMS[name])
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}:{tmp_path}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        "test_site_server.py",
    ]

    def run() -> str:
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout

    assert "2 passed" in run()
    early = (
        'server = socket.create_server(("", 80))\n    privbind.become("www-data", allow="tcp:80")\n    return server\n'
    )
    (tmp_path / "site_server.py").write_text(f"import socket\nimport privbind\ndef listen():\n    {early}")
    assert "2 failed" in run()


OTHERS_DO = """
import os, subprocess, sys
from daemon.daemon import change_process_owner
from gunicorn.util import set_owner_process

def after(change):
    sys.stdout.flush()
    if os.fork() == 0:
        os.setgroups([0, 4, 24])
        change()
        print(os.getresuid(), os.getresgid(), os.getgroups(), flush=True)
        os._exit(0)
    os.wait()

for take in (change_process_owner, set_owner_process):
    for initgroups in (False, True):
        after(lambda: take(33, 33, initgroups))
show = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
shown = [sys.executable, "-c", show]
after(lambda: print(subprocess.run(shown, user=33, capture_output=True, text=True).stdout, end=""))
"""


def test_what_others_do(machine: Machine) -> None:
    """What the page's last table says of python-daemon, gunicorn and subprocess."""
    root, own, groups = "(0, 0, 0)", "(33, 33, 33)", "[0, 4, 24]"
    assert machine.run([PYTHON, "-c", OTHERS_DO]).ok().lines == [
        *[f"{own} {own} {groups}", f"{own} {root} [33]"] * 2,
        f"{own} {root} {groups}",
        f"{root} {root} {groups}",
    ]


def test_importing_makes_no_system_call_but_to_read_it() -> None:
    """Beside what any module's import does: no socket, no process, no change of anything."""
    need("strace")
    code = f"import sys; sys.path.append({str(SOURCE)!r}); import privbind"
    trace = ["strace", "-e", "trace=!%file,%desc,%memory,%signal", "-o", "/dev/stdout"]
    both = [
        subprocess.run([*trace, sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=True)
        for text in (code, code.replace("import privbind", "pass"))
    ]
    ours, bare = ([line.partition("(")[0] for line in done.stdout.splitlines()] for done in both)
    assert bare
    assert sorted(ours) == sorted(bare)
