"""What became of each device in a round, folded from events: when it counted, and in words why it did not."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from argosy_common.errors import (
    AppRaised,
    CutOff,
    DeviceLost,
    InstructionCancelled,
    PeerUnlisted,
    ReplyTimedOut,
    ShardCounted,
    WorkerDied,
)
from argosy_server.cli.explain import drawn, explained
from argosy_server.cli.watch.explanation import Explanation, PhaseStory
from argosy_server.cli.watch.reasons import code, ended, remedy, selected, why

IDS = [f"{number:016x}" for number in range(1, 21)]
NAMES = {device: f"board-{number}" for number, device in enumerate(IDS, 1)}
AT = {"round": 3, "phase": "train"}
FACTS = {"fetch_s": 0.1, "run_s": 1.3, "upload_s": 0.2, "bytes_down": 152_000, "bytes_up": 150_000, "via": "https"}

Event = tuple[str, dict[str, Any]]
Events = list[Event]


def name_of(device: str) -> str:
    return NAMES.get(device, device)


def told(events: Events, *, over: bool = False) -> Explanation:
    return Explanation([{"name": name, "data": data} for name, data in events], over=over)


def phase(events: Events, *, over: bool = False, name: str = "train") -> PhaseStory:
    """The phase of round 3."""
    return next(each for each in told(events, over=over).rounds[3].phases if each.name == name)


def begun(count: int = 20) -> Events:
    return [("phase-started", {**AT, "devices": IDS[:count]})]


def reply(device: str, *, seconds: float = 2.0, error: Mapping[str, object] | None = None) -> Event:
    facts = {} if error else FACTS
    return "device-reply", {**AT, "device": device, "seconds": seconds, **facts, "error": error}


def finished(seconds: float = 3.2, **changed: object) -> Event:
    return "phase-finished", {**AT, "seconds": seconds, "sent": 20, "replied": 17, "failed": 3, **changed}


def settled(how: str, counted: int, **changed: object) -> Event:
    at = {device: 1.0 + number / 10 for number, device in enumerate(IDS[:counted])}
    facts = {"seconds": 3.2, "quorum": 16, "enough": 18, "deadline_s": 3.2}
    return "phase-settled", {**AT, "how": how, **facts, "counted": at, **changed}


def whole(how: str, counted: int, asked: int = 20, **changed: object) -> Events:
    """A phase from its begin to its end; who did not count was cut off."""
    replies = [reply(device, seconds=1.0 + number / 10) for number, device in enumerate(IDS[:counted])]
    late = [
        reply(device, seconds=3.2, error=CutOff(device=device, seconds=3.2).to_wire()) for device in IDS[counted:asked]
    ]
    return [*begun(asked), *replies, *late, finished(), settled(how, counted, **changed)]


# --- how a phase ended

ALL = "ended after 3.20 s, when all 20 had answered"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (whole("deadline", 17), "ended on its deadline of 3.20 s with 17 of 20; 16 were needed"),
        (whole("deadline", 17, quorum=0.8), "ended on its deadline of 3.20 s with 17 of 20; 16 were needed"),
        (whole("deadline", 1, quorum=1), "ended on its deadline of 3.20 s with 1 of 20; 1 was needed"),
        (
            whole("deadline", 16, deadline_s=1.5),
            "ended after 3.20 s with 16 of 20, past its deadline of 1.50 s; 16 were needed",
        ),
        (whole("enough", 18), "ended after 3.20 s with 18 of 20; 18 are enough"),
        (whole("all", 20, deadline_s=None), ALL),
        (whole("all", 1, asked=1), "ended after 3.20 s, when the only one asked had answered"),
        (whole("all", 19), "ended after 3.20 s, when there was nobody left to wait for; 19 of 20 counted"),
        (
            whole("timeout", 5, seconds=3600.0),
            "ended after 1:00:00, the most that it may take, with 5 of 20; 16 were needed",
        ),
        (whole("of tomorrow", 5, quorum=None), "ended after 3.20 s (of tomorrow) with 5 of 20"),
        ([*begun(2), reply(IDS[0])], "under way; 1 of 2 have answered"),
        ([*begun(2), reply(IDS[0]), reply(IDS[1]), finished()], "ended after 3.20 s; all 2 answered"),
        (
            [*begun(3), reply(IDS[0]), reply(IDS[1], error=WorkerDied(why="SIGKILL").to_wire()), finished()],
            "ended after 3.20 s; 1 of 3 answered, 1 failed, 1 late",
        ),
        (
            [*whole("all", 20), ("phase-started", {**AT, "devices": IDS[:3]}), finished(1.1)],
            f"{ALL}; 3 of them lacked the model, and to ask again took 1.10 s more",
        ),
        ([("selection", {**AT, "selector": "random", "spared": {}})], "nobody was asked"),
    ],
)
def test_how_a_phase_ended_is_one_sentence(events: Events, words: str) -> None:
    assert ended(phase(events)) == words


def test_a_phase_of_a_run_that_ended_is_broken_off() -> None:
    assert ended(phase([*begun(2), reply(IDS[0])], over=True)) == "broken off when the run ended; 1 of 2 had answered"


# --- why a device did not count

CUT = whole("deadline", 16)
GONE = "went away and did not come back within 5.0 s"
NO_ANSWER = "had not answered after 3.20 s, when the round ended with 16 of 20"
LAST = IDS[19]


def late(**changed: object) -> Event:
    facts = {"seconds": 15.4, "late_s": 11.3, "fetch_s": 0.5, "run_s": 14.0, "bytes_down": 152_000, "error": None}
    return "device-late", {**AT, "device": LAST, **facts, **changed}


def lost(error: Mapping[str, object], *more: Event) -> Events:
    return [*begun(), reply(LAST, error=error), finished(), *more]


def spared(code: str, why: str) -> Events:
    return [("selection", {**AT, "selector": "considerate", "spared": {LAST: {"code": code, "why": why}}}), *begun(19)]


@pytest.mark.parametrize(
    ("events", "outcome", "words"),
    [
        (CUT, "late", NO_ANSWER),
        (
            [*CUT, late()],
            "late",
            f"{NO_ANSWER}; its answer came 11.3 s too late",
        ),
        (
            [*CUT, late(error=InstructionCancelled(message="m").to_wire())],
            "late",
            f"{NO_ANSWER}; it dropped the work 11.3 s later, as it was told to",
        ),
        (
            [*CUT, late(error=AppRaised(why="KeyError: 'x'").to_wire())],
            "late",
            f"{NO_ANSWER}; it failed 11.3 s later: The client app raised KeyError: 'x'",
        ),
        (lost(DeviceLost(device=LAST, grace_s=5.0).to_wire()), "lost", GONE),
        (
            lost(DeviceLost(device=LAST, grace_s=5.0).to_wire(), late()),
            "lost",
            f"{GONE}; its answer came 11.3 s too late",
        ),
        (
            whole("deadline", 16, away=[LAST]),
            "lost",
            "had gone away, and was not back after 3.20 s, when the round ended with 16 of 20",
        ),
        (
            lost(ReplyTimedOut(device=LAST, seconds=2.0).to_wire()),
            "late",
            "had not answered after 2.00 s, the most that it may take",
        ),
        (
            lost(ShardCounted(device=LAST, shard="2", site="line-3").to_wire()),
            "not-needed",
            "shard 2 of site line-3 was counted already, by another board",
        ),
        (
            lost(ShardCounted(device=LAST, shard="2", site="line-3", by=IDS[0]).to_wire()),
            "not-needed",
            "shard 2 of site line-3 was counted already, by board-1",
        ),
        (lost(AppRaised(why="ValueError: odd").to_wire()), "failed", "its app raised ValueError: odd"),
        (lost(WorkerDied(why="SIGKILL").to_wire()), "failed", "its worker died while it ran the app: SIGKILL"),
        (
            lost({"code": "of-tomorrow", "message": f"The device {LAST} is tired."}),
            "failed",
            "The device board-20 is tired",
        ),
        (lost({"code": "app-raised", "message": "Short of facts."}), "failed", "Short of facts"),
        (
            spared("battery-low", "battery at 12 % and not charging"),
            "not-asked",
            "was not asked: battery at 12 % and not charging",
        ),
        (
            spared("busy", "still at work on train of round 2"),
            "not-asked",
            "was not asked: still at work on train of round 2",
        ),
        (begun(), "under-way", ""),
        ([*begun(), reply(LAST)], "counted", ""),
    ],
)
def test_why_a_device_did_not_count_is_told_in_words(events: Events, outcome: str, words: str) -> None:
    found = phase(events)
    part = found.part(LAST)
    assert (found.outcome(part), why(found, part, name_of)) == (outcome, words)


def test_who_owes_an_answer_when_the_run_ends_is_late() -> None:
    found = phase(begun(), over=True)
    assert why(found, found.part(LAST), name_of) == "had not answered when the run ended"


def test_remedies_stand_with_failures_and_not_with_what_a_round_did_without() -> None:
    raised = phase(lost(AppRaised(why="x").to_wire()))
    assert remedy(raised, raised.part(LAST)).startswith("Correct the app")
    assert code(raised, raised.part(LAST)) == "app-raised"
    cut = phase(CUT)
    assert remedy(cut, cut.part(LAST)) == ""
    assert code(cut, cut.part(LAST)) == "cut-off"
    not_asked = phase(spared("hot", "at 85 °C"))
    assert code(not_asked, not_asked.part(LAST)) == "hot"


def test_a_device_counts_when_the_coordinator_says_or_else_when_it_answered() -> None:
    found = phase(whole("enough", 18))
    assert found.part(IDS[4]).counted_s == pytest.approx(1.4)
    older = phase([*begun(), reply(LAST, seconds=2.5)])
    assert older.part(LAST).counted_s == 2.5


def test_who_is_asked_again_counts_with_all_that_both_times_took() -> None:
    again: Events = [("phase-started", {**AT, "devices": [LAST]}), reply(LAST, seconds=0.8), finished(0.9)]
    found = phase([*begun(), reply(LAST, seconds=2.0), finished(3.0), *again])
    part = found.part(LAST)
    assert (part.asks, part.seconds, part.counted_s) == (2, 2.8, 3.8)
    assert (part.sizes["bytes_down"], part.times["run_s"]) == (304_000, 2.6)


def test_whom_a_phase_asked_beyond_what_the_strategy_drew() -> None:
    chosen = {**AT, "selector": "considerate", "wanted": 16, "enough": 16, "asked": IDS, "heard": [LAST], "spared": {}}
    words = "20 devices asked, 4 more than the strategy drew; selector considerate; waited for although slow: board-20"
    assert selected(phase([("selection", chosen), *begun()]), name_of) == words
    assert selected(phase(begun()), name_of) == ""


def test_under_a_mask_who_is_not_in_the_sum_did_not_count() -> None:
    unlisted = PeerUnlisted(device=LAST).to_wire()
    group = {**AT, "summed": IDS[:18], "dropped": [IDS[18]], "left_out": {LAST: unlisted}, "error": None, "devices": 20}
    found = phase([*begun(), *(reply(device) for device in IDS), finished(), ("secure-group", group)])
    assert found.outcome(found.part(IDS[0])) == "counted"
    assert "malformed" in why(found, found.part(IDS[18]), name_of)
    assert why(found, found.part(LAST), name_of).startswith("is not in the sum: ")
    assert code(found, found.part(LAST)) == "peer-unlisted"
    failed = {**AT, "error": {"code": "secure-sum-unrecoverable", "message": "The sum stays masked."}, "devices": 20}
    found = phase([*begun(), *(reply(device) for device in IDS), finished(), ("secure-group", failed)])
    assert why(found, found.part(IDS[0]), name_of) == "is not in the sum: The sum stays masked"


def test_groups_that_were_sent_apart_are_one_phase() -> None:
    half = {"seconds": 2.0, "quorum": 8, "enough": 9, "deadline_s": 3.2}
    events = [*begun(), *(reply(device) for device in IDS[:17])]
    events += [("phase-settled", {**AT, **half, "how": "all", "counted": dict.fromkeys(IDS[:10], 1.0)}), finished(2.0)]
    events += [settled("deadline", 17, quorum=8, enough=9), finished(3.2)]
    assert ended(phase(events)) == "ended on its deadline of 3.20 s with 17 of 20; 16 were needed"


def test_outside_rounds_each_exchange_is_a_phase() -> None:
    query = {"round": None, "phase": "query"}
    one: Events = [("phase-started", {**query, "devices": IDS[:2]}), ("phase-finished", {**query, "seconds": 1.0})]
    assert [each.name for each in told([*one, *one]).rounds[0].phases] == ["query", "query"]


# --- asynchronous runs


def given_out(version: int, device: str) -> Event:
    return "phase-started", {"round": version, "phase": "train", "devices": [device]}


def answered(version: int, device: str, **changed: object) -> Event:
    about = {"round": version, "phase": "train", "device": device, "seconds": 1.5, "error": None}
    return "device-reply", {**about, **FACTS, **changed}


def step(made: int, *updates: tuple[str, int]) -> Event:
    of = [{"device": device, "staleness": old, "weight": (1 + old) ** -0.5, "seconds": 1.5} for device, old in updates]
    return "async-step", {"round": made, "updates": of, "seconds": 2.0}


A, B, C = IDS[:3]
ASYNC: Events = [
    *(given_out(1, device) for device in (A, B, C)),
    answered(1, A),
    given_out(1, A),
    answered(1, B),
    step(1, (A, 0), (B, 0)),
    given_out(2, B),
    answered(1, A),
    answered(2, B),
    step(2, (A, 1), (B, 0)),
    given_out(3, A),
    answered(1, C),
]


def test_what_an_asynchronous_run_hands_out_is_followed_into_the_steps_that_took_it() -> None:
    first = told(ASYNC).rounds[1].phases[0]
    assert [(part.device, part.step, part.staleness) for part in first.parts] == [
        (A, 1, 0),
        (B, 1, 0),
        (C, None, None),
        (A, 2, 1),
    ]
    assert ended(first) == "handed out 4 times; 3 updates counted, 1 waits for the next step"
    over = told(ASYNC, over=True).rounds[1].phases[0]
    assert why(over, over.part(C), name_of) == "its update came after the last step"


def test_an_update_that_was_refused_does_not_pass_for_the_next_one() -> None:
    refused = [given_out(1, A), answered(1, A), step(1, (B, 0)), given_out(2, A), answered(2, A), step(2, (A, 0))]
    rounds = told(refused).rounds
    assert (rounds[1].phases[0].part(A).step, rounds[2].phases[0].part(A).step) == (None, 2)


def test_a_step_tells_its_updates_with_the_versions_they_were_trained_from() -> None:
    explained_step = explained(told(ASYNC).rounds[2], [], NAMES, None)["step"]
    assert explained_step["told"] == "made of 2 updates in 2.00 s, 0.5 steps old on average"
    assert [(one["name"], one["version"], one["staleness"]) for one in explained_step["updates"]] == [
        ("board-1", 0, 1),
        ("board-2", 1, 0),
    ]


def test_an_asynchronous_evaluation_is_over_when_all_have_answered() -> None:
    about = {"round": 1, "phase": "evaluate"}
    one: Events = [*ASYNC, ("phase-started", {**about, "devices": [A, B]})]
    replies: Events = [
        ("device-reply", {**about, "device": device, "seconds": 1.0, "error": None}) for device in (A, B)
    ]
    assert ended(told([*one, *replies[:1]]).rounds[1].phases[-1]) == "under way; 1 of 2 have answered"
    assert ended(told([*one, *replies]).rounds[1].phases[-1]) == "all 2 answered"


STARTED = st.builds(
    lambda number, devices: ("phase-started", {"round": number, "phase": "train", "devices": devices}),
    st.none() | st.integers(0, 2),
    st.lists(st.sampled_from(IDS[:4])),
)
NAME = st.sampled_from(
    [
        "selection", "phase-started", "device-reply", "device-late", "phase-finished", "phase-settled", "secure-group",
        "secure-refused", "async-step", "central", "new-one",
    ]
)  # fmt: skip
DATA = st.fixed_dictionaries(
    {},
    optional={
        "round": st.none() | st.integers(0, 2),
        "phase": st.sampled_from(["train", "evaluate"]),
        "device": st.sampled_from(IDS[:4]),
        "seconds": st.none() | st.floats(0, 1e6),
        "late_s": st.none() | st.floats(0, 1e6),
        "how": st.sampled_from(["all", "enough", "deadline", "timeout", "?"]),
        "quorum": st.none() | st.integers(0, 9) | st.floats(0, 1),
        "deadline_s": st.none() | st.floats(0, 10),
        "error": st.none()
        | st.sampled_from([{}, {"code": "cut-off"}, CutOff().to_wire(), AppRaised(why="x").to_wire()]),
        "counted": st.none() | st.dictionaries(st.sampled_from(IDS[:4]), st.floats(0, 10)),
        "spared": st.none() | st.dictionaries(st.sampled_from(IDS[:4]), st.just({"code": "hot", "why": "hot"})),
        "heard": st.none() | st.lists(st.sampled_from(IDS[:4])),
        "updates": st.none() | st.lists(st.fixed_dictionaries({}, optional={"device": st.sampled_from(IDS[:4])})),
        "summed": st.lists(st.sampled_from(IDS[:4])),
        "via": st.just("https"),
        "bytes_down": st.none() | st.integers(0, 10**9),
    },
)


@settings(deadline=None)
@given(st.lists(STARTED | st.tuples(NAME, DATA), max_size=12), st.booleans(), st.integers(20, 200))
def test_any_events_can_be_explained_and_drawn_at_any_width(events: Events, over: bool, width: int) -> None:
    for story in told(events, over=over).rounds.values():
        for each in story.phases:
            each.add_absent(IDS[:5])
        json.dumps(explained(story, story.phases, NAMES, None))
        console = Console(file=io.StringIO(), width=width)
        console.print(drawn({"run": 7, "app": "har"}, story, story.phases, NAMES, width=width))
