"""The two halves of a transfer as pure machines: any order of events, hostile values included, keeps their promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.blobs.bitmap import Bitmap
from argosy_common.blobs.frames import Layout
from argosy_common.blobs.pacing import MAX_WINDOW, Budget, Path, Silence
from argosy_common.blobs.receiver import (
    RECEIVER_TRANSITIONS,
    Ask,
    Check,
    Receiver,
    ReceiverState,
    SendAccept,
    SendAck,
)
from argosy_common.blobs.sender import SENDER_TRANSITIONS, Sender, SenderState

CHUNK = 64 * 1024
LAYOUT = Layout(20 * CHUNK - 1, CHUNK)


@pytest.mark.parametrize(
    ("table", "first"), [(SENDER_TRANSITIONS, SenderState.OFFERED), (RECEIVER_TRANSITIONS, ReceiverState.ASKED)]
)
def test_every_state_is_reached_and_ends(table: dict[tuple[object, object], object], first: object) -> None:
    reached = {first}
    while new := {end for (start, _), end in table.items() if start in reached} - reached:
        reached |= new
    assert reached == set(type(first))  # type: ignore[call-overload]  # an Enum class, seen as object
    ended = next(state for state in reached if getattr(state, "name", "") == "ENDED")
    assert not any(start is ended for start, _ in table)
    assert all(any(end is ended for (start, _), end in table.items() if start is state) for state in reached - {ended})


EVENTS = st.one_of(
    st.tuples(st.just("accept"), st.binary(max_size=4)),
    st.tuples(st.just("ack"), st.integers(0, 2**62), st.binary(max_size=8)),
    st.tuples(st.just("ack"), st.integers(0, 25), st.binary(max_size=2)),
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("unsent"), st.integers(0, 19)),
    st.tuples(st.just("reoffer")),
    st.tuples(st.just("wait")),
    st.tuples(st.just("silent")),
)


@given(st.lists(st.tuples(st.floats(0, 30), EVENTS), max_size=60))
def test_a_sender_never_breaks_nor_loses_count_of_what_is_under_way(
    events: list[tuple[float, tuple[object, ...]]],
) -> None:
    budget = Budget(limit=8 * CHUNK)
    path = Path(budget)
    now = 0.0
    sender = Sender(LAYOUT, path, now)
    for seconds, event in events:
        now += seconds
        match event:
            case ("accept", bytes(have)):
                try:
                    Bitmap.load(LAYOUT.count, have)
                    sender.accepted(have, now)
                except ValueError:
                    before = sender.state
                    with pytest.raises(ValueError, match="bitmap"):
                        sender.accepted(have, now)
                    assert sender.state is before
            case ("ack", int(upto), bytes(more)):
                sender.acknowledged(upto, more, now)
            case ("send", int(count)):
                for _ in range(count):
                    chunk = sender.next_chunk(now)
                    assert chunk is None or 0 <= chunk.index < LAYOUT.count
            case ("unsent", int(index)):
                sender.not_sent(index)
            case ("reoffer",):
                sender.reoffer(now)
            case ("wait",):
                sender.wait(now)
            case ("silent",):
                sender.silent(now)
        assert 0 <= path.in_flight == budget.used <= budget.limit
        assert path.in_flight <= MAX_WINDOW + CHUNK
    sender.end()
    assert path.in_flight == budget.used == 0
    assert sender.next_chunk(now) is None


def test_a_sender_sends_all_once_and_its_last_chunk_asks_for_an_acknowledgement() -> None:
    sender = Sender(LAYOUT, Path(), 0.0)
    assert sender.next_chunk(0.0) is None  # not before an acceptance
    sender.accepted(b"\x05", 0.01)
    have, now, sent = {0, 2}, 0.01, []
    while sender.state is SenderState.SENDING:
        now += 0.001
        batch = []
        while (chunk := sender.next_chunk(now)) is not None:
            batch.append(chunk)
        assert batch[-1].ack_now  # whatever ends a burst is acknowledged: nobody waits for a timer
        sent += [chunk.index for chunk in batch]
        have |= set(sent)
        sender.acknowledged(min(set(range(21)) - have), b"", now + 0.001)
    assert sent == [1, *range(3, 20)]
    assert sender.state is SenderState.DELIVERED


def test_the_window_bounds_the_queueing_of_a_slow_path_and_the_memory_of_a_fast_one() -> None:
    slow, fast = Path(goodput=1e6, base_rtt=0.05), Path(goodput=5e8, base_rtt=0.001)
    assert slow.window == pytest.approx(250_000)
    assert fast.window == MAX_WINDOW
    assert Path().may_send(MAX_WINDOW)  # one chunk always may go
    slow.sent(CHUNK)
    assert slow.may_send(CHUNK)
    assert not slow.may_send(MAX_WINDOW)


def test_a_long_way_gets_the_window_that_it_needs() -> None:
    """600 ms of round trip must not hold a fast path down to one chunk a round trip."""
    path = Path()
    path.answered(0.6)
    for _ in range(100):
        path.measured(max(path.window, CHUNK) / 0.6)
    assert path.window == MAX_WINDOW


@given(st.lists(st.tuples(st.integers(0, 19), st.booleans()), max_size=80))
def test_a_receiver_tells_the_truth_in_any_order(chunks: list[tuple[int, bool]]) -> None:
    receiver = Receiver(0.0)
    assert not receiver.lacks(0)
    assert receiver.offered(Bitmap(LAYOUT.count), 1.0) == SendAccept(b"")
    here: set[int] = set()
    for index, ack_now in chunks:
        whole = len(here) == LAYOUT.count
        assert receiver.lacks(index) is (index not in here and not whole)
        in_order = index == min(set(range(21)) - here)
        actions = receiver.arrived(index, 2.0, ack_now=ack_now)
        if whole:
            assert actions == ()
            continue
        here.add(index)
        if len(here) == LAYOUT.count:
            assert actions == (SendAck(LAYOUT.count, b""), Check())
        else:
            assert bool(actions) is (ack_now or not in_order)
    assert receiver.have is not None
    assert {index for index in range(LAYOUT.count) if index in receiver.have} == here


def test_a_receiver_asks_again_until_it_is_answered_and_then_says_what_it_has() -> None:
    receiver = Receiver(0.0)
    asked = [now for now in range(100) if receiver.silent(float(now)) == Ask()]
    assert asked == [6, 18, 42, 90]  # 6 s, doubled each time
    receiver.offered(Bitmap(LAYOUT.count), 100.0)
    receiver.arrived(0, 101.0, ack_now=False)
    assert receiver.silent(103.0) is None
    said = [now for now in range(103, 600) if receiver.silent(float(now)) == SendAccept(b"\x01")]
    assert said[0] <= 108
    receiver.end()
    assert receiver.silent(1e6) is None


def test_a_leftover_that_is_whole_is_checked_without_any_chunk() -> None:
    have = Bitmap(3)
    for index in range(3):
        have.add(index)
    receiver = Receiver(0.0)
    assert receiver.offered(have, 0.0) == Check()
    assert receiver.mismatched(Layout(3 * CHUNK, CHUNK), 0.0) == SendAccept(b"")
    for index in range(3):
        receiver.arrived(index, 1.0, ack_now=True)
    assert receiver.mismatched(Layout(3 * CHUNK, CHUNK), 2.0) is None


def test_patience_grows_with_the_gaps_that_were_met() -> None:
    silence = Silence(0.0)
    assert not silence.over(5.9)
    assert silence.over(6.0)
    silence.heard(20.0)  # the way takes 20 s
    assert not silence.over(99.0)
    assert silence.over(100.0)
    silence.hurry(200.0)
    assert not silence.over(201.0)
    assert silence.over(202.0)
