"""The engine alone: whom rings admit, when they open, what ends a rollout, and that a restart changes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_server.models.rollout import (
    FAILED,
    GOING_BACK,
    TRANSITIONS,
    Fleet,
    Member,
    MemberState,
    Report,
    Ring,
    Rollout,
    RolloutState,
    ring_to_json,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOLD_S = 100.0
RINGS = tuple(Ring(share=share, hold_s=HOLD_S) for share in (0.05, 0.25, 1.0))


def devices(count: int) -> list[str]:
    return [f"{number:016x}" for number in range(count)]


def fleet(count: int, *, away: int = 0, tags: dict[str, list[str]] | None = None) -> Fleet:
    """A fleet of so many devices, of which the last `away` cannot be reached."""
    names = devices(count)
    return Fleet({each: (tags or {}).get(each, []) for each in names}, names[: count - away])


def rollout(rings: tuple[Ring, ...] = RINGS, previous: int | None = 1, number: int = 7) -> Rollout:
    return Rollout(number, "har", 2, previous, rings, NOW)


def answered(
    it: Rollout, state: MemberState = MemberState.ACTIVE, *, requests: int = 0, errors: int = 0, p95_ms: float = 0.0
) -> Rollout:
    """Send what is due, and have every member that has not answered answer alike."""
    for device in [each for each in it.members if not it.settled(each)]:
        in_force = it.version if state is MemberState.ACTIVE else it.previous
        report = Report(2, state, in_force=in_force, requests=requests, errors=errors, p95_ms=p95_ms)
        it = it.sent([device]).reported(device, report)
    return it


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_it_goes_ring_by_ring_to_all_and_ends() -> None:
    it, boards = rollout(), fleet(40)
    sizes = []
    for step in range(1, 4):
        it = answered(it.stepped(boards, later(HOLD_S * step - 1)))
        sizes.append(len(it.members))
        it = it.stepped(boards, later(HOLD_S * step))
    assert sizes == [2, 10, 40]
    assert it.state is RolloutState.FINISHED


def test_a_ring_lasts_its_time_however_fast_its_devices_are() -> None:
    it, boards = rollout(), fleet(40)
    it = answered(it.stepped(boards, NOW))
    it = it.stepped(boards, later(HOLD_S - 1))
    assert (it.ring, len(it.members)) == (0, 2)
    assert it.waits_for(boards, later(HOLD_S - 1)) == "ring 5% lasts another 1 s"


def test_a_ring_waits_for_enough_of_its_reachable_devices_whatever_the_time() -> None:
    it, boards = rollout((Ring(share=1.0, hold_s=1, least_active=0.9),)), fleet(10)
    it = it.stepped(boards, NOW)
    it = it.sent(devices(10))
    for device in devices(8):
        it = it.reported(device, Report(2, MemberState.ACTIVE, in_force=2))
    it = it.stepped(boards, later(10_000))
    assert it.state is RolloutState.RUNNING
    assert it.waits_for(boards, later(10_000)) == "8 of 10 reachable devices have it active, and 90 % must"
    it = it.reported(devices(10)[8], Report(2, MemberState.ACTIVE, in_force=2))
    assert it.stepped(boards, later(10_001)).state is RolloutState.FINISHED


def test_a_device_that_is_away_is_passed_over_until_it_comes_and_takes_nobodys_place() -> None:
    first = next(iter(rollout().stepped(fleet(10), NOW).members))
    without = Fleet(fleet(10).tags, [each for each in devices(10) if each != first])
    it = rollout().stepped(without, NOW)
    assert len(it.members) == 1
    assert first not in it.members
    assert it.stepped(fleet(10), NOW) == it, "the ring is full"


def test_a_ring_of_which_nobody_can_be_reached_waits_and_says_so() -> None:
    nobody = fleet(40, away=40)
    it = rollout().stepped(nobody, NOW)
    assert it.waits_for(nobody, NOW) == "no device of ring 5% can be reached"
    it = it.stepped(fleet(40), NOW).stepped(nobody, later(10_000))
    assert (it.ring, len(it.members)) == (0, 2)
    assert it.waits_for(nobody, later(10_000)) == "none of the 2 devices up to ring 5% can be reached"


def test_devices_that_are_away_are_not_waited_for() -> None:
    it, boards = rollout((Ring(share=1.0, hold_s=1),)), fleet(10, away=4)
    it = it.stepped(boards, NOW)
    for device in boards.reachable:
        it = it.sent([device]).reported(device, Report(2, MemberState.ACTIVE, in_force=2))
    assert it.stepped(boards, later(2)).state is RolloutState.FINISHED


def test_a_part_of_a_device_is_a_device_and_a_last_bit_is_none() -> None:
    for share, count, expected in ((0.05, 10, 1), (0.05, 40, 2), (0.05, 41, 3), (0.07, 100, 7), (1.0, 3, 3)):
        it = rollout((Ring(share=share),)).stepped(fleet(count), NOW)
        assert len(it.members) == expected, (share, count)


def test_a_tag_admits_its_devices_and_a_share_goes_on_from_there() -> None:
    tagged = {each: ["canary"] for each in devices(3)}
    rings = (Ring(tag="canary", hold_s=1), Ring(share=0.5, hold_s=1))
    boards = fleet(10, tags=tagged)
    it = answered(rollout(rings).stepped(boards, NOW))
    assert set(it.members) == set(tagged)
    it = it.stepped(boards, later(2)).stepped(boards, later(2))
    assert len(it.members) == 5
    assert set(tagged) < set(it.members)


def test_who_comes_first_is_fixed_by_the_rollout_and_differs_between_rollouts() -> None:
    firsts = {frozenset(rollout(number=number).stepped(fleet(40), NOW).members) for number in range(1, 12)}
    assert len(firsts) > 5
    again = {frozenset(rollout(number=3).stepped(fleet(40), NOW).members) for _ in range(3)}
    assert len(again) == 1


def test_a_growing_fleet_takes_nobody_out_of_a_ring() -> None:
    it = rollout().stepped(fleet(40), NOW)
    before = set(it.members)
    it = it.stepped(fleet(400), NOW)
    assert before < set(it.members)
    assert len(it.members) == 20


@pytest.mark.parametrize("state", sorted(FAILED))
def test_a_canary_that_fails_takes_the_version_back_by_itself(state: MemberState) -> None:
    it, boards = rollout(), fleet(40)
    it = answered(it.stepped(boards, NOW), state).stepped(boards, later(1))
    assert it.state is RolloutState.ROLLING_BACK
    assert it.why == "2 of 2 devices failed with it, over the limit of 2 %"


def test_few_failures_in_a_large_ring_are_borne() -> None:
    it, boards = rollout((Ring(share=1.0, hold_s=1, max_errors=0.02),)), fleet(100)
    it = it.stepped(boards, NOW)
    first, second, third, *_others = devices(100)
    for device in (first, second):
        it = it.sent([device]).reported(device, Report(2, MemberState.REFUSED, in_force=1))
    it = it.stepped(boards, later(1))
    assert it.state is RolloutState.RUNNING, "2 of 100"
    it = it.reported(third, Report(2, MemberState.REFUSED, in_force=1)).stepped(boards, later(1))
    assert it.state is RolloutState.ROLLING_BACK


def test_requests_that_fail_end_it_and_few_requests_prove_nothing() -> None:
    boards = fleet(2)
    it = rollout((Ring(share=1.0, max_errors=0.1),)).stepped(boards, NOW)
    few = answered(it, requests=4, errors=4)
    assert few.failure(boards) == ""
    many = answered(it, requests=50, errors=6)
    assert many.failure(boards) == "12 of 100 requests failed with it, over the limit of 10 %"


def test_a_device_above_the_limit_of_p95_counts_as_failed() -> None:
    boards = fleet(2)
    it = rollout((Ring(share=1.0, max_p95_ms=20.0),)).stepped(boards, NOW)
    assert answered(it, p95_ms=20.0).failure(boards) == ""
    assert answered(it, p95_ms=20.5).failure(boards).startswith("2 of 2 devices failed")


def test_a_pause_admits_and_sends_nothing_and_still_lets_failures_end_it() -> None:
    it, boards = rollout(), fleet(40)
    it = it.stepped(boards, NOW).followed("pause", NOW)
    it = it.stepped(boards, later(10 * HOLD_S))
    assert (it.ring, it.due(boards.reachable)) == (0, [])
    assert answered(it, MemberState.REFUSED).stepped(boards, NOW).state is RolloutState.ROLLING_BACK
    it = answered(it).followed("resume", later(1000))
    assert it.stepped(boards, later(1000 + HOLD_S - 1)).ring == 0, "the ring begins again"
    assert it.stepped(boards, later(1000 + HOLD_S)).ring == 1


def test_going_back_is_over_when_all_that_were_sent_it_and_can_be_reached_are_back() -> None:
    it, boards = rollout((Ring(share=1.0),)), fleet(4)
    it = it.stepped(boards, NOW)
    one, two, three, _four = devices(4)
    it = it.sent([one, two, three])
    it = it.reported(one, Report(2, MemberState.ACTIVE, in_force=2))
    it = it.reported(two, Report(2, MemberState.REFUSED, in_force=1))
    it = it.followed("stop", NOW, "stopped by user:op")
    assert it.due(boards.reachable) == [one, three], "two never had it, four was never sent it"
    it = it.reported(one, Report(1, MemberState.FETCHING, in_force=2)).stepped(boards, NOW)
    assert it.state is RolloutState.ROLLING_BACK
    it = it.reported(one, Report(1, MemberState.ACTIVE, in_force=1))
    away = Fleet(boards.tags, [one, two])
    it = it.stepped(away, NOW)
    assert it.state is RolloutState.ROLLED_BACK
    assert it.due(boards.reachable) == [three], "who comes later is sent back as well"


def test_the_first_version_goes_back_to_no_model_at_all() -> None:
    it, boards = rollout(previous=None), fleet(4)
    it = answered(it.stepped(boards, NOW)).followed("stop", NOW)
    (device,) = it.due(boards.reachable)
    assert it.target is None
    it = it.reported(device, Report(2, MemberState.ROLLED_BACK, in_force=None)).stepped(boards, NOW)
    assert it.state is RolloutState.ROLLED_BACK


def test_a_device_that_cannot_go_back_keeps_the_rollout_open() -> None:
    it, boards = rollout(), fleet(4)
    it = answered(it.stepped(boards, NOW)).followed("stop", NOW)
    (device,) = it.due(boards.reachable)
    it = it.reported(device, Report(1, MemberState.REFUSED, in_force=2)).stepped(boards, NOW)
    assert it.state is RolloutState.ROLLING_BACK


def test_a_device_that_joins_after_the_end_gets_the_version() -> None:
    it = answered(rollout((Ring(share=1.0, hold_s=0),)).stepped(fleet(3), NOW)).stepped(fleet(3), NOW)
    assert it.state is RolloutState.FINISHED
    it = it.stepped(fleet(4), later(9999))
    assert it.due(fleet(4).reachable) == [devices(4)[3]]


def test_what_others_say_and_what_is_said_of_other_versions_changes_nothing() -> None:
    it = rollout().stepped(fleet(4), NOW)
    (member,) = it.members
    stranger = next(each for each in devices(4) if each != member)
    assert it.reported(stranger, Report(2, MemberState.ACTIVE)) == it
    assert it.reported(member, Report(3, MemberState.ACTIVE)) == it


@pytest.mark.parametrize("state", sorted(RolloutState))
@pytest.mark.parametrize("event", ["advance", "complete", "pause", "resume", "fail", "stop", "returned"])
def test_what_the_table_does_not_list_does_not_happen(state: RolloutState, event: str) -> None:
    it = replace(rollout(), state=state)
    if (state, event) in TRANSITIONS:
        assert it.followed(event, NOW).state is TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            it.followed(event, NOW)


# --- any history ---------------------------------------------------------------------------------------------------

ring_lists = st.one_of(
    st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=3, unique=True).map(
        lambda shares: tuple(Ring(share=it, hold_s=10.0) for it in sorted(shares))
    ),
    st.just((Ring(tag="canary", hold_s=10.0), Ring(share=0.5, hold_s=10.0), Ring(share=1.0, hold_s=10.0))),
)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("time"), st.floats(0, 30)),
        st.tuples(st.just("report"), st.integers(0, 29), st.sampled_from(sorted(MemberState)), st.booleans()),
        st.tuples(st.just("grow"), st.integers(1, 10)),
        st.tuples(st.just("away"), st.integers(0, 29)),
        st.tuples(st.just("back"), st.integers(0, 29)),
        st.tuples(st.sampled_from(["pause", "resume", "stop"])),
    ),
    max_size=40,
)


def restarted(it: Rollout) -> Rollout:
    """What comes out of a database that took it in, as JSON and text."""
    members = {each: json.loads(json.dumps(asdict(member))) for each, member in it.members.items()}
    return Rollout(
        id=it.id,
        name=it.name,
        version=it.version,
        previous=it.previous,
        rings=tuple(Ring(**json.loads(json.dumps(ring_to_json(ring)))) for ring in it.rings),
        since=datetime.fromisoformat(it.since.isoformat()),
        ring=it.ring,
        state=RolloutState(str(it.state.value)),
        why=it.why,
        members={each: Member(**{**told, "state": MemberState(told["state"])}) for each, told in members.items()},
    )


class History:
    """A rollout in a fleet to which things happen."""

    def __init__(self, rings: tuple[Ring, ...], *, restarting: bool) -> None:
        self.it, self.count, self.away = rollout(rings), 10, set[str]()
        self.now, self.restarting = NOW, restarting
        self.sent: set[str] = set()

    @property
    def fleet(self) -> Fleet:
        names = devices(self.count)
        return Fleet({each: ["canary"] if each < devices(3)[2] else [] for each in names}, set(names) - self.away)

    def happen(self, what: tuple[Any, ...]) -> None:
        match what:
            case ("time", seconds):
                self.now += timedelta(seconds=seconds)
            case ("report", number, state, forward):
                self._report(devices(30)[number], state, forward=forward)
            case ("grow", more):
                self.count = min(30, self.count + more)
            case ("away", number):
                self.away.add(devices(30)[number])
            case ("back", number):
                self.away.discard(devices(30)[number])
            case (verb,) if (self.it.state, verb) in TRANSITIONS:
                self.it = self.it.followed(verb, self.now)
        self.it = self.it.stepped(self.fleet, self.now)
        due = self.it.due(self.fleet.reachable)
        self.it = self.it.sent(due)
        if self.it.target == self.it.version:
            self.sent.update(due)
        if self.restarting:
            self.it = restarted(self.it)

    def _report(self, device: str, state: MemberState, *, forward: bool) -> None:
        if device not in self.sent:
            return  # an honest device speaks only of what it was sent
        version = self.it.version if forward else self.it.previous
        assert version is not None
        in_force = version if state is MemberState.ACTIVE else self.it.previous
        self.it = self.it.reported(device, Report(version, state, in_force=in_force))


@settings(max_examples=60, deadline=None)
@given(rings=ring_lists, what=happenings)
def test_never_do_more_devices_have_the_version_than_the_rings_so_far_allow(
    rings: tuple[Ring, ...], what: list[tuple[Any, ...]]
) -> None:
    history = History(rings, restarting=False)
    for each in what:
        history.happen(each)
        assert len(history.it.members) <= history.it.allowed(history.fleet)
        assert history.sent <= set(history.it.members)


@settings(max_examples=60, deadline=None)
@given(rings=ring_lists, what=happenings)
def test_a_failed_threshold_always_ends_in_going_back_and_going_back_never_ends_in_the_version(
    rings: tuple[Ring, ...], what: list[tuple[Any, ...]]
) -> None:
    history = History(rings, restarting=False)
    for each in what:
        went_back = history.it.state in GOING_BACK
        history.happen(each)
        if history.it.state in (RolloutState.RUNNING, RolloutState.PAUSED):
            assert history.it.stepped(history.fleet, history.now).state is RolloutState.ROLLING_BACK or not (
                history.it.failure(history.fleet)
            )
        assert not went_back or history.it.target == history.it.previous


@settings(max_examples=60, deadline=None)
@given(rings=ring_lists, what=happenings)
def test_a_restart_after_any_step_changes_nothing(rings: tuple[Ring, ...], what: list[tuple[Any, ...]]) -> None:
    through, restarting = History(rings, restarting=False), History(rings, restarting=True)
    for each in what:
        through.happen(each)
        restarting.happen(each)
        assert through.it == restarting.it
        assert through.it.due(through.fleet.reachable) == restarting.it.due(restarting.fleet.reachable)
