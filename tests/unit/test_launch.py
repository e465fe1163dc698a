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
    """One that ends the launch when it is entered, and says whether it was undone."""

    notes = ("made ready",)

    def __init__(self) -> None:
        self.undone = False

    def enter(self) -> None:
        raise Stop("entered")

    def cancel(self) -> None:
        self.undone = True


class Fake:
    """A mechanism that fits or does not, as probing and preparing find out alike."""

    def __init__(self, name: str, fits: bool) -> None:
        self.name, self.fits = name, fits
        self.prepared = Entered()
        self.asked: list[str] = []

    def probe(self, _grant: Grant, _site: Site, _command: Command) -> None:
        self.asked.append("probe")
        if not self.fits:
            raise UnsupportedError(self.name, "not here")

    def prepare(self, _grant: Grant, _holder: Holder, _site: Site, _command: Command) -> mechanisms.Prepared:
        self.asked.append("prepare")
        if not self.fits:
            raise UnsupportedError(self.name, "not here")
        return self.prepared


def request(via: str = "auto", rules: str = "") -> Request:
    command = Command(Account(1, 1, ()), (b"true",), Program(b"/bin/true", b"/bin/true", None))
    policy = Policy.parse([rules]) if rules else Policy(None)
    return Request(command, Grant(policy), Site(1, 1024), via=via)


def fakes(monkeypatch: pytest.MonkeyPatch, *fitting: str) -> dict[str, Fake]:
    known = {name: Fake(name, name in fitting) for name in MECHANISMS}
    monkeypatch.setattr(mechanisms, "load", known.__getitem__)
    return known


def test_the_first_that_can_be_made_ready_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked before that: to make it ready is to find out."""
    known = fakes(monkeypatch, "preload", "ambient")
    choice = launch.prepare(request())
    assert (choice.name, choice.prepared) == ("preload", known["preload"].prepared)
    assert [str(refusal) for refusal in choice.passed_over] == ["bpf: not here", "seccomp: not here"]
    assert [known[name].asked for name in MECHANISMS] == [["prepare"], ["prepare"], ["prepare"], []]


def test_a_dry_run_makes_nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    known = fakes(monkeypatch, "preload")
    assert launch.plan(request()).name == "preload"
    assert [known[name].asked for name in MECHANISMS] == [["probe"], ["probe"], ["probe"], []]


def test_a_launch_that_fails_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = fakes(monkeypatch, "bpf")
    told: list[str] = []
    with pytest.raises(Stop):
        launch.start(request(), launch.prepare(request()), 0, told.append)
    assert told[0] == "bpf: made ready"
    assert known["bpf"].prepared.undone


def test_ambient_that_auto_takes_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch, "ambient")
    for wanted, count in ((request(), 1), (request("ambient"), 0)):
        found = launch.warnings(wanted, launch.prepare(wanted))
        assert ["ambient is all that fits" in line for line in found] == [True] * count


def test_one_asked_for_by_name_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    known = fakes(monkeypatch, "preload")
    with pytest.raises(UnsupportedError, match=r"^bpf: not here$"):
        launch.prepare(request("bpf"))
    assert known["preload"].asked == []


def test_none_left_lists_all_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes(monkeypatch)
    with pytest.raises(NoMechanismError) as caught:
        launch.prepare(request())
    assert [refusal.mechanism for refusal in caught.value.refusals] == list(MECHANISMS)


def test_none_is_needed_where_nothing_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    known = fakes(monkeypatch, *MECHANISMS)
    assert launch.prepare(request(rules="8080")).name == "none"
    assert not any(fake.asked for fake in known.values())
