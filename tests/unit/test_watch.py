"""From the records of the ring to what is said of a bind: pure, with generated events."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privbind.commands import watch as command
from privbind.errors import PrivbindError
from privbind.grant.policy import Policy
from privbind.inspect import watch
from privbind.inspect.rights import Right
from privbind.inspect.watch_events import (
    DECIDED_AFTER_NS,
    HELPER,
    Attempt,
    Done,
    Outcome,
    Tracker,
    judge,
    parse,
)
from privbind.inspect.watch_program import ASKED, BOUND
from privbind.linux import journal, ring
from privbind.standing.resolve import UID, Key

from ..harness.policies import packed

LATER = DECIDED_AFTER_NS + 1


def attempt(tid: int = 7, time_ns: int = 0, port: int = 80, **more: Any) -> Attempt:
    usual = {"pid": tid, "uid": 1, "gid": 1, "netns": 5, "in_first": True, "cgroup": 9, "protocol": 6}
    found = {**usual, "address": packed("127.0.0.1"), "name": b"server", **more}
    return Attempt(time_ns=time_ns, tid=tid, port=port, **found)


def outcomes(tracker: Tracker, *events: Attempt | Done) -> list[tuple[int, bool | None]]:
    return [(outcome.attempt.tid, outcome.bound) for event in events for outcome in tracker.tell(event)]


def test_records() -> None:
    """Both kinds, to the byte."""
    thread = 11 << 32 | 12
    address = packed("10.0.0.1").ljust(16, b"\0")
    data = ASKED.pack(1, thread, 34 << 32 | 33, 5, 9, 80, 17, 4, 1, address, b"name\0".ljust(16, b"x"))
    found = parse(data)
    assert found == attempt(12, 1, pid=11, uid=33, gid=34, protocol=17, address=packed("10.0.0.1"), name=b"name")
    assert parse(BOUND.pack(2, thread, 80, 0)) == Done(2, 12, 80)
    assert ASKED.size != BOUND.size


def test_bound_refused_and_corrected() -> None:
    """A bind that is done late takes back what was said, once."""
    tracker = Tracker()
    assert outcomes(tracker, attempt(1), Done(1, 1, 80)) == [(1, True)]
    assert outcomes(tracker, attempt(2)) == []
    assert list(tracker.decide(DECIDED_AFTER_NS - 1)) == []
    (decided,) = tracker.decide(LATER)
    assert (decided.attempt.tid, decided.bound, decided.corrects) == (2, False, 0)
    (corrected,) = tracker.tell(Done(LATER + 1, 2, 80))
    assert (corrected.bound, corrected.corrects) == (True, decided.number)
    assert list(tracker.tell(Done(LATER + 2, 2, 80))) == []
    (again,) = [*tracker.tell(attempt(3, LATER)), *tracker.decide(3 * LATER)]
    tracker.events_were_lost(3 * LATER, ends=False)
    assert not again.bound
    assert list(tracker.tell(Done(4 * LATER, 3, 80))) == []  # it may be that of a bind whose beginning was lost


def test_refusals_take_no_more_memory_however_many() -> None:
    """Each in a thread of its own: the latest can be corrected, the first ones not any more."""
    tracker = Tracker()
    for tid in range(70_000):
        list(tracker.tell(attempt(tid, tid)))
    assert len(list(tracker.decide(LATER + 70_000))) == 70_000
    assert len(tracker._decided) == 65_536
    assert outcomes(tracker, Done(LATER * 2, 69_999, 80)) == [(69_999, True)]
    assert outcomes(tracker, Done(LATER * 2, 0, 80)) == []


def test_a_done_bind_that_was_not_asked_for_is_counted() -> None:
    """Its event was lost, or whoever did it has hidden the asking. Others are told, and not counted."""
    tracker = Tracker()
    assert outcomes(tracker, attempt(1), Done(1, 1, 80), Done(2, 1, 80), attempt(1, 3), Done(4, 1, 81)) == [(1, True)]
    assert tracker.unasked == 2
    list(tracker.decide(LATER + 3))
    assert outcomes(tracker, Done(LATER + 4, 1, 80)) == [(1, True)]
    assert tracker.unasked == 2


def test_the_next_bind_of_a_thread_ends_the_one_before() -> None:
    tracker = Tracker()
    assert outcomes(tracker, attempt(1, 0), attempt(1, 5, port=81), Done(6, 1, 81)) == [(1, False), (1, True)]


def test_a_lost_end_is_not_taken_for_a_refusal() -> None:
    tracker = Tracker()
    list(tracker.tell(attempt(1, 10)))
    tracker.events_were_lost(20, ends=True)
    list(tracker.tell(attempt(2, 30)))
    assert [(one.attempt.tid, one.bound) for one in tracker.decide(LATER + 40)] == [(1, None), (2, False)]


def test_what_a_helper_does_is_the_commands() -> None:
    """preload: the command was refused the same bind before; it is told of once, as done for it."""
    tracker = Tracker()
    asking, other = attempt(1, 1), attempt(3, 1, port=81)
    helper = attempt(2, 2, name=HELPER, uid=65533)
    found = [one for event in (asking, other, helper, Done(3, 2, 80)) for one in tracker.tell(event, event is helper)]
    assert [(one.attempt, one.command, one.by_helper, one.bound) for one in found] == [(helper, asking, True, True)]
    assert [one.attempt for one in tracker.decide(LATER + 3)] == [other]


def test_a_name_alone_makes_no_helper() -> None:
    """Who calls itself one takes no bind from others."""
    tracker = Tracker()
    events = attempt(1, 1), attempt(2, 2, name=HELPER)
    assert outcomes(tracker, *events) == []
    assert [(one.attempt, one.command, one.by_helper) for one in tracker.decide(LATER + 2)] == [
        (event, None, False) for event in events
    ]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Attempt | Done], dict[tuple[int, int], bool], int]:
    """What the ring holds when some threads bind and some records are lost; what was seen to be done; how many are."""
    events: list[Attempt | Done] = []
    seen: dict[tuple[int, int], bool] = {}
    lost = time_ns = 0
    for _ in range(draw(st.integers(0, 30))):
        tid, port = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        asked_lost, bound = draw(st.booleans()), draw(st.booleans())
        time_ns += draw(st.sampled_from([1, DECIDED_AFTER_NS // 2]))
        if asked_lost:
            lost += 1
        else:
            events.append(attempt(tid, time_ns, port))
            seen[tid, time_ns] = bound
        if bound:
            events.append(Done(time_ns, tid, port))
    return events, seen, lost


@given(histories())
def test_each_bind_once_or_lost(history: tuple[list[Attempt | Done], dict[tuple[int, int], bool], int]) -> None:
    """Whatever is lost: one outcome for each bind that was seen to be asked for, and the right one."""
    events, seen, _ = history
    tracker = Tracker()
    found = [outcome for event in events for outcome in tracker.tell(event)]
    found += tracker.decide(1 << 62)
    assert tracker.undecided == 0
    told: dict[tuple[int, int], bool | None] = {}
    for outcome in found:
        key = outcome.attempt.tid, outcome.attempt.time_ns
        assert key not in told
        told[key] = outcome.bound
    # An end whose beginning was lost can only be taken for that of an open bind of the same thread and port.
    assert told.keys() == seen.keys()
    assert all(told[key] for key, bound in seen.items() if bound)
    assert len({outcome.number for outcome in found}) == len(found)


def a_right(rules: str, **more: Any) -> Right:
    usual = {"kind": "standing", "mechanism": "bpf", "source": "f.toml:1", "holder": "alice", "key": Key(UID, 1)}
    return Right(**{**usual, "netns": 0, **more}, policy=Policy.parse([rules]))


OUR = a_right("tcp:80")
USED_UP = a_right("tcp:80", key=None, kind="placed", limit=1, left=0)


@pytest.mark.parametrize(
    ("bound", "rights", "capable", "verdict", "why"),
    [
        (True, (OUR,), False, "bound", ""),
        (True, (USED_UP,), False, "bound", ""),
        (True, (a_right("tcp:81"),), True, "bound-by-none-of-ours", ""),
        (True, None, None, "bound-by-unknown", ""),
        (False, (OUR,), False, "failed", ""),
        (False, (), True, "failed", ""),
        (False, (), False, "refused", ""),
        (False, (USED_UP,), False, "refused", "limit"),
        (False, (a_right("tcp:81"),), False, "refused", "port"),
        (False, (a_right("udp:80"), a_right("tcp:81")), None, "refused", "protocol"),
        (False, (a_right("tcp:80", key=Key(UID, 2)), a_right("tcp:81")), False, "refused", "user"),
        (False, (a_right("tcp:443", key=Key(UID, 2)), a_right("tcp:81")), False, "refused", "port"),
        (False, None, False, "not-bound", ""),
        (None, (OUR,), False, "not-bound", ""),
    ],
)
def test_verdicts(
    bound: bool | None, rights: tuple[Right, ...] | None, capable: bool | None, verdict: str, why: str
) -> None:
    found = judge(Outcome(1, attempt(), bound), rights, capable)
    assert (found.verdict, found.why) == (verdict, why)


def test_a_helper_that_is_gone_had_a_grant() -> None:
    """It ends with the last bind of its limit."""
    assert judge(Outcome(1, attempt(), True, by_helper=True), None, None).verdict == "bound"


def test_root_that_is_gone_is_not_called_refused() -> None:
    """It may have held the capability."""
    assert judge(Outcome(1, attempt(uid=0), False), (), None).verdict == "not-bound"


ROW = {
    "TIME": "12:34:56",
    "VERDICT": "refused",
    "BIND": "tcp:[2001:db8:1234:5678:9abc:def0:1234:5678]:443",
    "PID": "4194304",
    "USER": "a-very-long-user-name",
    "PROGRAM": "/opt/somewhere/deep/in/the/tree/bin/\x1b[31mserver\n",
    "BY": "standing grant for alice (uid 4001) (/etc/privbind/grants.d/alice.toml:12)",
}


@given(st.integers(1, 400))
@settings(max_examples=100)
def test_a_row_fits(columns: int) -> None:
    """From 20 columns on; one line of printable characters, its colours not counted."""
    plain = command.table_row(ROW, columns)
    assert len(plain) <= max(columns, 20)
    assert plain.isprintable()
    coloured = command.table_row(ROW, columns, "31")
    assert re.sub(r"\x1b\[\d*m", "", coloured) == plain


def test_narrow_and_wide() -> None:
    """The verdict and what was bound come first; with room nothing is left out."""
    narrow = command.table_row(ROW, 40)
    assert narrow.startswith("refused tcp:[2001:db8:1234:")
    assert len(narrow) <= 40
    wide = command.table_row(ROW, 300)
    assert all(text in wide for text in (ROW["TIME"], ROW["BIND"], ROW["PID"], ROW["BY"], "server\\x0a"))


def test_entries_of_the_journal() -> None:
    """The two forms of a field: a line, or a length of 64 bits where there is a line break."""
    data = journal.entry([("MESSAGE", "one"), ("PRIVBIND_NAME", "two\nlines"), ("PRIVBIND_UNIT", "\udc80")])
    assert data == b"MESSAGE=one\nPRIVBIND_NAME\n\x09\0\0\0\0\0\0\0two\nlines\nPRIVBIND_UNIT=\\udc80\n"
    reader = io.BytesIO(data)
    assert list(fields(reader)) == [
        (b"MESSAGE", b"one"),
        (b"PRIVBIND_NAME", b"two\nlines"),
        (b"PRIVBIND_UNIT", b"\\udc80"),
    ]


def test_an_entry_fits_a_datagram_whatever_others_are_called() -> None:
    """A value of any length is cut, so that nobody can end the writing of the journal."""
    data = journal.entry([("MESSAGE", "x" * 4096), ("PRIVBIND_NAME", "\udc80" * 1_000_000), ("PRIVBIND_UNIT", "u")])
    message, name, unit = fields(io.BytesIO(data))
    assert message == (b"MESSAGE", b"x" * 4096)
    assert name[1].endswith(b"\\udc80\xe2\x80\xa6")
    assert unit == (b"PRIVBIND_UNIT", b"u")
    assert len(data) < 30_000


def fields(reader: io.BytesIO) -> Iterator[tuple[bytes, bytes]]:
    while line := reader.readline():
        name, equals, value = line.rstrip(b"\n").partition(b"=")
        if equals:
            yield name, value
        else:
            size = int.from_bytes(reader.read(8), "little")
            yield name, reader.read(size)
            assert reader.read(1) == b"\n"


SIZE = 4096


@pytest.mark.parametrize("start", [0, SIZE - 8, 5 * SIZE + 40])
def test_records_of_a_ring(start: int) -> None:
    """Across the end, too; what is discarded is passed over, and nothing behind what is still being written."""
    written = [(5, 0, b"first"), (8, 1 << 30, b"nothing."), (3, 0, b"2nd"), (4, 1 << 31, b"busy"), (4, 0, b"late")]
    memory = bytearray(2 * SIZE)
    place = start
    for length, bits, data in written:
        entry = (length | bits).to_bytes(4, "little") + bytes(4) + data
        for offset, byte in enumerate(entry):
            for copy in (0, SIZE):
                memory[(place + offset) % SIZE + copy] = byte
        place += 8 + (length + 7) // 8 * 8
    reader = object.__new__(ring.Ring)
    reader._size, reader._place = SIZE, start
    reader._consumed = bytearray(8)  # type: ignore[assignment]
    reader._data = bytearray(place.to_bytes(8, "little")).ljust(ring._PAGE, b"\0") + memory  # type: ignore[assignment]
    end = reader.ready()
    assert [bytes(data) for data in reader.records(end)] == [b"first", b"2nd"]
    assert int.from_bytes(reader._consumed, "little") == end == start + 16 + 16 + 16
    assert list(reader.records(reader.ready())) == []


def test_a_kernel_without_ring_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, with the reason and the version that has them."""

    class Place:
        fd = -1
        path = "/x"
        closed = False

        def close(self) -> None:
            self.closed = True

    class Target:
        cgroup = Place()

    def no_such_map(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(watch, "_check_privileges", lambda: None)
    monkeypatch.setattr("privbind.standing.load.Target.open", lambda _: Target)
    monkeypatch.setattr("privbind.linux.bpf.create_ring", no_such_map)
    with pytest.raises(PrivbindError, match=r"'/x': the kernel has no BPF ring buffers, .* \(Linux 5.8 has both\)"):
        watch.Watch("/x")
    assert Target.cgroup.closed


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decided goes by the time since boot; what is told is by the clock as it is then."""
    clock = [1_000_000_000_000]
    monkeypatch.setattr(watch, "time_ns", lambda: clock[0])
    monkeypatch.setattr(watch, "clock_gettime_ns", lambda _: 500)
    seen = watch._Batch(None, None)._offset  # type: ignore[arg-type]
    clock[0] -= 3_600_000_000_000
    assert watch._Batch(None, None)._offset == seen - 3_600_000_000_000  # type: ignore[arg-type]
    tracker = Tracker()
    assert outcomes(tracker, attempt(1, 10), Done(11, 1, 80)) == [(1, True)]
