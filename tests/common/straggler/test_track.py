"""What a run learns of its devices' pace."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from argosy_common.straggler.track import LEAST_MARGIN_S, MARGIN, MEMORY, MOST_EXTRA, Overdue, Track, with_margin

TIMES = st.floats(0.01, 1e4)
OVERDUE = Overdue("train", 3, since=0.0, until=100.0)


def track_of(*times: float) -> Track:
    track = Track()
    for node, seconds in enumerate(times):
        track.answered(node, "train", seconds)
    return track


def test_before_the_first_answer_nothing_is_known() -> None:
    track = Track()
    assert track.deadline("train") is None
    assert track.shortfall("train") == 0.0
    assert track.seconds(1, "train") is None
    assert track.busy(0.0) == {}


def test_a_slow_tenth_does_not_move_the_deadline() -> None:
    fast = [2.0] * 18
    assert track_of(*fast, 20.0, 20.0).deadline("train") == track_of(*fast, 2.0, 2.0).deadline("train") == 3.0


def test_one_that_vanished_does_not_move_it_either() -> None:
    track = track_of(*[2.0] * 18)
    for node in (18, 19):
        track.left(node, OVERDUE)
    assert track.deadline("train") == 3.0


@given(st.lists(TIMES, min_size=1, max_size=30), st.integers(0, 30))
def test_most_of_those_that_answered_were_within_the_deadline(times: list[float], vanished: int) -> None:
    track = track_of(*times)
    for node in range(vanished):
        track.left(100 + node, OVERDUE)
    deadline = track.deadline("train")
    assert deadline is not None
    assert math.isfinite(deadline)
    assert sum(each <= deadline for each in times) >= math.floor(0.8 * len(times))


def test_it_follows_a_fleet_that_slows_down_within_some_rounds() -> None:
    track = track_of(*[1.0] * 10)
    for _ in range(MEMORY):
        for node in range(10):
            track.answered(node, "train", 10.0)
    assert track.deadline("train") == MARGIN * 10.0


def test_short_rounds_leave_a_second_at_least() -> None:
    assert with_margin(0.05) == 0.05 + LEAST_MARGIN_S


def test_kinds_of_work_are_told_apart() -> None:
    track = track_of(2.0)
    track.answered(0, "evaluate", 0.5)
    assert track.seconds(0, "train") == 2.0
    assert track.seconds(0, "evaluate") == 0.5


def test_a_late_answer_frees_its_device_and_says_how_slow_it_is() -> None:
    track = track_of(*[2.0] * 8)
    track.left(8, OVERDUE)
    assert track.busy(50.0) == {8: OVERDUE}
    track.late(8, "train", 20.0)
    assert track.busy(50.0) == {}
    assert track.seconds(8, "train") == 20.0
    assert track.shortfall("train") == 1 / 8


def test_a_device_that_came_back_without_its_work_is_free_and_as_slow_as_before() -> None:
    track = track_of(2.0)
    track.left(0, OVERDUE)
    track.free(0)
    assert track.busy(1.0) == {}
    assert track.seconds(0, "train") == 2.0


def test_a_device_is_not_thought_busy_beyond_its_own_timeout() -> None:
    track = Track()
    track.left(0, OVERDUE)
    assert set(track.busy(99.0)) == {0}
    assert track.busy(101.0) == {}


def test_as_many_more_are_asked_as_are_likely_to_be_late() -> None:
    track = track_of(*[2.0] * 16, *[20.0] * 4)
    assert track.shortfall("train") == 0.25
    everybody_late = Track()
    everybody_late.left(0, OVERDUE)
    everybody_late.answered(1, "train", 1.0)
    assert everybody_late.shortfall("train") == MOST_EXTRA


def test_how_long_a_device_was_not_heard_is_counted_in_phases_of_its_kind() -> None:
    track = Track()
    track.settled("train", [1])
    track.settled("train", [2])
    track.settled("evaluate", [1])
    assert [track.unheard(node, "train") for node in (1, 2, 3)] == [1, 0, 2]
