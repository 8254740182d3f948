"""The life of an instruction, as data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_client.instruction import RESUME, TRANSITIONS, Event, Resume, State, after
from argosy_common.errors import ProgrammingError

OVER = {State.DELIVERED, State.CANCELLED}


def test_every_state_says_where_it_resumes() -> None:
    assert set(RESUME) == set(State)
    assert {state for state, resume in RESUME.items() if resume is Resume.NOTHING} == OVER


def test_the_way_of_a_good_instruction() -> None:
    state = State.RECEIVED
    for event, expected in (
        (Event.START, State.RUNNING),
        (Event.ANSWER, State.ANSWERED),
        (Event.RECEIPT, State.DELIVERED),
    ):
        state = after(state, event)
        assert state is expected


@pytest.mark.parametrize("state", list(State))
def test_a_cancel_ends_every_state(state: State) -> None:
    assert after(state, Event.CANCEL) in OVER


def test_an_impossible_event_is_a_named_bug() -> None:
    with pytest.raises(ProgrammingError, match="delivered"):
        after(State.DELIVERED, Event.START)


@given(st.lists(st.sampled_from(list(Event))))
def test_nothing_runs_again_after_it_was_answered(events: list[Event]) -> None:
    state, answered = State.RECEIVED, False
    for event in events:
        if (state, event) in TRANSITIONS:
            state = after(state, event)
        answered = answered or state is State.ANSWERED or state in OVER
        assert not (answered and state in (State.RECEIVED, State.RUNNING))
