from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.proxy import Meter
from benchmarks.rounds import Job, Observed, Round, has_ended, read_rounds


def _marks(path: Path, number: int, at: float, mean: float, errors: int = 0) -> None:
    lines = [
        {"mark": "train-begins", "round": number, "at": at},
        {"mark": "train-ends", "round": number, "at": at + 2, "errors": errors, "compute_s": 0.5},
        {"mark": "aggregated", "round": number, "at": at + 3},
        {"mark": "evaluate-begins", "round": number, "at": at + 3},
        {"mark": "evaluate-ends", "round": number, "at": at + 4, "errors": 0, "compute_s": 0.25, "mean": mean},
    ]
    with path.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def test_overhead_is_wall_time_without_the_slowest_devices_compute(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    _marks(marks, 1, 100.0, 1.0)
    (only,) = read_rounds(marks)
    assert (only.wall_s, only.overhead_s, only.aggregate_s) == (4.0, 3.25, 1.0)


def test_an_unfinished_round_and_a_half_written_line_are_left_out(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    assert read_rounds(marks) == []
    _marks(marks, 1, 100.0, 1.0)
    with marks.open("a") as stream:
        stream.write(json.dumps({"mark": "train-begins", "round": 2, "at": 104.0}) + '\n{"mark": "tr')
    assert [r.number for r in read_rounds(marks)] == [1]
    assert not has_ended(marks)


def test_an_error_reply_is_told_rather_than_measured(tmp_path: Path) -> None:
    _marks(tmp_path / "marks", 1, 100.0, 1.0, errors=1)
    with pytest.raises(ValueError, match="error"):
        read_rounds(tmp_path / "marks")


def test_a_model_that_does_not_change_is_told_rather_than_measured(tmp_path: Path) -> None:
    for number in (1, 2):
        _marks(tmp_path / "marks", number, 100.0 * number, 1.0)
    with pytest.raises(ValueError, match="did not arrive"):
        read_rounds(tmp_path / "marks")


def test_models_are_counted_by_phase_and_bytes_by_steady_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("benchmarks.proxy.time.monotonic", lambda: now)
    down = Meter()
    for at, size in ((1.0, 9_000_000), (10.5, 40_000), (12.5, 2_020_000)):
        now = at
        down.add(size)
    rounds = [Round(number, begin, begin + 2, begin + 4, 0.0, 0.0, 0.0) for number, begin in ((1, 0.0), (2, 10.0))]
    run = Observed(Job(1.0, 2, 10, devices=2), rounds, Meter(), down)
    assert run.models_sent() == 1.0
    assert run.wire_ratio(run.down) == pytest.approx(1.03)
