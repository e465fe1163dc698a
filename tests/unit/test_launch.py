"""The launch's choice, with mechanisms that only preparing shows not to fit."""

from __future__ import annotations

import pytest

from privbind import launch, mechanisms
from privbind.account import Account
from privbind.errors import NoMechanismError, PrivbindError, UnsupportedError
from privbind.grant.grant import Grant
from privbind.grant.holder import Holder
from privbind.grant.policy import Policy
from privbind.grant.site import Site
from privbind.request import MECHANISMS, Command, Request
from privbind.request.program import Program


class Stop(PrivbindError):
    """The launch got as far as entering."""


class Entered(mechanisms.Prepared):
    def enter(self) -> None:
        raise Stop("entered")


class Fake:
    """A mechanism that fits by probing, or not, and by preparing, or not."""

    def __init__(self, name: str, probes: bool, prepares: bool) -> None:
        self.name, self.probes, self.prepares = name, probes, prepares

    def probe(self, _grant: Grant, _site: Site, _command: Command) -> None:
        if not self.probes:
            raise UnsupportedError(self.name, "seen by probing")

    def prepare(self, _grant: Grant, _holder: Holder, _site: Site, _command: Command) -> mechanisms.Prepared:
        if not self.prepares:
            raise UnsupportedError(self.name, "seen by preparing")
        return Entered()


def request(via: str = "auto") -> Request:
    command = Command(Account(1, 1, ()), (b"true",), Program(b"/bin/true", b"/bin/true", None))
    return Request(command, Grant(Policy(None)), Site(1, 1024), via=via)


def fakes(monkeypatch: pytest.MonkeyPatch, **fits: tuple[bool, bool]) -> None:
    known = {name: Fake(name, *fits.get(name, (False, False))) for name in MECHANISMS}
    monkeypatch.setattr(mechanisms, "load", known.__getitem__)


def run(wanted: Request) -> tuple[list[str], list[str], type[PrivbindError]]:
    """What is told, what is warned of, and how the launch ends."""
    told: list[str] = []
    warned: list[str] = []
    choice = launch.choose(wanted)
    with pytest.raises(PrivbindError) as caught:
        launch.launch(wanted, choice, 0, told.append, warned.append)
    return told, warned, caught.type


def test_auto_goes_on_when_preparing_shows_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, bpf=(True, False), preload=(True, True))
    told, warned, end = run(request())
    assert told[:2] == ["passed over: bpf: seen by preparing", "mechanism: preload (the next that fits)"]
    assert (warned, end) == ([], Stop)


def test_ambient_taken_late_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, bpf=(True, False), ambient=(True, True))
    _, warned, end = run(request())
    assert ["ambient is all that fits" in line for line in warned] == [True]
    assert end is Stop


def test_ambient_that_was_planned_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, ambient=(True, True))
    wanted = request()
    assert len(launch.warnings(wanted, launch.choose(wanted))) == 1
    assert run(wanted)[1:] == ([], Stop)


def test_one_asked_for_by_name_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, bpf=(True, False), preload=(True, True))
    assert run(request("bpf"))[2] is UnsupportedError


def test_none_left_lists_all_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, bpf=(True, False))
    assert run(request())[2] is NoMechanismError
