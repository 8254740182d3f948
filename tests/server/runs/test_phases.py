"""A phase's bookkeeping, and the weighted mean that the live view shows."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import WorkerDied
from argosy_server.runs.live import LiveRun
from argosy_server.runs.phases import Phase, weighted_mean

VALUES = st.floats(-1e6, 1e6)


def test_the_mean_is_weighted_by_examples() -> None:
    rows = [{"loss": 1.0, "num-examples": 1.0}, {"loss": 4.0, "num-examples": 3.0}]
    assert weighted_mean(rows) == {"loss": 3.25, "num-examples": 4.0}


def test_without_weights_all_count_alike() -> None:
    assert weighted_mean([{"loss": 1.0}, {"loss": 4.0}]) == {"loss": 2.5}


def test_a_metric_that_one_device_lacks_is_left_out() -> None:
    assert weighted_mean([{"loss": 1.0, "f1": 1.0}, {"loss": 3.0}]) == {"loss": 2.0}


def test_a_reply_without_any_metric_does_not_hide_the_others() -> None:
    """A device that lacks the model answers so, and is asked again."""
    assert weighted_mean([{"loss": 1.0, "num-examples": 2.0}, {}]) == {"loss": 1.0, "num-examples": 2.0}
    assert weighted_mean([{}]) == {}


def test_no_replies_and_no_examples_give_no_mean() -> None:
    assert weighted_mean([]) == {}
    assert weighted_mean([{"loss": 1.0, "num-examples": 0.0}]) == {"num-examples": 0.0}


@given(st.lists(st.tuples(VALUES, st.integers(0, 10**6)), min_size=1, max_size=20))
def test_the_mean_lies_between_the_extremes(rows: list[tuple[float, int]]) -> None:
    mean = weighted_mean([{"m": value, "num-examples": float(weight)} for value, weight in rows])
    heard = [value for value, weight in rows if weight]
    if heard:
        slack = 1e-9 * max(1.0, *(abs(value) for value in heard))
        assert min(heard) - slack <= mean["m"] <= max(heard) + slack
    else:
        assert "m" not in mean


def test_not_a_number_is_shown_and_not_hidden() -> None:
    assert math.isnan(weighted_mean([{"loss": math.nan}, {"loss": 1.0}])["loss"])


def test_a_phase_counts_replies_bytes_and_failures() -> None:
    phase = Phase(3, "train", ["a", "b"], started_at=10.0)
    phase.add("a", seconds=1.0, error=None, facts={"bytes_up": 5, "bytes_down": 7}, metrics={"loss": 2.0})
    told = phase.add("b", seconds=2.0, error=WorkerDied(why="SIGKILL"), facts={}, metrics={})
    assert told["error"] == WorkerDied(why="SIGKILL").to_wire()
    finished = phase.finished(now=12.5)
    assert finished == {
        "round": 3,
        "phase": "train",
        "seconds": 2.5,
        "sent": 2,
        "replied": 1,
        "failed": 1,
        "metrics": {"loss": 2.0},
        "bytes_down": 7,
        "bytes_up": 5,
    }
    assert phase.causes() == "b: The worker died while it ran the app: SIGKILL"


def test_many_causes_are_cut_short() -> None:
    phase = Phase(1, "train", [], 0.0)
    for number in range(8):
        phase.add(f"d{number}", seconds=1.0, error=WorkerDied(why="x"), facts={}, metrics={})
    assert phase.causes().endswith("; and 3 more")


def test_a_phase_nobody_answered_says_so() -> None:
    assert Phase(1, "train", ["a"], 0.0).causes() == "nobody answered"


def test_the_live_table_follows_a_round() -> None:
    live = LiveRun()
    live.apply("phase-started", {"round": 1, "phase": "train", "devices": ["a", "b"]})
    reply = {"round": 1, "phase": "train", "device": "a", "seconds": 1.5, "bytes_up": 3, "bytes_down": 4, "error": None}
    live.apply("device-reply", reply)
    live.apply("something-new", {})
    first, second = live.rows(lambda device: f"name-{device}", lambda _device: "running")
    assert (first["name"], first["doing"], first["bytes_up"], first["seconds"]) == ("name-a", "idle", 3, 1.5)
    assert second["doing"] == "train: running"
    live.apply("run-finished", {})
    assert [row["doing"] for row in live.rows(str, str)] == ["idle", "idle"]
