"""The recipes of docs/recipes.md: its code blocks, taken from the page and run where they would be used."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..harness.host import gone, kill, python, status_of, wait_for
from ..harness.machine import (
    ALICE,
    ASK_DNS,
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
from ..harness.recipes import BLOCKS, PAGE, words
from ..harness.systemd import SYSTEMD, System
from ..harness.units import Unit, check_launched, check_refused

RUN_HERE = {
    *("site.service", "site-notify.service", "site.service.d/few.conf", "/etc/sudoers.d/site", "sudo"),
    *("Dockerfile", "docker-plain", "docker-static", "docker-ambient"),
    *("gunicorn", "uvicorn", "node", "pm2-runtime", "pm2", "java", "go", "caddy", "dnsmasq"),
}
RUN_ELSEWHERE = {
    "test_placed_units.py": {"granted.service.d/reload.conf"},
    "../harness/units.py": {"granted.service", "granted@.service", "unit"},
    "test_standing_servers.py": {
        *("allow", "user-node", "user-pm2", "user-pm2-cluster", "user-uvicorn-reload", "user-uvicorn", "user-gunicorn"),
        *("user-go", "user-caddy", "laptop.toml", "load", "shared.toml", "member"),
    },
    "test_standing_podman.py": {"user-podman", "user-podman-host", "subids.toml"},
    "test_standing_systemd.py": {"enable"},
}

NET_BIND_SERVICE = 1 << 10


def without_privbind(argv: list[str]) -> list[str]:
    """The same command line for the negative control: assignments, and what follows --."""
    assignments = [word for word in argv[: argv.index("--")] if re.match(r"[A-Z_]+=", word)]
    return [*assignments, *argv[argv.index("--") + 1 :]]


@pytest.fixture
def machine(installed: Path, site: Path) -> Iterator[Machine]:
    """A machine of the test's own."""
    made = Machine(installed, site)
    try:
        yield made
    finally:
        made.close()


def test_every_block_of_the_page_is_run() -> None:
    """No recipe is without a test, and no block without a name."""
    assert set(BLOCKS) == RUN_HERE.union(*RUN_ELSEWHERE.values())
    assert PAGE.count("```") == 2 * len(BLOCKS)
    for file, names in RUN_ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text()
        assert [name for name in names if f'"{name}"' not in text] == [], file


# Servers ------------------------------------------------------------------------------------------------------------


def check_server(machine: Machine, name: str, page: str = "hello\n") -> subprocess.Popen[Any]:
    """Run a block: without privbind it is refused the port, with it it serves, unprivileged, children included."""
    argv = words(name)
    denied(machine.run(as_user(WWW_DATA, without_privbind(argv))))
    process = machine.popen(["env", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    assert machine.page() == page
    for pid in (process.pid, *children_of(process.pid)):
        unprivileged(pid)
    return process


@pytest.mark.parametrize("name", ["gunicorn", "uvicorn"])
def test_python_server_in_a_virtual_environment(machine: Machine, venv: Path, name: str) -> None:
    """With two workers."""
    assert (venv / "bin" / name).exists()
    process = check_server(machine, name)
    # The first may answer before the second is there.
    wait_for(lambda: len(children_of(process.pid)) >= 2, "two workers")


def test_node(machine: Machine) -> None:
    """node's own http module."""
    need("node")
    check_server(machine, "node")


def test_java(machine: Machine, jar: Path) -> None:
    """A server in a jar."""
    assert jar.exists()
    check_server(machine, "java")


def test_go(machine: Machine, go_server: Path) -> None:
    """A static program; preload refuses it before it starts."""
    assert go_server.exists()
    check_server(machine, "go")
    argv = words("go")
    refused = machine.run([*argv[: argv.index("--")], "--via=preload", *argv[argv.index("--") :]])
    assert refused.status == 125
    assert "statically linked" in refused.err


def test_caddy(machine: Machine) -> None:
    """HTTP on 80, HTTPS on 443, HTTP/3 on UDP 443."""
    need("caddy")
    check_server(machine, "caddy", "hello")
    wait_for(lambda: machine.run(python(LISTENING, "443")).status == 0, "HTTPS")
    ask = (
        "import ssl, urllib.request\n"
        "context = ssl._create_unverified_context()\n"
        "print(urllib.request.urlopen('https://localhost/', timeout=30, context=context).read().decode())"
    )
    assert machine.run(python(ask)).ok().out == "hello\n"
    udp = Path(f"/proc/{machine.pid}/net/udp6").read_text() + Path(f"/proc/{machine.pid}/net/udp").read_text()
    assert ":01BB " in udp


def test_dnsmasq(machine: Machine) -> None:
    """DNS over UDP and TCP."""
    need("dnsmasq")
    argv = words("dnsmasq")
    denied(machine.run(as_user(WWW_DATA, without_privbind(argv))))
    process = machine.popen(argv, stderr=subprocess.DEVNULL)
    machine.serves(process, 53)
    assert machine.run(python(ASK_DNS)).ok().lines == ["192.0.2.7"] * 2
    unprivileged(process.pid)


def pm2_argv(name: str, home: str, mechanism: str) -> list[str]:
    """A pm2 block with a PM2_HOME of the test's own, and the mechanism."""
    argv = [word.replace("PM2_HOME=/srv/site/.pm2", f"PM2_HOME={home}") for word in words(name)]
    return [*argv[: argv.index("--")], f"--via={mechanism}", *argv[argv.index("--") :]]


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload"])
def test_pm2_in_the_foreground(machine: Machine, pm2: Path, tmp_path: Path, mechanism: str) -> None:
    """Cluster mode: the primary binds, two workers serve, all of them www-data's."""
    assert pm2.exists()
    home = f"/srv/site/.pm2-{tmp_path.name}"
    process = machine.popen(
        ["env", *pm2_argv("pm2-runtime", home, mechanism)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    machine.serves(process)
    assert machine.page() == "hello\n"
    workers = wait_for(lambda: (found := children_of(process.pid))[1:] and found, "two workers")
    for pid in (process.pid, *workers):
        unprivileged(pid)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload"])
def test_pm2_as_a_daemon(machine: Machine, pm2: Path, site: Path, tmp_path: Path, mechanism: str) -> None:
    """The daemon has the grant, for what it starts later, too; one started without privbind has none.

    Under preload only for what is started with it: pm2 gives a program the environment of the shell that asked for it.
    """
    assert pm2.exists()
    home = f"/srv/site/.pm2-{tmp_path.name}"
    pm2_as_user = as_user(WWW_DATA, [f"PM2_HOME={home}", "pm2"])
    log = site / Path(home).name / "logs/serve-error.log"
    machine.run([*pm2_as_user, "start", "/srv/site/serve.js"]).ok()
    wait_for(lambda: log.exists() and "EACCES" in log.read_text(), "the server's end without a grant")
    machine.run([*pm2_as_user, "kill"]).ok()

    machine.run(["env", *pm2_argv("pm2", home, mechanism)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).ok()
    try:
        wait_for(lambda: machine.run(python(LISTENING, "80")).status == 0, "the server")
        assert machine.page() == "hello\n"
        daemon = int((site / Path(home).name / "pm2.pid").read_text())
        for pid in (daemon, *children_of(daemon)):
            unprivileged(pid)
        machine.run([*pm2_as_user, "delete", "all"]).ok()
        assert machine.run(python(LISTENING, "80")).status == 1
        log.write_text("")
        machine.run([*pm2_as_user, "start", "/srv/site/serve.js"]).ok()
        if mechanism == "preload":
            wait_for(lambda: "EACCES" in log.read_text(), "the end of a server with the environment of a plain shell")
        else:
            wait_for(lambda: machine.run(python(LISTENING, "80")).status == 0, "the server, started later")
    finally:
        machine.run([*pm2_as_user, "kill"])
    wait_for(lambda: gone(daemon), "the daemon's end")


# sudo ---------------------------------------------------------------------------------------------------------------


SUDOERS = "mount -t tmpfs -o mode=750 tmpfs /etc/sudoers.d; cat > /etc/sudoers.d/site; chmod 440 /etc/sudoers.d/site"


@pytest.fixture
def sudo_machine(machine: Machine, go_server: Path) -> Machine:
    """A machine with the page's sudoers file."""
    need("sudo", "visudo")
    assert go_server.exists()
    machine.run(["sh", "-ec", SUDOERS], input=BLOCKS["/etc/sudoers.d/site"]).ok()
    machine.run(["visudo", "-c", "-f", "/etc/sudoers.d/site"]).ok()
    return machine


def test_sudo_starts_the_one_server(sudo_machine: Machine) -> None:
    """alice's server runs as alice, without capability, on port 80; without sudo it does not start."""
    machine = sudo_machine
    denied(machine.run(as_user(ALICE, words("sudo")[words("sudo").index("--") + 1 :])))
    argv = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", *words("sudo")]
    process = machine.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine.serves(process)
    assert machine.page("") == "hello\n"
    (server,) = [pid for pid in descendants(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "serve\n"]
    unprivileged(server, ALICE)
    kill(server, signal.SIGTERM)
    process.wait(timeout=60)


@pytest.mark.parametrize(
    "line",
    [
        "-u www-data --allow tcp:80 -- /srv/site/serve",
        "-u alice --allow tcp:443 -- /srv/site/serve",
        "-u alice --allow tcp:80 --allow any -- /srv/site/serve",
        "-u alice --allow tcp:80 -- /bin/sh",
        "-u alice --allow tcp:80 -- /srv/site/serve more",
        "-u alice --allow tcp:80 /srv/site/serve",
        "-u alice -- /srv/site/serve",
    ],
)
def test_sudo_refuses_any_other_line(sudo_machine: Machine, line: str) -> None:
    """Another account, port, command or argument is not what sudoers names."""
    argv = ["sudo", "-n", "/usr/local/sbin/privbind", *line.split()]
    found = sudo_machine.run(["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", *argv])
    assert found.status == 1
    assert "a password is required" in found.err


# Containers ---------------------------------------------------------------------------------------------------------


DOCKER_CAPABILITIES = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service"),
    *("net_raw", "sys_chroot", "mknod", "audit_write", "setfcap"),
)
"""Docker's default: DefaultCapabilities in moby's oci/caps/defaults.go."""

CONTAINER = """
for m in $(grep ' cgroup2 ' /proc/mounts | cut -d' ' -f2); do mount -o remount,bind,ro $m; done
exec "$@"
"""


def container(name: str) -> list[str]:
    """What a `docker run` line of the page starts, with the page's Dockerfile, simulated: process 1 and all."""
    added: list[str] = []
    dockerfile = dict(line.split(" ", 1) for line in BLOCKS["Dockerfile"].splitlines())
    entry, arguments = json.loads(dockerfile["ENTRYPOINT"]), json.loads(dockerfile["CMD"])
    argv = words(name)
    assert argv[:3] == ["docker", "run", "--network=host"]
    rest = argv[3:]
    while rest[0].startswith("--"):
        option, _, value = rest.pop(0).partition("=")
        if option == "--cap-add":
            added.append(value.lower())
        else:
            assert option == "--entrypoint"
            entry, arguments = [value], []
    assert rest[0] == "site"
    bounding = "-all," + ",".join(f"+{capability}" for capability in (*DOCKER_CAPABILITIES, *added))
    return [
        *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", CONTAINER, "sh"),
        *("setpriv", "--inh-caps=-all", f"--bounding-set={bounding}", *entry, *(rest[1:] or arguments)),
    ]


def told(argv: list[str]) -> list[str]:
    """The same with privbind's -v."""
    at = argv.index("privbind")
    return [*argv[: at + 1], "-v", *argv[at + 1 :]]


@pytest.mark.parametrize(
    ("name", "mechanism", "capabilities"),
    [("docker-plain", "preload", 0), ("docker-static", "seccomp", 0), ("docker-ambient", "ambient", NET_BIND_SERVICE)],
)
def test_container_in_the_hosts_network(  # noqa: PLR0917  # fixtures
    machine: Machine, venv: Path, go_server: Path, tmp_path: Path, name: str, mechanism: str, capabilities: int
) -> None:
    """The server is process 1, the user's, and the mechanism is the one that the page names."""
    assert venv.exists()
    assert go_server.exists()
    argv = told(container(name))
    denied(machine.run(as_user(WWW_DATA, argv[argv.index("--", argv.index("privbind")) + 1 :])))
    log = tmp_path / "log"
    with log.open("w") as file:
        process = machine.popen(argv, stdout=file, stderr=file)
        machine.serves(process)
    assert f"mechanism: {mechanism} (the first that fits)" in log.read_text()
    assert machine.page() == "hello\n"
    (first,) = children_of(process.pid)
    assert status_of(first)["NSpid"].split()[-1] == "1"
    unprivileged(first, WWW_DATA, capabilities)


def test_container_with_a_network_of_its_own(installed: Path, site: Path, venv: Path) -> None:
    """Where no port is reserved, the server starts with a warning and without any mechanism."""
    assert venv.exists()
    machine = Machine(installed, site, "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        process = machine.popen(told(container("docker-plain")), stderr=subprocess.PIPE)
        machine.serves(process)
        (first,) = children_of(process.pid)
        unprivileged(first)
        assert process.stderr is not None
        story = [process.stderr.readline() for _ in range(4)]
        assert any("warning: no port is reserved here" in line for line in story), story
        assert any("mechanism: none" in line for line in story), story
    finally:
        machine.close()


def test_container_image_with_a_user_line(machine: Machine) -> None:
    """privbind cannot become the user then, and says what is missing."""
    argv = container("docker-plain")
    at = argv.index("privbind")
    found = machine.run([*argv[:at], *as_user(WWW_DATA, argv[at:])])
    assert found.status == 125
    assert "CAP_SETUID and CAP_SETGID are missing" in found.err


# systemd ------------------------------------------------------------------------------------------------------------


def setting(name: str, key: str) -> str:
    """One setting of a unit of the page."""
    found = re.search(rf"^{key}=(.*)$", BLOCKS[name], re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("name", ["site.service", "site-notify.service"])
def test_units_verify(machine: Machine, venv: Path, name: str) -> None:
    """systemd-analyze has nothing to say about them."""
    need("systemd-analyze")
    assert venv.exists()
    verify = f"exec systemd-analyze verify --man=no --generators=no /run/{name}"
    write = f"mount -t tmpfs tmpfs /run; cat > /run/{name}; {verify}"
    found = machine.run(["unshare", "--mount", "sh", "-ec", write], input=BLOCKS[name]).ok()
    assert name not in found.err, found


class Notified(NamedTuple):
    """A message to NOTIFY_SOCKET: who sent it, and its lines."""

    pid: int
    lines: list[str]


def receive(notify: socket.socket) -> Notified:
    """The next message."""
    data, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(12))
    ((_, _, credentials),) = ancillary
    return Notified(struct.unpack("=iII", credentials)[0], data.decode().splitlines())


@pytest.mark.parametrize("mechanism", ["bpf", "seccomp", "preload", "ambient"])
def test_readiness_comes_from_the_main_process(machine: Machine, venv: Path, site: Path, mechanism: str) -> None:
    """Whatever the mechanism, READY=1 has the pid that was started, which NotifyAccess=main asks for."""
    assert venv.exists()
    argv = setting("site-notify.service", "ExecStart").split()
    denied(machine.run(as_user(WWW_DATA, without_privbind(argv))))
    at = argv.index("--")
    options = argv[1:at] if mechanism != "ambient" else ["-u", "www-data"]
    place = site / f"notify-{mechanism}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        notify.settimeout(60)
        notify.bind(str(place))
        place.chmod(0o777)
        process = machine.popen(
            ["env", f"NOTIFY_SOCKET=/srv/site/{place.name}", argv[0], *options, f"--via={mechanism}", *argv[at:]],
            stderr=subprocess.DEVNULL,
        )
        message = receive(notify)
        while "READY=1" not in message.lines:
            message = receive(notify)
        assert message.pid == process.pid
        machine.serves(process)
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def system(machine: Machine, site: Path, venv: Path) -> Iterator[System]:
    """A systemd of the test's own."""
    assert venv.exists()
    if not Path(SYSTEMD).exists():
        pytest.skip("not installed: systemd")
    made = System(machine, site, f"privbind-recipes.{os.getpid()}")
    try:
        yield made
    finally:
        made.close()


NO_DELEGATE = "[Service]\nDelegate=no\n"
UNITS = [
    Unit("site.service", (), "bpf"),
    Unit("site.service", (NO_DELEGATE,), "bpf"),
    Unit("site.service", ("[Service]\nType=simple\n",), "bpf"),
    Unit("site.service", ("[Service]\nKillMode=process\nMemoryMax=500M\nTasksMax=50\n",), "bpf"),
    Unit("site.service", ("[Service]\nProtectControlGroups=yes\n",), "seccomp"),
    Unit("site.service", (BLOCKS["site.service.d/few.conf"],), "preload"),
    Unit("site-notify.service", (), "bpf"),
    Unit("site-notify.service", (NO_DELEGATE,), "bpf"),
    Unit("site-notify.service", (BLOCKS["site.service.d/few.conf"],), "preload"),
]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: " ".join([unit.name, *unit.dropins]).replace("\n", " "))
def test_unit_under_systemd(system: System, site: Path, unit: Unit) -> None:
    """It starts, serves, reloads, restarts and stops; systemd knows the main process; no process or cgroup stays."""
    check_launched(system, site, unit)


def test_systemd_does_not_restart_what_privbind_refused(system: System) -> None:
    """125 is no failure that another try would mend."""
    check_refused(system)
