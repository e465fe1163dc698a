"""Real servers as an ordinary user with a standing grant: started plainly, by the lines of docs/recipes.md.

Each is refused without the grant and, with it, on another port.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..harness.host import Result, python, wait_for
from ..harness.machine import ALICE, BOB, GET, LISTENING, Granted, as_user, children_of, denied, unprivileged
from ..harness.needs import need
from ..harness.recipes import BLOCKS, words

OTHER = 81


def command(name: str, uid: int = ALICE) -> list[str]:
    """A block of the page as a user would type it, in the home; the last line is the process that is started."""
    *before, last = BLOCKS[name].strip().splitlines()
    home = {ALICE: "/home/alice", BOB: "/home/bob"}[uid]
    environment = [f"HOME={home}", "GOCACHE=/srv/site/cache", "GOFLAGS=-mod=mod"]
    return as_user(uid, ["-C", home, *environment, "sh", "-ec", "\n".join([*before, f"exec {last}"])])


def on_other_port(argv: list[str]) -> list[str]:
    """The same server on port 81, by its arguments or its file."""
    moved = [re.sub(r"\b80\b", str(OTHER), word) for word in argv]
    return [re.sub(r"/srv/site/(?=serve\.|Caddyfile)", "/srv/site/other/", word) for word in moved]


def start(machine: Granted, argv: list[str]) -> subprocess.Popen[Any]:
    """Start a server that is to listen on port 80."""
    process = machine.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    return process


def allow(machine: Granted) -> None:
    """What the page has root do."""
    argv = words("allow")
    assert argv[0] == "privbindctl"
    told = machine.ctl(*argv[1:]).ok()
    assert "to undo: privbindctl disallow alice" in told.out


def all_below(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid] + [found for child in children_of(pid) for found in all_below(child)]


@pytest.fixture
def machine(granted: Granted, site: Path) -> Granted:
    """With the servers' files, for port 81 as well."""
    (site / "other").mkdir(exist_ok=True)
    for name in ("serve.js", "serve.go"):
        (site / "other" / name).write_text(re.sub(r"\b80\b", str(OTHER), (site / name).read_text()))
    (site / "other/Caddyfile").write_text(f'{{\n admin off\n}}\nhttp://:{OTHER} {{\n respond "hello"\n}}\n')
    granted.run(as_user(ALICE, ["sh", "-ec", "mkdir /home/alice/app; cp /srv/site/asgi.py /home/alice/app"])).ok()
    return granted


def check(machine: Granted, name: str, page: str = "hello\n") -> subprocess.Popen[Any]:
    """Refused, granted, served by the user's own unprivileged processes; refused on another port."""
    argv = command(name)
    denied(machine.run(argv))
    allow(machine)
    process = start(machine, argv)
    assert machine.page() == page
    for pid in all_below(process.pid):
        unprivileged(pid, ALICE)
    denied(machine.run(on_other_port(argv)))
    return process


def test_node(machine: Granted) -> None:
    """And not another user's, who has no grant."""
    need("node")
    process = check(machine, "user-node")
    machine.run(["kill", str(process.pid)]).ok()
    process.wait(timeout=60)
    denied(machine.run(command("user-node", BOB)))


def test_uvicorn_with_workers(machine: Granted, venv: Path) -> None:
    assert venv.exists()
    process = check(machine, "user-uvicorn")
    wait_for(lambda: len(children_of(process.pid)) >= 2, "two workers")


def test_gunicorn(machine: Granted, venv: Path) -> None:
    assert venv.exists()
    process = check(machine, "user-gunicorn")
    wait_for(lambda: len(children_of(process.pid)) >= 2, "two workers")


def test_uvicorn_reloads(machine: Granted, venv: Path) -> None:
    """A change of the program is served by its next process."""
    assert venv.exists()
    process = check(machine, "user-uvicorn-reload")
    before = {*children_of(process.pid)}
    change = ["sed", "-i", "s/hello/changed/", "/home/alice/app/asgi.py"]
    machine.run(as_user(ALICE, change)).ok()

    def changed() -> bool:
        """The reloader takes what it sees first for unchanged, so the file is touched until it starts another worker.

        A request that the worker had taken when it was told to end may get no answer.
        """
        assert process.poll() is None
        if before <= {*children_of(process.pid)}:
            machine.run(as_user(ALICE, ["touch", "/home/alice/app/asgi.py"])).ok()
        return machine.run(python(GET, "hello.txt")).out == "changed\n"

    wait_for(changed, "the changed page")


def test_go_run(machine: Granted, go_server: Path) -> None:
    """A new program at each start, linked statically."""
    assert go_server.exists()
    # What was compiled already is there for alice as well.
    machine.run(["chmod", "-R", "a+rwX", "/srv/site/cache"]).ok()
    check(machine, "user-go")


def test_caddy(machine: Granted) -> None:
    """HTTP on 80, HTTPS on 443, HTTP/3 on UDP 443."""
    need("caddy")
    process = check(machine, "user-caddy", "hello")
    wait_for(lambda: machine.run(python(LISTENING, "443")).status == 0, "HTTPS")
    udp = Path(f"/proc/{process.pid}/net/udp6").read_text() + Path(f"/proc/{process.pid}/net/udp").read_text()
    assert ":01BB " in udp


@pytest.mark.parametrize(("name", "processes"), [("user-pm2", 1), ("user-pm2-cluster", 2)])
def test_pm2(machine: Granted, pm2: Path, name: str, processes: int) -> None:
    """The daemon is older than the grant; what it starts has it, after a reload and after `pm2 resurrect` as well."""
    assert pm2.exists()

    def run(*arguments: str) -> Result:
        return machine.run(as_user(ALICE, ["-C", "/home/alice", "HOME=/home/alice", "pm2", *arguments])).ok()

    def log() -> str:
        files = (machine.root / "home/alice/.pm2/logs").glob("serve-error*.log")
        return "".join(path.read_text() for path in files)

    def listening() -> bool:
        return machine.run(python(LISTENING, "80")).status == 0

    def servers() -> list[int]:
        daemon = int((machine.root / "home/alice/.pm2/pm2.pid").read_text())
        unprivileged(daemon, ALICE)
        return children_of(daemon)

    def given_up() -> bool:
        """Whether pm2 starts none of them again: while it still does, `pm2 delete` may miss one."""
        return {entry["pm2_env"]["status"] for entry in json.loads(run("jlist").out)} == {"errored"}

    machine.run(command(name)).ok()
    wait_for(given_up, "pm2's giving up a server without a grant")
    assert "EACCES" in log()
    assert not listening()
    run("delete", "all")
    allow(machine)
    machine.run(command(name)).ok()
    wait_for(listening, "the server")
    assert machine.page() == "hello\n"

    def others(than: list[int]) -> list[int]:
        found = servers()
        return found if len(found) >= processes and not {*found} & {*than} else []

    first = wait_for(lambda: others([]), "all processes")
    run("reload", "serve")
    second = wait_for(lambda: others(first), "all processes after the reload")
    for pid in second:
        unprivileged(pid, ALICE)
    wait_for(listening, "the server after the reload")
    run("save")
    run("kill")
    assert not listening()
    run("resurrect")
    wait_for(listening, "the server, resurrected")
    assert machine.page() == "hello\n"

    for path in (machine.root / "home/alice/.pm2/logs").iterdir():
        path.write_text("")
    run("delete", "all")
    machine.run(on_other_port(command(name))).ok()
    wait_for(lambda: "EACCES" in log(), "the end of a server on another port")
    run("kill")


# Whole hosts ----------------------------------------------------------------------------------------------------------


def put(machine: Granted, name: str) -> None:
    """Put a file of the page into grants.d, and do what the page says then."""
    write = 'mkdir -p /etc/privbind/grants.d; cat > "/etc/privbind/grants.d/$1"'
    machine.run(["sh", "-ec", write, "sh", name], input=BLOCKS[name]).ok()
    assert BLOCKS["load"].splitlines() == ["privbindctl check", "privbindctl load"]
    checked = machine.run(["privbindctl", "check"]).ok()
    assert f"({name}:1" in checked.out
    machine.ctl("load").ok()


AT = """
import errno, socket, sys
for text in sys.argv[1:]:
    address, _, port = text.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        try:
            s.bind((address, int(port)))
            print(text)
        except PermissionError:
            pass
"""


def bound(machine: Granted, uid: int, *places: str) -> list[str]:
    """Those of these addresses and ports that a user may bind."""
    return machine.run(as_user(uid, python(AT, *places))).ok().lines


def test_a_developers_laptop(machine: Granted) -> None:
    """Any port on the loopback addresses, for alice alone."""
    places = ("127.0.0.1:80", "127.9.9.9:443", "::1:53", "0.0.0.0:80", "::1:1023", "::ffff:127.0.0.1:25")
    assert bound(machine, ALICE, *places) == []
    put(machine, "laptop.toml")
    assert bound(machine, ALICE, *places) == [place for place in places if place != "0.0.0.0:80"]
    assert bound(machine, BOB, *places) == []


SHARED = """
groupadd --gid=4800 web
for number in $(seq 1 48); do
    echo "user$number:x:$((5000 + number)):$((5000 + number))::/nonexistent:/bin/sh" >> /etc/passwd
    echo "user$number:x:$((5000 + number)):" >> /etc/group
done
for number in $(seq 2 2 48); do gpasswd --add user$number web; done
"""

WHO_MAY = """
import os, socket, sys
port, first, last = map(int, sys.argv[1:])
for uid in range(first, last + 1):
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        try:
            socket.socket().bind(("", port))
        except PermissionError:
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        print(uid)
"""


def test_a_host_that_fifty_users_share(machine: Granted) -> None:
    """The members of the group, and nobody else; a new member with the next load; an address each for two of them."""
    machine.run(["sh", "-ec", SHARED]).ok()
    put(machine, "shared.toml")
    members = [str(5000 + number) for number in range(2, 49, 2)]
    for port, expected in ((80, members), (443, members), (OTHER, [])):
        assert machine.run(python(WHO_MAY, str(port), "5001", "5048")).ok().lines == expected
    places = ("127.0.0.2:25", "127.0.0.3:25", "0.0.0.0:80")
    assert bound(machine, ALICE, *places) == ["127.0.0.2:25"]
    assert bound(machine, BOB, *places) == ["127.0.0.3:25"]
    add, load = BLOCKS["member"].splitlines()
    machine.run(shlex.split(add)).ok()
    changes = machine.ctl("check", "--diff").ok().out
    assert "bob" in changes
    assert "alice" not in changes
    assert load == "privbindctl load"
    machine.ctl("load").ok()
    assert bound(machine, BOB, *places) == ["127.0.0.3:25", "0.0.0.0:80"]
    assert machine.run(["privbindctl", "test", "bob", "tcp:80"]).status == 0
    assert machine.run(["privbindctl", "test", "alice", "tcp:80"]).status == 1
