"""docs/servers.md, row by row: each server of its tables in a Debian, with and without privbind."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator

import pytest

from ..harness.debian import Built, Debian
from ..harness.host import Result, wait_for
from ..harness.install import ROOT

PACKAGES = {
    "Apache": "apache2", "nginx": "nginx-light", "lighttpd": "lighttpd", "HAProxy": "haproxy", "stunnel": "stunnel4",
    "BIND": "bind9", "Unbound": "unbound", "OpenLDAP": "slapd", "rsync": "rsync", "vsftpd": "vsftpd",
    "Dovecot": "dovecot-imapd", "chrony": "chrony", "dnsmasq": "dnsmasq-base", "ISC dhcpd": "isc-dhcp-server",
    "tftpd-hpa": "tftpd-hpa", "Postfix": "postfix", "Samba": "samba", "OpenSSH": "openssh-server",
}  # fmt: skip

LOG = "/tmp/log"
APACHE = [f"APACHE_{name}=/tmp/apache" for name in ("RUN_DIR", "LOCK_DIR", "LOG_DIR")]
APACHE += ["APACHE_PID_FILE=/tmp/apache/pid", "APACHE_RUN_USER=www-data", "APACHE_RUN_GROUP=www-data"]
ENVIRONMENT = {"Apache": APACHE}

SET_UP = {
    "Apache": "install -d -o www-data /tmp/apache",
    "nginx": """
        chown www-data /var/lib/nginx
        echo 'daemon off; pid /tmp/nginx.pid; error_log stderr;' >/srv/nginx.conf
        echo 'events {} http { server { listen 80; } }' >>/srv/nginx.conf
    """,
    "lighttpd": """printf '%s\\n' 'server.document-root="/srv"' 'server.port=80' >/srv/lighttpd.conf""",
    "HAProxy": """
        printf '%s\\n' defaults 'mode http' 'timeout client 5s' 'timeout connect 5s' 'timeout server 5s' \
            'frontend web' 'bind :80' >/srv/haproxy.cfg
    """,
    "stunnel": """
        openssl req -x509 -newkey rsa:2048 -nodes -keyout /srv/stunnel.key -out /srv/stunnel.pem -subj /CN=x 2>/dev/null
        cat /srv/stunnel.key >>/srv/stunnel.pem
        chown nobody /srv/stunnel.pem
        printf '%s\\n' foreground=yes pid= '[tls]' accept=0.0.0.0:443 connect=127.0.0.1:80 cert=/srv/stunnel.pem \
            >/srv/stunnel.conf
    """,
    "BIND": "install -d -o bind /run/named",
    "Unbound": """
        printf '%s\\n' server: 'interface: 127.0.0.1' 'username: ""' 'chroot: ""' 'pidfile: ""' 'use-syslog: no' \
            >/srv/unbound.conf
    """,
    "OpenLDAP": "install -d -o openldap /run/slapd",
    "rsync": """printf '%s\\n' 'use chroot = no' '[srv]' path=/srv >/srv/rsyncd.conf""",
    "vsftpd": """
        printf '%s\\n' listen=YES anonymous_enable=YES run_as_launching_user=YES background=NO >/srv/vsftpd.conf
        chown ftp /srv/vsftpd.conf
    """,
    "Dovecot": """
        install -d -o nobody /tmp/dovecot
        printf '%s\\n' protocols=imap ssl=no base_dir=/tmp/dovecot state_dir=/tmp/dovecot log_path=/dev/stderr \
            default_internal_user=nobody default_internal_group=nogroup default_login_user=nobody \
            'service imap-login {' chroot= 'inet_listener imaps {' port=0 '}' '}' 'service anvil {' chroot= '}' \
            >/srv/dovecot.conf
    """,
    "chrony, as a server only": """
        printf '%s\\n' local allow 'cmdport 0' 'bindcmdaddress /' 'pidfile /tmp/chrony.pid' >/srv/chrony.conf
    """,
    "ISC dhcpd": """
        echo 'subnet 127.0.0.0 netmask 255.0.0.0 { range 127.0.0.10 127.0.0.20; }' >/srv/dhcpd.conf
        : >/tmp/leases
        chmod 666 /tmp/leases
    """,
    "tftpd-hpa": "mkdir -p /srv/tftp; echo hello >/srv/tftp/hello",
}
"""Shell commands that set up what the last column of the page asks for."""

MORE = {
    "chrony, as it is packaged": ("_chrony", "udp:123", "chronyd -d"),
    "dnsmasq, as a DHCP server": (
        "nobody",
        "domain,udp:67",
        "dnsmasq -k --user= --pid-file= --dhcp-leasefile=/tmp/dnsmasq --dhcp-range=127.0.0.10,127.0.0.20",
    ),
    "ISC dhcpd": ("nobody", "udp:67", "dhcpd -f -d -cf /srv/dhcpd.conf -lf /tmp/leases -pf /tmp/dhcpd.pid lo"),
    "Postfix": ("postfix", "tcp:25", "postfix start-fg"),
    "Samba": ("nobody", "tcp:139,tcp:445", "smbd -F --no-process-group --debug-stdout"),
    "OpenSSH, for all users": ("sshd", "tcp:22", "/usr/sbin/sshd -D -e"),
}
"""How those of the second table were started that end by themselves."""

LISTENS = """
import sys
for what in sys.argv[1].split(","):
    kind, port = what.split(":")
    lines = [line.split() for name in (kind, kind + "6") for line in open("/proc/net/" + name).readlines()[1:]]
    wanted = {"tcp": "0A", "udp": "07"}[kind]
    if not any(line[1].endswith(":%04X" % int(port)) and line[3] == wanted for line in lines):
        sys.exit(1)
"""

ASK_TFTP = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.settimeout(3)
    s.sendto(b"\\0\\1/srv/tftp/hello\\0octet\\0", ("127.0.0.1", 69))
    print(s.recv(100)[4:])
"""

PORTS = {"domain": "tcp:53,udp:53", "domain,tcp:953": "tcp:53,udp:53,tcp:953", "tcp:20-21": "tcp:21"}
"""Where a rule is not itself what is listened on."""


def rows(columns: int) -> dict[str, list[str]]:
    """The table of the page with so many columns, by its first."""
    lines = re.findall(r"^\| (.+) \|$", (ROOT / "docs/servers.md").read_text(), re.MULTILINE)
    found = [[cell.strip("`") for cell in line.split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in found if len(row) == columns and row[0] not in ("server", "---")}


ALONE, NOT_ALONE = rows(6), rows(4)


@pytest.fixture(scope="module")
def debian(built: Built) -> Iterator[Debian]:
    """A Debian with all these servers, and privbind."""
    if built.suite != "bookworm":
        pytest.skip("the page is about Debian 12")
    with contextlib.closing(Debian(built.suite, built.folder, packages=tuple(sorted({*PACKAGES.values()})))) as made:
        made.apt("install", f"/mnt/{built.deb.name}")
        yield made


class Started:
    """A server, as a user, with privbind or without; and what it says."""

    def __init__(self, debian: Debian, server: str, user: str, command: str, rules: str = "") -> None:
        self.debian = debian
        environment = ["env", "HOME=/", *ENVIRONMENT.get(server, [])]
        front = ["setpriv", f"--reuid={user}", f"--regid={debian.sh(f'id -g {user}').out.strip()}", "--init-groups"]
        if rules:
            front = ["privbind", "--set-home", "-u", user, "--allow", rules, "--"]
        words = [*environment, *front, *shlex.split(command)]
        self.process = debian.popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def listens(self, what: str) -> bool:
        """Whether it, or another, listens there."""
        return self.debian.run(["python3", "-I", "-c", LISTENS, what]).status == 0

    def end(self) -> Result:
        """End all that runs there but the first process; what this one said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0)
        self.debian.sh(
            "for p in /proc/[0-9]*; do read -r name <$p/comm || continue; "
            "case $name in sh | cat | env) ;; *) kill -9 ${p#/proc/} 2>/dev/null || : ;; esac; done"
        )
        out, _ = self.process.communicate(timeout=60)
        return Result(self.process.returncode, out, "")


def test_every_server_has_its_package() -> None:
    """And every row one of them."""
    assert {name.partition(",")[0] for name in (*ALONE, *NOT_ALONE)} == PACKAGES.keys()
    assert {*MORE, "tftpd-hpa"} == NOT_ALONE.keys()


@pytest.mark.parametrize("server", [*ALONE, *NOT_ALONE])
def test_the_version(debian: Debian, server: str) -> None:
    """That of the page begins what the package has."""
    package = PACKAGES[server.partition(",")[0]]
    version = debian.run(["dpkg-query", "-W", "-f", "${Version}", package]).ok().out
    assert re.match(rf"(\d+:)?{re.escape((ALONE | NOT_ALONE)[server][0])}\b", version), version


@pytest.mark.parametrize("server", ALONE)
def test_with_the_port_alone(debian: Debian, server: str) -> None:
    """Refused without privbind, listening with it, as its user, without any capability."""
    _, user, rules, command, _ = ALONE[server]
    debian.sh(SET_UP.get(server, ":"))
    ports = PORTS.get(rules, rules)
    control = Started(debian, server, user, command)
    if server == "BIND":  # it goes on without its ports
        assert control.process.stdout is not None
        assert any(line.endswith(" running\n") for line in control.process.stdout)
    else:
        control.process.wait(60)
    assert not control.listens(ports)
    control.end()
    server_ = Started(debian, server, user, command, rules)

    def up() -> bool:
        assert server_.process.poll() is None, server_.end()
        return server_.listens(ports)

    wait_for(up, f"{server} on {ports}")
    owner = debian.sh(f"ps -o user= -C {shlex.split(command)[0]} | sort -u").lines
    assert owner == [user]
    server_.end()


@pytest.mark.parametrize("server", MORE)
def test_with_more_than_the_port(debian: Debian, server: str) -> None:
    """With the port alone it ends, and says what the page says."""
    user, rules, command = MORE[server]
    debian.sh(SET_UP.get(server, ":"))
    started = Started(debian, server, user, command, rules)
    wait_for(lambda: started.process.poll() is not None, f"the end of {server}")
    said = started.end().out
    assert started.process.returncode
    assert server == "Postfix" or NOT_ALONE[server][-1].rpartition("`")[2].rpartition(" ")[2] in said, said


def test_tftpd_binds_and_answers_nobody(debian: Debian) -> None:
    """Each transfer changes its user."""
    debian.sh(SET_UP["tftpd-hpa"])
    started = Started(debian, "tftpd-hpa", "tftp", "in.tftpd -L -u tftp /srv/tftp", "udp:69")
    wait_for(lambda: started.listens("udp:69"), "in.tftpd")
    asked = debian.run(["python3", "-I", "-c", ASK_TFTP])
    assert "TimeoutError" in asked.err, asked
    started.end()


@pytest.mark.parametrize(("log", "works"), [("/dev/stderr", False), ('"|/bin/cat"', True)])
def test_apache_and_the_standard_error_of_root(debian: Debian, log: str, works: bool) -> None:
    """It is a pipe of root's here, as it is under systemd."""
    debian.sh(SET_UP["Apache"])
    started = Started(debian, "Apache", "www-data", f"apache2 -DFOREGROUND -c 'ErrorLog {log}'", "tcp:80")
    if works:
        wait_for(lambda: started.listens("tcp:80"), "Apache")
    else:
        wait_for(lambda: started.process.poll() is not None, "Apache's end")
    found = started.end()
    assert ("could not open error log file /dev/stderr" in found.out) == (not works), found
    assert found.status == (-signal.SIGKILL if works else 1)
