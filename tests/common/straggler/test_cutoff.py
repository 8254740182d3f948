"""When a phase is over: each row of the table, and what must hold whatever happens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.straggler.cutoff import Cutoff, How, Rule


def rule(quorum: int = 3, enough: int = 5, deadline: float | None = 10.0, heard_until: float = 0.0) -> Rule:
    return Rule(quorum, enough, deadline, 100.0, heard_until)


def alone(count: int) -> dict[int, int]:
    return {node: node for node in range(count)}


def answered(cutoff: Cutoff, *nodes: int, at: float = 1.0) -> Cutoff:
    for node in nodes:
        cutoff.count(node, at)
    return cutoff


def test_all_have_answered() -> None:
    cutoff = answered(Cutoff(rule(), alone(5)), 0, 1, 2, 3)
    assert cutoff.verdict(2.0) is None
    assert answered(cutoff, 4).verdict(2.0) is How.ALL


def test_who_failed_or_went_away_is_not_waited_for() -> None:
    cutoff = answered(Cutoff(rule(), alone(5)), 0, 1)
    for node in (2, 3, 4):
        cutoff.give_up(node)
    assert cutoff.verdict(2.0) is How.ALL


def test_one_that_was_given_up_may_count_after_all() -> None:
    cutoff = Cutoff(rule(), alone(5))
    cutoff.give_up(2)
    assert answered(cutoff, 2).answers == 1


def test_as_many_as_are_enough_end_it_at_once() -> None:
    cutoff = answered(Cutoff(rule(enough=4), alone(6)), 0, 1, 2)
    assert cutoff.verdict(1.0) is None
    assert answered(cutoff, 5).verdict(1.0) is How.ENOUGH


def test_the_deadline_ends_it_only_with_a_quorum() -> None:
    cutoff = answered(Cutoff(rule(), alone(5)), 0, 1)
    assert cutoff.verdict(50.0) is None
    answered(cutoff, 2, at=50.0)
    assert cutoff.verdict(50.0) is How.DEADLINE
    early = answered(Cutoff(rule(), alone(5)), 0, 1, 2)
    assert early.verdict(9.9) is None
    assert early.verdict(10.0) is How.DEADLINE


def test_its_bound_ends_it_with_whoever_is_there() -> None:
    assert Cutoff(rule(deadline=math.inf), alone(5)).verdict(100.0) is How.TIMEOUT


def test_without_a_deadline_one_follows_from_when_the_quorum_is_there() -> None:
    cutoff = answered(Cutoff(rule(deadline=None), alone(5)), 0, 1, at=2.0)
    assert cutoff.deadline is None
    answered(cutoff, 2, at=4.0)
    assert cutoff.deadline == 6.0
    assert cutoff.verdict(5.9) is None
    assert cutoff.verdict(6.0) is How.DEADLINE


def test_those_to_be_heard_keep_it_open_for_their_usual_time_and_no_longer() -> None:
    cutoff = answered(Cutoff(rule(enough=4, heard_until=30.0), alone(6), heard={5}), 0, 1, 2, 3)
    assert cutoff.verdict(29.0) is None
    assert cutoff.verdict(30.0) is How.ENOUGH
    assert answered(cutoff, 5, at=20.0).verdict(20.0) is How.ENOUGH


def test_a_shard_is_complete_with_the_first_of_its_boards_and_counts_once() -> None:
    cutoff = Cutoff(rule(quorum=2, enough=2), {1: ("line", "a"), 2: ("line", "a"), 3: ("line", "b"), 4: ("line", "b")})
    answered(cutoff, 2)
    assert cutoff.is_counted(1)
    with pytest.raises(ValueError, match="counted before"):
        cutoff.count(1, 2.0)
    assert cutoff.open == {3, 4}
    assert answered(cutoff, 3).verdict(1.0) is How.ALL
    assert cutoff.answers == 2


def test_a_shard_is_missing_only_once_all_its_boards_failed() -> None:
    cutoff = Cutoff(rule(), {1: "a", 2: "a"})
    cutoff.give_up(1)
    assert cutoff.verdict(1.0) is None
    cutoff.give_up(2)
    assert cutoff.verdict(1.0) is How.ALL


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.none() | st.floats(0, 50),
    st.floats(0, 60),
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 80), st.booleans()), max_size=12),
)
def test_it_ends_by_its_bound_and_never_before_its_quorum_while_some_may_answer(
    quorum: int, enough: int, deadline: float | None, heard: float, events: list[tuple[int, float, bool]]
) -> None:
    cutoff = Cutoff(Rule(quorum, enough, deadline, 100.0, heard), alone(8), heard={0})
    for node, at, valid in sorted(events, key=lambda event: event[1]):
        if valid and not cutoff.is_counted(node):
            cutoff.count(node, at)
        elif not valid:
            cutoff.give_up(node)
        verdict = cutoff.verdict(at)
        if verdict is None:
            assert cutoff.open
            assert 0 <= cutoff.due(at) <= 100.0 - at
        elif verdict is not How.ALL:
            assert cutoff.answers >= min(quorum, enough)
    assert cutoff.verdict(100.0) is not None
