"""The Python API's public face: its names, signatures and errors are promises; what is refused, in which words."""

from __future__ import annotations

import inspect
import os
import pwd
import subprocess
import sys
from typing import Any

import pytest

import privbind
from privbind import api

from ..harness.install import SOURCE

NAMES = [
    *("Grant", "NoMechanismError", "NotUndoneError", "Policy", "PolicyError", "Ports", "PrivbindError", "Rule"),
    *("Status", "UnsupportedError", "UsageError", "become", "command", "explain", "may_bind"),
]

OPTIONS = [
    *("group=None", "groups=True", "allow=None", "limit=0", "reuse_port=()", "via='auto'", "set_home=False"),
    "no_new_privs=False",
]


def test_public_names() -> None:
    """Each is there, is listed, and comes from the one module that says what is public."""
    assert privbind.__all__ == NAMES == list(api.__all__)
    for name in NAMES:
        assert getattr(privbind, name) is getattr(api, name)
        assert name in dir(privbind)
        assert getattr(privbind, name).__doc__
    with pytest.raises(AttributeError, match=r"module 'privbind' has no attribute 'Becomes'"):
        _ = privbind.Becomes  # type: ignore[attr-defined]


def signature(function: object) -> list[str]:
    """The parameters without their types."""
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    return ["*" * (p.kind == p.KEYWORD_ONLY) + str(p.replace(annotation=p.empty, kind=p.KEYWORD_ONLY)) for p in found]


def test_signatures() -> None:
    """Options are by name only, with the command line's words."""
    assert signature(privbind.become) == ["user", *(f"*{option}" for option in OPTIONS)]
    assert signature(privbind.command) == ["argv", "*user", *(f"*{option}" for option in OPTIONS)]
    assert signature(privbind.may_bind) == ["rule"]
    assert signature(privbind.explain) == ["rule", "*user=None", "*pid=None"]


def test_error_shapes() -> None:
    """What a caller catches, and what is in it."""
    for kind in (privbind.UsageError, privbind.UnsupportedError, privbind.NoMechanismError, privbind.NotUndoneError):
        assert issubclass(kind, privbind.PrivbindError)
    assert not issubclass(privbind.PrivbindError, (OSError, ValueError))
    assert issubclass(privbind.PolicyError, ValueError)
    refusal = privbind.UnsupportedError("bpf", "no cgroup", "mount it")
    assert (refusal.mechanism, refusal.reason, refusal.remedy) == ("bpf", "no cgroup", "mount it")
    assert str(refusal) == "bpf: no cgroup (mount it)"
    none = privbind.NoMechanismError([refusal])
    assert none.refusals == [refusal]
    assert str(none) == "no mechanism fits this request on this host (-v tells why, mechanism by mechanism)"


def test_values() -> None:
    """A grant and a status are values; a status can be made by whoever fakes `become`."""
    grant = privbind.Grant(privbind.Policy.parse(["tcp:80"]), 3, [privbind.Ports(80, 80)])
    assert str(grant) == "tcp:80; at most 3 binds; SO_REUSEPORT on 80"
    status = privbind.Status("www-data", 33, 33, (33,), grant, "bpf")
    assert str(status) == f"www-data may bind {grant} (bpf)"
    assert (status.exact, status.passed_over, status.warnings, status.notes) == (True, (), (), ())
    assert status == privbind.Status("www-data", 33, 33, (33,), grant, "bpf")
    assert str(privbind.Rule("tcp", None, 0, privbind.Ports(80, 81))) == "tcp:80-81"


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"user": "nosuchuser"}, privbind.UsageError, "-u: unknown user 'nosuchuser'"),
    ({"user": ""}, privbind.UsageError, "-u: unknown user ''"),
    ({"user": "no\0body"}, privbind.UsageError, "-u: unknown user 'no\0body'"),
    ({"user": -1}, privbind.UsageError, "-u: unknown user '-1'"),
    ({"user": "root"}, privbind.UsageError, "-u: the command must not run as root "),
    ({"user": 0}, privbind.UsageError, "-u: the command must not run as root "),
    ({"user": 123456}, privbind.UsageError, "-u: uid 123456 has no passwd entry to take a group from"),
    ({"user": 1 << 32}, privbind.UsageError, "'4294967296' is not a whole number from 0 to 4294967295"),
    ({"user": 4294967295, "group": 1}, privbind.UsageError, "no change"),
    ({"group": "nosuchgroup"}, privbind.UsageError, "-g: unknown group 'nosuchgroup'"),
    ({"group": ""}, privbind.UsageError, "-g: unknown group ''"),
    ({"group": -1}, privbind.UsageError, "-g: unknown group '-1'"),
    ({"allow": ""}, privbind.PolicyError, "rule '': it is empty"),
    ({"allow": []}, privbind.PolicyError, "a policy needs a rule"),
    ({"allow": "80,,81"}, privbind.PolicyError, "rule '': it is empty"),
    ({"allow": "sctp:80"}, privbind.PolicyError, "unknown protocol 'sctp' (tcp or udp)"),
    ({"allow": ["tcp:80", "tcp:0"]}, privbind.PolicyError, "rule 'tcp:0': port '0' is not a whole number"),
    ({"allow": "10.0.0.1/8:80"}, privbind.PolicyError, "10.0.0.1/8 has bits set below its prefix"),
    ({"allow": ["80"] * 1001}, privbind.PolicyError, "1001 rules are more than 1000"),
    ({"limit": -1}, privbind.PolicyError, "-n: '-1' is not a whole number from 0 to 4294967295"),
    ({"limit": 1 << 32}, privbind.PolicyError, "-n: '4294967296' is not a whole number from 0 to 4294967295"),
    ({"reuse_port": 0}, privbind.PolicyError, "-r: ports '0': port '0' is not a whole number from 1 to 65535"),
    ({"reuse_port": ""}, privbind.PolicyError, "-r: ports ''"),
    ({"via": "magic"}, privbind.UsageError, "--via: unknown mechanism 'magic' (auto, bpf, seccomp, preload, ambient)"),
    ({"via": ""}, privbind.UsageError, "--via: unknown mechanism ''"),
    ({"user": None}, TypeError, "user: str or int, not NoneType"),
    ({"user": b"nobody"}, TypeError, "user: str or int, not bytes"),
    ({"user": True}, TypeError, "user: str or int, not bool"),
    ({"group": 1.0}, TypeError, "group: str or int, not float"),
    ({"groups": None}, TypeError, "groups: bool, not NoneType"),
    ({"groups": 0}, TypeError, "groups: bool, not int"),
    ({"allow": 80}, TypeError, "allow: str or Rule, not int"),
    ({"allow": [80]}, TypeError, "allow: str or Rule, not int"),
    ({"allow": b"80"}, TypeError, "allow: str or Rule, not int"),
    ({"allow": privbind.Ports(80, 80)}, TypeError, "allow: str or Rule, not Ports"),
    ({"limit": "3"}, TypeError, "limit: int, not str"),
    ({"limit": None}, TypeError, "limit: int, not NoneType"),
    ({"limit": True}, TypeError, "limit: int, not bool"),
    ({"reuse_port": None}, TypeError, "reuse_port: int or str or Ports, not NoneType"),
    ({"reuse_port": [None]}, TypeError, "reuse_port: int or str or Ports, not NoneType"),
    ({"via": None}, TypeError, "via: str, not NoneType"),
    ({"set_home": "yes"}, TypeError, "set_home: bool, not str"),
    ({"no_new_privs": 1}, TypeError, "no_new_privs: bool, not int"),
]


@pytest.mark.parametrize(("given", "kind", "said"), BAD, ids=lambda value: str(value)[:40].replace("\0", "NUL"))
def test_bad_arguments(given: dict[str, Any], kind: type[Exception], said: str) -> None:
    """Refused alike by `become` and `command`, before anything is done; a sentence of the command line's own."""
    before = os.getresuid(), os.getgroups()
    user = given.get("user", "nobody")
    rest = {name: value for name, value in given.items() if name != "user"}
    for attempt in (lambda: privbind.become(user, **rest), lambda: privbind.command(["true"], user=user, **rest)):
        with pytest.raises(kind) as caught:
            attempt()
        assert said in str(caught.value)
    assert (os.getresuid(), os.getgroups()) == before


def test_set_home_needs_a_home() -> None:
    with pytest.raises(privbind.UsageError, match="--set-home: the user has no passwd entry to take a home from"):
        privbind.become(123456, group=1, set_home=True)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> str:
    """As if the command were installed there."""
    monkeypatch.setattr(api, "_launcher", lambda: "/opt/bin/privbind")
    return "/opt/bin/privbind"


COMMANDS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"allow": "tcp:80"}, ["-a", "tcp:80"]),
    ({"allow": ["tcp:80,udp:53", "127.0.0.1:22"]}, ["-a", "tcp:80,udp:53", "-a", "127.0.0.1:22"]),
    ({"allow": privbind.Policy.parse(["tcp:80", "[::1]:22"])}, ["-a", "tcp:80,[::1]:22"]),
    ({"allow": privbind.Rule("udp", None, 0, privbind.Ports(53, 53))}, ["-a", "udp:53"]),
    ({"allow": privbind.Policy(None)}, ["-a", "any reserved port"]),
    ({"limit": 3, "reuse_port": [80, "443,domain", privbind.Ports(1, 2)]},
     ["-n", "3", "-r", "80", "-r", "443,domain", "-r", "1-2"]),
    ({"reuse_port": 80}, ["-r", "80"]),
    ({"group": 0, "groups": False}, ["-g", "0", "-G"]),
    ({"via": "preload", "set_home": True, "no_new_privs": True},
     ["--via", "preload", "--set-home", "--no-new-privs"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), COMMANDS, ids=str)
def test_command(launcher: str, given: dict[str, Any], words: list[str]) -> None:
    """The same request as options, and the program's own words behind them."""
    argv: list[str | bytes] = ["./server", "--port", b"80\xff", "-a"]
    found = privbind.command(argv, user="nobody", **given)
    assert found == [launcher, "-u", "nobody", *words, "--", "./server", "--port", "80\udcff", "-a"]


def test_command_of_a_uid(launcher: str) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    assert privbind.command(["true"], user=uid) == [launcher, "-u", str(uid), "--", "true"]


def test_command_lines_that_are_none(launcher: str) -> None:
    """A string is the mistake that people make."""
    assert launcher
    for text in ("ls -l", b"ls"):
        with pytest.raises(TypeError, match=r"argv: a list of words, not one string \(shlex.split makes one\)"):
            privbind.command(text, user="nobody")  # type: ignore[arg-type]
    with pytest.raises(privbind.UsageError, match="no command given"):
        privbind.command([], user="nobody")
    with pytest.raises(TypeError):
        privbind.command([80], user="nobody")  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [(None, TypeError), (80, TypeError), ("", ValueError), ([], ValueError), ("tcp:any:80", ValueError)],
)
def test_bad_questions(rule: Any, kind: type[Exception]) -> None:
    for ask in (privbind.may_bind, privbind.explain):
        with pytest.raises(kind) as caught:
            ask(rule)
        assert kind is not TypeError or str(caught.value).startswith("rule: str or Rule, not ")


def test_bad_questions_about_others() -> None:
    with pytest.raises(privbind.UsageError, match="unknown user 'nosuchuser'"):
        privbind.explain("tcp:80", user="nosuchuser")
    with pytest.raises(privbind.UsageError, match="there is no process 4194305"):
        privbind.explain("tcp:80", pid=(1 << 22) + 1)
    with pytest.raises(privbind.PolicyError, match="--pid '0' is not a whole number"):
        privbind.explain("tcp:80", pid=0)
    with pytest.raises(TypeError, match="pid: int, not str"):
        privbind.explain("tcp:80", pid="1")  # type: ignore[arg-type]


def test_other_pythons_are_told() -> None:
    """What cannot work there says so, and the package can be imported."""
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); import privbind; sys.implementation.name = 'pypy'\n"
        "try: privbind.become\nexcept ImportError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "privbind.become needs CPython (the privbind command starts programs of any Python)\n"
