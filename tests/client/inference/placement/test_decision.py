"""The decision, over figures that anybody may have measured."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from argosy_client.inference.placement.decision import MARGIN, Way, decide

times = st.floats(0.0, 1e4, allow_nan=False)
maybe = st.none() | times
splits = st.builds(
    Way,
    kind=st.just("split"),
    tensor=st.text("abc", min_size=1, max_size=3),
    head_ms=times,
    bytes_up=st.integers(1, 10**6),
    transfer_ms=maybe,
    tail_ms=maybe,
    fallback_ms=times,
    share=st.floats(0, 1),
    refused=st.sampled_from(["", "", "", "wrong"]),
)
remotes = splits.map(lambda way: replace(way, kind="remote", head_ms=0.0))
locals_ = times.map(lambda ms: Way("local", head_ms=ms))
ways = st.lists(splits | remotes, max_size=6)
deadlines = st.none() | st.floats(0.1, 1e4)


@given(local=locals_, others=ways, deadline=deadlines)
def test_what_is_chosen_may_be_is_in_time_and_wins_by_the_margin(
    local: Way, others: list[Way], deadline: float | None
) -> None:
    chosen = decide(local, others, deadline_ms=deadline)
    assert chosen.reason
    way = chosen.way
    if way == local:
        return
    assert way in others
    assert not way.refused
    assert way.total_ms is not None
    assert local.total_ms is not None
    assert way.total_ms <= local.total_ms * (1 - MARGIN)
    assert deadline is None or (way.worst_ms or 0.0) <= deadline


@given(local=locals_, others=ways, deadline=deadlines)
def test_nothing_that_may_be_is_faster_than_what_is_chosen(
    local: Way, others: list[Way], deadline: float | None
) -> None:
    chosen = decide(local, others, deadline_ms=deadline).way
    for way in others:
        may = not way.refused and way.total_ms is not None and (deadline is None or (way.worst_ms or 0.0) <= deadline)
        if may and chosen != local:
            assert (way.total_ms or 0.0) >= (chosen.total_ms or 0.0)
        if may and chosen == local:
            assert (way.total_ms or 0.0) > (local.total_ms or 0.0) * (1 - MARGIN)


@given(local=locals_, others=ways, deadline=deadlines, why=st.text(min_size=1, max_size=9))
def test_without_a_coordinator_all_is_run_here_and_why_is_told(
    local: Way, others: list[Way], deadline: float | None, why: str
) -> None:
    chosen = decide(local, others, unreachable=why, deadline_ms=deadline)
    assert chosen.way == local
    assert why in chosen.reason


@given(local=locals_, others=ways, seed=st.integers())
def test_the_order_of_the_ways_does_not_matter(local: Way, others: list[Way], seed: int) -> None:
    shuffled = random.Random(seed).sample(others, len(others))
    ours, theirs = decide(local, others), decide(local, shuffled)
    assert (ours.way.total_ms, ours.reason) == (theirs.way.total_ms, theirs.reason)


@given(local=locals_, others=ways, extra=splits)
def test_a_further_way_never_makes_the_choice_slower(local: Way, others: list[Way], extra: Way) -> None:
    before, after = decide(local, others).way, decide(local, [*others, extra]).way
    assume(before.total_ms is not None)
    assert (after.total_ms or 0.0) <= (before.total_ms or 0.0)


def away(total: float, **fields: object) -> Way:
    return replace(Way("split", "t", 0.0, 10, total, 0.0), **fields)  # type: ignore[arg-type]  # of the test


@pytest.mark.parametrize(
    ("others", "deadline", "chosen", "words"),
    [
        ([], None, "local", "nothing else"),
        ([away(9.5)], None, "local", "not 10% less"),
        ([away(9.0)], None, "split", "9 ms against 10 here"),
        ([away(1.0, refused="wrong")], None, "local", "neither be cut"),
        ([away(1.0, tail_ms=None)], None, "local", "neither be cut"),
        ([away(5.0, fallback_ms=8.0)], 12.0, "local", "sure to keep 12 ms"),
        ([away(5.0, fallback_ms=7.0)], 12.0, "split", "5 ms"),
        ([away(20.0, share=0.1)], None, "split", "2 ms"),
        ([Way("remote", "x", 0.0, 10, 2.0, 1.0)], None, "remote", "whole model on the coordinator takes 3 ms"),
    ],
)
def test_the_reason_says_what_decided(others: list[Way], deadline: float | None, chosen: str, words: str) -> None:
    found = decide(Way("local", head_ms=10.0), others, deadline_ms=deadline)
    assert found.way.kind == chosen
    assert words in found.reason
