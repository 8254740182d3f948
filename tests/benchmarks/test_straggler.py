from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.apps.boards.boards_app.delays import Slow
from benchmarks.straggler_curves import (
    Curve,
    Mark,
    Outcome,
    Settled,
    board_seeds,
    read_curve,
    settled,
    times_faster,
)
from benchmarks.straggler_native import stands_still, trains


def _curve(*marks: tuple[float, float]) -> Curve:
    """Return a curve of (seconds, accuracy), one round each, round 0 first."""
    return Curve(tuple(Mark(seconds, number, accuracy) for number, (seconds, accuracy) in enumerate(marks)))


def test_a_curve_counts_from_its_first_mark_and_leaves_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    assert read_curve(path).marks == ()
    rows = [{"at": 50.0 + number, "round": number, "accuracy": 0.1 * number, "loss": 1.0} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"at": 5')
    curve = read_curve(path, "cut off")
    assert [(mark.seconds, mark.round) for mark in curve.marks] == [(0.0, 0), (1.0, 1), (2.0, 2)]
    assert (curve.rounds, curve.round_s, curve.best, curve.why) == (2, 1.0, 0.2, "cut off")


def test_the_target_is_reached_by_the_first_mark_at_or_above_it() -> None:
    curve = _curve((0.0, 0.1), (2.0, 0.9), (4.0, 0.85), (6.0, 0.95))
    assert curve.reaching(0.9) == Mark(2.0, 1, 0.9)
    assert curve.reaching(0.99) is None


def test_a_curve_without_a_round_has_no_seconds_a_round() -> None:
    assert (Curve(()).rounds, Curve(()).round_s, Curve(()).best) == (0, None, 0.0)
    assert _curve((0.0, 0.1)).round_s is None


def test_a_peer_whose_devices_train_nothing_is_no_peer() -> None:
    assert stands_still(_curve((0.0, 0.14), (9.0, 0.14), (18.0, 0.14), (27.0, 0.14)))
    assert not stands_still(_curve((0.0, 0.14), (9.0, 0.14), (18.0, 0.14)))
    assert not stands_still(_curve((0.0, 0.14), (9.0, 0.14), (18.0, 0.2), (27.0, 0.14)))


def test_ratios_are_of_mean_times_over_the_seeds() -> None:
    peer = Outcome((_curve((0.0, 0.1), (20.0, 0.9)), _curve((0.0, 0.1), (20.0, 0.8), (40.0, 0.9))), 0.9)
    way = Outcome((_curve((0.0, 0.1), (4.0, 0.9)), _curve((0.0, 0.1), (6.0, 0.9))), 0.9)
    assert (peer.seconds, peer.rounds, peer.slowest) == (30.0, 1.5, 40.0)
    assert times_faster(way, peer) == 6.0
    assert times_faster(peer, peer) == 1.0


def test_of_a_way_that_missed_the_target_once_no_time_and_no_ratio_is_told() -> None:
    peer = Outcome((_curve((0.0, 0.1), (20.0, 0.9)),), 0.9)
    missed = Outcome((_curve((0.0, 0.1), (4.0, 0.9)), _curve((0.0, 0.1), (6.0, 0.8))), 0.9)
    assert (missed.seconds, missed.rounds, missed.slowest) == (None, None, None)
    assert times_faster(missed, peer) is None
    assert times_faster(peer, missed) is None


def _events(answers: list[float | None], **ends: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of round 5's training; `answers` are seconds, None for a device that failed."""
    where = {"round": 5, "phase": "train"}
    told: list[dict[str, Any]] = [
        {"name": "phase-finished", "data": {"round": 4, "phase": "train", "seconds": 99.0}},
        {"name": "central", "data": {"round": 5, "metrics": {}}},
        {"name": "phase-started", "data": {**where, "devices": [f"d{number}" for number in range(len(answers))]}},
    ]
    for seconds in answers:
        error = None if seconds is not None else {"code": "reply-timed-out"}
        told.append({"name": "device-reply", "data": {**where, "seconds": seconds or 30.0, "error": error}})
    told += [{"name": name.replace("_", "-"), "data": {**where, **data}} for name, data in ends.items()]
    return told


def test_a_lost_device_costs_what_the_round_took_beyond_its_deadline() -> None:
    answers: list[float | None] = [1.0, 1.1, 1.2, 1.3, None]
    events = _events(answers, phase_settled={"seconds": 2.5, "deadline_s": 2.0}, phase_finished={"seconds": 2.6})
    found = settled(events, 5, 0.8)
    assert found == Settled(2.5, 2.0, 1.3)
    assert found.beyond_s == 0.5


def test_or_beyond_the_answer_that_completes_the_quorum_if_that_is_later() -> None:
    answers: list[float | None] = [1.0, 1.1, 1.2, 3.0, None]
    events = _events(answers, phase_settled={"seconds": 3.25, "deadline_s": 2.0}, phase_finished={"seconds": 3.5})
    found = settled(events, 5, 0.8)
    assert found is not None
    assert found.beyond_s == 0.25


def test_a_phase_without_a_rule_is_judged_by_its_end_and_its_answers() -> None:
    found = settled(_events([1.0, 2.0, None], phase_finished={"seconds": 42.0}), 5, 1.0)
    assert found == Settled(42.0, None, 2.0)


def test_a_phase_that_is_not_over_is_not_judged() -> None:
    assert settled([], 5, 0.8) is None
    assert settled(_events([1.0, 2.0]), 5, 0.8) is None


def test_as_many_boards_are_slow_as_the_share_says() -> None:
    delay = Slow(0.5, 0.1, 10.0)
    for boards, slow in ((10, 1), (20, 2)):
        seeds = board_seeds(boards, delay)
        assert len(set(seeds)) == boards
        assert sum(map(delay.is_slow, seeds)) == slow
    with pytest.raises(ValueError, match="no whole number"):
        board_seeds(15, delay)


def test_a_training_is_seen_by_its_round_in_the_notes(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    assert not trains(notes, 1)
    notes.write_text("abc 1\ndef 12\n")
    assert trains(notes, 1)
    assert not trains(notes, 2)
