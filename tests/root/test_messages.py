"""Wrong command lines as people type them: the whole message of each, and the exit status."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ..harness.host import AS_NOBODY, Host
from ..harness.install import PYTHON, SOURCE, world_readable_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = 200


class Row(NamedTuple):
    """What is typed, what is told, the exit status, and where it is typed (`WHERE`).

    ``{here}`` is the folder that it is typed in, which has the files of `here`.
    """

    typed: str
    told: str
    status: int
    where: str


WHERE = {
    "root": [],
    "user": [*AS_NOBODY],
    "sudo": ["env", "SUDO_USER=alice"],
    "container": ["setpriv", "--bounding-set=-all,+setuid,+setgid", "--inh-caps=-all"],
    "bare container": ["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
    "all open": [],
}
"""Who types it: root, an ordinary user, root by sudo, root of containers that dropped capabilities; port_start 0."""

PAGE = Path(__file__).with_name("messages.txt")

TABLE = [
    Row(typed, told, int(status), where)
    for where, typed, told, status in re.findall(
        r"^([a-z ]+)\$ (.*)\n((?:.*\n)*?)= (\d+)$", PAGE.read_text(), re.MULTILINE
    )
]


@pytest.fixture(scope="module")
def here() -> Iterator[Path]:
    """A folder with what people start: a script and a program, a broken one of each kind."""
    with world_readable_folder() as folder:
        for name, text, mode in (
            ("app.py", "print()\n", 0o644),
            ("app.js", "\n", 0o644),
            ("serve", "#!/bin/sh\n", 0o755),
            ("unmarked", "#!/bin/sh\n", 0o644),
            ("windows.sh", "#!/bin/sh\r\n", 0o755),
            ("moved.py", "#!/opt/venv/bin/python\n", 0o755),
            ("locked/serve", "#!/bin/sh\n", 0o755),
            ("bin/own-node", "#!/bin/sh\n", 0o755),
        ):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(mode)
        (folder / "locked").chmod(0o700)
        yield folder


@pytest.fixture(scope="module")
def hosts(installed: Path) -> Iterator[dict[str, Host]]:
    """One as usual, and one where no port is reserved."""
    usual = Host(installed)
    is_open = Host(installed, "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    yield {"all open": is_open} | {where: usual for where in WHERE if where != "all open"}
    usual.close()
    is_open.close()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.where}: {row.typed}")
def test_what_is_told(hosts: dict[str, Host], here: Path, row: Row) -> None:
    """Whole, on one line or two, of less than 200 columns, and nothing on standard output."""
    name, *words = shlex.split(row.typed.replace("{here}", str(here)))
    command = [*WHERE[row.where], str(hosts[row.where].privbind.removesuffix("privbind") + name), *words]
    path = f"{here}/bin:/usr/bin:/bin" if row.where == "user" else "/usr/bin:/bin"
    found = hosts[row.where].run(command, cwd=here, env={"PATH": path, "LC_ALL": "C.UTF-8"})
    told = [line.removeprefix(f"{name}: ") for line in found.err.splitlines()]
    assert (told, found.status) == (row.told.replace("{here}", str(here)).splitlines(), row.status)
    assert found.out == ""
    assert len(told) <= 2
    assert max((len(line) for line in found.err.splitlines()), default=0) < COLUMNS


def test_there_are_enough() -> None:
    """Eighty at least, all different, of each kind of place."""
    assert len({(row.typed, row.where) for row in TABLE}) == len(TABLE) >= 80
    assert PAGE.read_text().count("\n= ") == len(TABLE) + 1  # with that of its head
    assert {row.where for row in TABLE} == WHERE.keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["-u", "nobody", "--dry-run", "true"], False), (["-u", "nobody", "--alow", "80", "true"], True)],
)
def test_guessing_is_loaded_for_an_error_only(words: list[str], expected: bool) -> None:
    """difflib costs milliseconds."""
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); from privbind.commands.privbind import main; "
        f"main({words!r}, [b'PATH=/usr/bin']); print('difflib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


WARNED = (
    "privbind: warning: HOME is '{}', where nobody may not write (--set-home: HOME, USER, LOGNAME, SHELL of the user)\n"
)


@pytest.mark.parametrize(
    ("home", "options", "warned"),
    [
        ("/root", [], True),
        ("/usr/share", [], True),
        ("/root", ["-q"], False),
        ("/root", ["--set-home"], False),
        ("/root", ["--dry-run", "-q", "--json"], False),
        ("/tmp", [], False),
        ("/nonexistent", [], False),
        ("/etc/passwd", [], False),
        ("", [], False),
    ],
)
def test_a_home_that_is_not_the_users(hosts: dict[str, Host], home: str, options: list[str], warned: bool) -> None:
    """One line where it is a folder in which he may not write; the command is started all the same."""
    host = hosts["root"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": home}
    found = host.run(host.command(["true"], *options, "--allow=tcp:80"), env=environment).ok()
    assert found.err == (WARNED.format(home) if warned else "")


def test_a_user_without_a_passwd_entry_is_not_told_of_an_option_that_needs_one(hosts: dict[str, Host]) -> None:
    """What is to be done about the home is another thing there."""
    host = hosts["root"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/root"}
    found = host.run([host.privbind, "-u", "123456:1", "--allow=tcp:80", "true"], env=environment).ok()
    expected = "HOME is '/root', where uid 123456 may not write (-- env HOME=DIR COMMAND)"
    assert found.err == f"privbind: warning: {expected}\n"


def test_an_ordinary_user_is_not_warned_of_a_home(hosts: dict[str, Host]) -> None:
    """It is his own environment."""
    words = [hosts["user"].privbind, "--allow=8080", "true"]
    assert hosts["user"].plain(words, env={"PATH": "/usr/bin", "HOME": "/root"}).ok().err == ""


def test_a_plan_for_programs(hosts: dict[str, Host]) -> None:
    """--dry-run --json: one object on standard output; warnings also stay on standard error; nothing is started."""
    host = hosts["root"]
    words = host.command(["echo", "\x1b"], "--allow=tcp:80,8080", "-n3", "-r443", "--dry-run", "--json", user="1:33")
    found = host.run(words, env={"PATH": "/usr/bin"}).ok()
    plan = json.loads(found.out)
    warning = "8080 needs no grant: ports from 1024 on are not reserved here, every program may bind them"
    assert found.err == f"privbind: warning: {warning}\n"
    assert plan.pop("mechanism") in ("bpf", "seccomp", "preload")
    assert all(row.keys() == {"mechanism", "reason", "remedy"} for row in plan.pop("passed_over"))
    assert plan == {
        "account": {"user": "daemon", "uid": 1, "gid": 33, "groups": [33]},
        "command": ["echo", "\x1b"],
        "program": "/usr/bin/echo",
        "rules": ["tcp:80", "8080"],
        "limit": 3,
        "reuse_ports": ["443"],
        "reserved_below": 1024,
        "warnings": [warning],
    }


def test_a_plan_of_what_needs_no_launch(hosts: dict[str, Host]) -> None:
    """For an ordinary user who may bind it already."""
    words = [hosts["user"].privbind, "--allow=8080", "--dry-run", "--json", "echo", "started"]
    plan = json.loads(hosts["user"].plain(words, env={"PATH": "/usr/bin"}).ok().out)
    assert (plan["mechanism"], plan["account"]["user"], plan["rules"]) == (None, "nobody", ["8080"])


def test_why_no_mechanism_fits(hosts: dict[str, Host]) -> None:
    """Without -v, what to do in one line; with it, each mechanism's own reason."""
    host = hosts["container"]
    for more, reasons in (([], 0), (["-v"], 4)):
        found = host.run([*WHERE["container"], *host.command(["true"], "--allow=tcp:80", *more)])
        assert found.status == 125
        assert len(found.err.splitlines()) == 2 + reasons
        assert "run as root" not in found.err


def test_a_wrong_line_without_difflib(hosts: dict[str, Host]) -> None:
    """Where Python's standard library is not whole, what failed is told all the same."""
    hide = 'mount -t tmpfs tmpfs /mnt; : > /mnt/difflib.py; mount --bind /mnt/difflib.py $1; shift; exec "$@"'
    place = subprocess.run(
        [PYTHON, "-c", "import difflib; print(difflib.__file__)"], capture_output=True, text=True, check=True
    )
    command = hosts["root"].command(["true"], "--alow=80")
    found = hosts["root"].run(["unshare", "--mount", "sh", "-ec", hide, "sh", place.stdout.strip(), *command])
    assert (found.status, found.err) == (125, "privbind: unknown option --alow (try privbind --help)\n")
