"""Boards that see other data than their model was trained on: who they are, and when the run is started again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from argosy_common.errors import BlobUnknown
from argosy_server.models.drifting import Drift, Watch
from argosy_server.settings import DriftTable
from argosy_server.store import RunStatus
from tests.server.models.test_rollouts import ALL, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


class Runs:
    """Starts runs by writing their rows."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.first = self.create()
        self.end(self.first)
        self.repeated: list[int] = []
        self.refuse = False

    def create(self) -> int:
        return self.bench.store.runs.create(
            app_name="har", app_digest="ab" * 32, app_size=9, server_app="s", client_app="c", run_config={}, options={}
        )

    def end(self, run: int) -> None:
        self.bench.store.runs.update(run, status=RunStatus.RUNNING)
        self.bench.store.runs.update(run, status=RunStatus.FINISHED)

    def repeat(self, run: int) -> int:
        if self.refuse:
            raise BlobUnknown(peer="The coordinator", digest="ab")
        self.repeated.append(run)
        return self.create()


def watched(bench: Bench, **settings: float) -> tuple[Runs, Watch]:
    runs = Runs(bench)
    table = DriftTable.model_validate({"repeat_share": 0.5, "rest_s": 3600.0, **settings})
    return runs, Watch(bench.store, table, drifts=bench.rollouts.drifts, repeat=runs.repeat, clock=bench.clock)


def roll_out(bench: Bench, drifts: Sequence[float | None], *, run: int | None = None) -> None:
    """Roll a version out to all boards, which tell how far what they see is from what it was trained on."""
    bench.add(1, run=run)
    bench.rollouts.start("har:1", ALL, "op")
    for (device, body), drift in zip(sorted(bench.sent, key=lambda each: each[0]), drifts, strict=True):
        bench.say(device, body, "active", drift=drift)
    bench.tick()


def test_the_boards_whose_model_sees_other_data_are_told_of_also_after_a_restart(bench: Bench) -> None:
    roll_out(bench, [0.05, 0.3, None, 0.25, *[0.0] * 6])
    for _ in range(2):
        (drift,) = bench.rollouts.drifts()
        assert drift.model == "har:1"
        assert drift.drifting == [bench.devices[1], bench.devices[3]]
        assert bench.devices[2] not in drift.by_device
        bench.start()


def test_a_run_is_started_again_once_enough_boards_drift_and_not_again_at_once(bench: Bench) -> None:
    runs, watch = watched(bench)
    roll_out(bench, [0.5] * 5 + [0.1] * 5, run=runs.first)
    watch.tick()
    assert runs.repeated == [], "it was run just now"
    bench.clock.passed += 4000
    watch.tick()
    assert runs.repeated == [runs.first]
    (entry,) = [each for each in bench.store.audit.tail(10) if each.action == "drift.run"]
    assert (entry.actor, entry.detail["drifting"], entry.detail["told"]) == ("coordinator", "5", "10")
    bench.clock.passed += 40_000
    watch.tick()
    assert len(runs.repeated) == 1, "it is under way"
    runs.end(2)
    bench.clock.passed += 61
    watch.tick()
    assert len(runs.repeated) == 2


@pytest.mark.parametrize(
    ("drifts", "settings"),
    [
        ([0.5] * 4 + [0.1] * 6, {}),
        ([0.5, 0.5] + [None] * 8, {}),
        ([0.5] * 10, {"repeat_share": None}),
    ],
)
def test_too_few_or_nobodys_wish_start_nothing(
    bench: Bench, drifts: list[float | None], settings: dict[str, float]
) -> None:
    runs, watch = watched(bench, **settings)
    roll_out(bench, drifts, run=runs.first)
    bench.clock.passed += 4000
    watch.tick()
    assert runs.repeated == []


def test_a_run_that_cannot_be_started_and_a_model_of_no_run_are_passed_over(bench: Bench) -> None:
    runs, watch = watched(bench)
    roll_out(bench, [0.5] * 10)
    bench.clock.passed += 4000
    watch.tick()
    assert runs.repeated == []
    runs.refuse = True
    other = Watch(
        bench.store,
        DriftTable(repeat_share=0.5, rest_s=1.0),
        drifts=lambda: [Drift("har:1", {"a": 1.0, "b": 1.0, "c": 1.0})],
        repeat=runs.repeat,
        clock=bench.clock,
    )
    other.tick()
