"""Whom selectors choose: what holds for all of them, whom `Ready` prefers, and that nobody is forgotten."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_common.straggler.conditions import Condition
from argosy_common.straggler.selection import HEARD_PART, Candidate, Choice, Random, Ready, Selector

SELECTORS: tuple[Selector, ...] = (Random(), Ready(), Ready(hear_every=3))

conditions = st.builds(
    Condition,
    battery=st.none() | st.floats(0, 1),
    on_mains=st.none() | st.booleans(),
    temperature=st.none() | st.floats(-60, 200),
    throttled=st.none() | st.booleans(),
    metered=st.none() | st.booleans(),
)
candidates = st.lists(
    st.builds(
        Candidate,
        st.integers(2, 60),
        drawn=st.booleans(),
        condition=conditions,
        seconds=st.none() | st.floats(0, 1e6),
        unheard=st.integers(0, 9),
    ),
    max_size=40,
)


def fleet(count: int, **fields: object) -> list[Candidate]:
    return [replace(Candidate(node), **fields) for node in range(2, 2 + count)]  # type: ignore[arg-type]


def chosen(devices: Sequence[Candidate], wanted: int, *, hear_every: int = 0, seed: int = 1) -> Choice:
    return Ready(hear_every).choose(devices, wanted, random.Random(seed))


def spared_for(condition: Condition, seconds: float = 1.0) -> tuple[str, str]:
    """Return why a device is not asked where nine others are as they should be and were drawn."""
    odd = Candidate(99, drawn=False, condition=condition, seconds=seconds)
    found = chosen([odd, *fleet(9, seconds=1.0)], 9).spared[99]
    return found.code, found.why


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
@given(devices=candidates, wanted=st.integers(-1, 50), seed=st.integers(0, 99))
def test_each_is_asked_once_or_spared_and_as_many_are_asked_as_are_wanted(
    selector: Selector, devices: list[Candidate], wanted: int, seed: int
) -> None:
    choice = selector.choose(devices, wanted, random.Random(seed))
    nodes = {it.node for it in devices}
    assert len(choice.asked) == len(set(choice.asked)) == max(0, min(wanted, len(nodes)))
    assert set(choice.asked) | set(choice.spared) == nodes
    assert not set(choice.asked) & set(choice.spared)
    assert choice.heard <= set(choice.asked)
    assert set(choice.asked[: len(choice.heard)]) == choice.heard
    assert all(it.code and it.why for it in choice.spared.values())


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
@given(devices=candidates, wanted=st.integers(0, 50), seed=st.integers(0, 99))
def test_the_same_chance_gives_the_same_choice(
    selector: Selector, devices: list[Candidate], wanted: int, seed: int
) -> None:
    one, two = (selector.choose(devices, wanted, random.Random(seed)) for _ in range(2))
    assert one == two


@given(devices=candidates, wanted=st.integers(0, 50), seed=st.integers(0, 99))
def test_random_asks_those_drawn_before_others(devices: list[Candidate], wanted: int, seed: int) -> None:
    distinct = {it.node: it for it in devices}
    choice = Random().choose(devices, wanted, random.Random(seed))
    drawn = [distinct[node].drawn for node in choice.asked]
    assert drawn == sorted(drawn, reverse=True)
    assert not any(drawn) or all(drawn) or not any(distinct[node].drawn for node in choice.spared)


def test_random_fills_up_with_whomever() -> None:
    devices = [*fleet(3), *(replace(it, node=it.node + 10, drawn=False) for it in fleet(9))]
    choices = {frozenset(Random().choose(devices, 5, random.Random(seed)).asked) for seed in range(60)}
    assert len(choices) > 15
    assert all({2, 3, 4} < each for each in choices)
    assert set().union(*choices) == {it.node for it in devices}


# --- whom `Ready` prefers


@pytest.mark.parametrize(
    ("condition", "code", "word"),
    [
        (Condition(battery=0.12, on_mains=False), "battery-low", "its battery is at 12 % and not charging"),
        (Condition(battery=0.12), "battery-low", "12 %"),
        (Condition(battery=0.4, on_mains=False), "battery-low", "40 %"),
        (Condition(temperature=80.0), "hot", "80 °C"),
        (Condition(throttled=True), "throttled", "slows itself down"),
        (Condition(metered=True), "metered", "by the byte"),
    ],
)
def test_a_device_that_is_not_as_it_should_be_is_passed_over_and_told_why(
    condition: Condition, code: str, word: str
) -> None:
    found, why = spared_for(condition)
    assert found == code
    assert word in why


@pytest.mark.parametrize(
    "condition",
    [
        Condition(),
        Condition(battery=0.05, on_mains=True),
        Condition(battery=0.5, on_mains=False),
        Condition(on_mains=False),
        Condition(temperature=79.9, throttled=False, metered=False),
    ],
)
def test_what_is_not_known_and_what_is_well_costs_nothing(condition: Condition) -> None:
    devices = [Candidate(99, condition=condition), *fleet(9, drawn=False)]
    assert 99 in chosen(devices, 1).asked
    assert spared_for(condition) == ("not-drawn", "enough others were asked that are as fit")


def test_all_that_speaks_against_a_device_is_told() -> None:
    code, why = spared_for(Condition(temperature=91.0, metered=True), seconds=8.0)
    assert code == "hot"
    assert why == "it is at 91 °C; its connection costs by the byte; it took 8 s lately, and others are faster"


def test_fast_devices_are_preferred_and_those_never_tried_count_as_median() -> None:
    fast, usual, slow = ({node, node + 1} for node in (10, 20, 30))
    seconds = {**dict.fromkeys(fast, 1.0), **dict.fromkeys(usual, 4.0), **dict.fromkeys(slow, 16.0), 40: None, 41: None}
    devices = [Candidate(node, seconds=each) for node, each in seconds.items()]
    assert set(chosen(devices, 2).asked) == fast
    seen = [set(chosen(devices, 4, seed=seed).asked) - fast for seed in range(40)]
    assert set().union(*seen) == usual | {40, 41}
    last = chosen(devices, 6)
    assert set(last.spared) == slow
    assert last.spared[30].code == "slow"
    assert chosen(devices, 2).spared[40].why == "it was never tried, and others are known to be faster"


def test_little_differences_in_time_do_not_decide() -> None:
    devices = [Candidate(node, seconds=1.0 + node / 100) for node in range(2, 22)]
    asked = set().union(*(chosen(devices, 2, seed=seed).asked for seed in range(99)))
    assert asked == {it.node for it in devices}


def test_twice_the_speed_makes_up_for_one_flaw_and_nothing_for_being_spared() -> None:
    usual = fleet(5, seconds=4.0, drawn=False)
    metered = Candidate(50, seconds=2.0, condition=Condition(metered=True))
    hot = Candidate(60, seconds=0.01, condition=Condition(temperature=85.0))
    choice = chosen([*usual, metered, hot], 6)
    assert choice.asked[0] == 50
    assert set(choice.spared) == {60}


def test_spared_devices_are_asked_after_all_where_there_are_too_few_others() -> None:
    hot = fleet(3, condition=Condition(temperature=90.0))
    fine = Candidate(50, drawn=False)
    choice = chosen([*hot, fine], 3)
    assert choice.asked[0] == 50
    assert len(choice.asked) == 3
    assert not chosen([*hot, fine], 4).spared


@given(devices=candidates, seed=st.integers(0, 99))
def test_a_device_gets_no_worse_a_place_by_being_better(devices: list[Candidate], seed: int) -> None:
    """One thing is changed: a metered device becomes unmetered, and all the rest stays."""
    metered = Candidate(99, condition=Condition(metered=True), seconds=3.0)
    before = chosen([metered, *devices], len(devices) + 1, seed=seed).asked.index(99)
    after = chosen([replace(metered, condition=Condition()), *devices], len(devices) + 1, seed=seed).asked.index(99)
    assert after <= before


# --- the fairness floor


def test_a_device_that_is_due_is_asked_first_and_waited_for_whatever_its_condition() -> None:
    due = Candidate(99, drawn=False, condition=Condition(temperature=90.0), seconds=1e3, unheard=5)
    devices = [*fleet(9, seconds=1.0, unheard=4), due]
    choice = chosen(devices, 3, hear_every=5)
    assert choice.asked[0] == 99
    assert choice.heard == {99}
    assert 99 in chosen(devices, 3, hear_every=6).spared
    assert not chosen(devices, 3).heard, "0 is off"


@pytest.mark.parametrize(("wanted", "most"), [(1, 1), (5, 1), (19, 1), (20, 2), (50, 5)])
def test_a_round_is_not_swamped_by_those_that_are_due(wanted: int, most: int) -> None:
    assert most == max(1, wanted // HEARD_PART)
    assert len(chosen(fleet(60, unheard=9), wanted, hear_every=2).heard) == most


class Rounds:
    """A run in which each device that is asked and is fast enough, or waited for, is heard; some never answer."""

    def __init__(self, count: int, *, silent: frozenset[int], seed: int) -> None:
        self.rng = random.Random(seed)
        self.seconds = {node: self.rng.choice([1.0, 2.0, 30.0]) for node in range(2, 2 + count)}
        self.silent = silent
        self.unheard = dict.fromkeys(self.seconds, 0)
        self.known: dict[int, float] = {}
        self.longest = dict.fromkeys(self.seconds, 0)

    def play(self, selector: Selector, rounds: int, wanted: int) -> None:
        for _ in range(rounds):
            drawn = set(self.rng.sample(sorted(self.seconds), wanted))
            devices = [
                Candidate(node, drawn=node in drawn, seconds=self.known.get(node), unheard=self.unheard[node])
                for node in self.seconds
            ]
            choice = selector.choose(devices, wanted, self.rng)
            answered = set(choice.asked) - self.silent
            self.known.update({node: self.seconds[node] for node in answered})
            heard = {node for node in answered if self.seconds[node] < 10 or node in choice.heard}
            for node in self.seconds:
                self.unheard[node] = 0 if node in heard else self.unheard[node] + 1
                self.longest[node] = max(self.longest[node], self.unheard[node])


@settings(deadline=None)  # a run takes its time on a busy machine
@given(
    count=st.integers(2, 40),
    hear_every=st.integers(1, 12),
    part=st.integers(1, 40),
    silent=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_device_is_heard_within_its_rounds_and_a_bound(
    count: int, hear_every: int, part: int, silent: bool, seed: int
) -> None:
    """Those due take turns by chance: with `count` of them, one waits twenty times its turn once in 10⁸ times."""
    wanted = min(part, count)
    mute = frozenset({2}) if silent else frozenset()
    run = Rounds(count, silent=mute, seed=seed)
    bound = hear_every + 20 * -(-count // max(1, wanted // HEARD_PART))
    run.play(Ready(hear_every), min(2 * bound, 250), wanted)
    assert all(longest <= bound for node, longest in run.longest.items() if node not in mute)


def test_without_a_floor_slow_devices_are_not_heard() -> None:
    run = Rounds(30, silent=frozenset(), seed=3)
    run.play(Ready(), 100, 10)
    assert max(run.longest.values()) == 100
    again = Rounds(30, silent=frozenset(), seed=3)
    again.play(Ready(20), 100, 10)
    assert max(again.longest.values()) < 60
