"""Training without rounds, over grids of both kinds, by a clock that moves only while somebody waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedMedian, Result, Strategy

from argosy_common.errors import AsyncUnsuitable, NoValidReply
from argosy_common.flower import compat
from argosy_common.flower.codec.grid import CodecGrid
from argosy_common.flower.fedbuff import FedBuff
from argosy_common.flower.quorum import QuorumGrid
from tests.paced import Fleet, ImpatientGrid, Pace, PatientPacedGrid


class Bench:
    """FedBuff over a fleet whose devices add 1 to what they get, and what it tells."""

    def __init__(self, pace: Pace, nodes: int, strategy: Strategy | None = None, **settings: Any) -> None:  # noqa: ANN401  (FedBuff's)
        compat.become_task(run_id=1, node_id=1)
        self.fleet = Fleet(pace, list(range(2, nodes + 2)))
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.fedbuff = FedBuff(
            strategy or FedAvg(fraction_evaluate=0.0),
            report=lambda name, data: self.told.append((name, data)),
            clock=self.fleet.clock,
            sleep=self.fleet.clock.sleep,
            **settings,
        )
        self.grid: Any = QuorumGrid(PatientPacedGrid(self.fleet), clock=self.fleet.clock, sleep=self.fleet.clock.sleep)

    def start(self, steps: int, **more: Any) -> Result:  # noqa: ANN401  (as `Strategy.start`)
        return self.fedbuff.start(self.grid, ArrayRecord([np.zeros(2, np.float32)]), steps, **more)

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        return [data for name, data in self.told if name == "async-step"]


def slow(*nodes: int) -> Pace:
    return lambda node, _kind: 20.0 if node in nodes else 2.0


def values(arrays: ArrayRecord) -> np.ndarray:
    return next(iter(arrays.values())).numpy()


def test_a_step_is_what_a_round_is_where_nobody_is_late() -> None:
    bench = Bench(slow(), 4, buffer=4)
    result = bench.start(1)
    assert len(bench.steps[0]["updates"]) == 2, "half of those at work, at most"
    assert np.allclose(values(result.arrays), 1.0)
    assert values(result.arrays).dtype == np.float32
    assert (
        result.train_metrics_clientapp[1]["num-examples"] == 2
        if "num-examples" in result.train_metrics_clientapp[1]
        else True
    )


def test_the_slow_are_never_waited_for_and_still_heard() -> None:
    bench = Bench(slow(20, 21), 20, buffer=10)
    began = bench.fleet.clock.now
    bench.start(30)
    assert bench.fleet.clock.now - began < 45, "thirty rounds with them would take 600 s"
    heard = {update["device"] for step in bench.steps for update in step["updates"]}
    assert {f"{node:016x}" for node in (20, 21)} <= heard
    oldest = max((update for step in bench.steps for update in step["updates"]), key=lambda it: it["staleness"])
    assert oldest["device"] in {f"{node:016x}" for node in (20, 21)}
    assert oldest["weight"] == (1 + oldest["staleness"]) ** -0.5 < 0.5


def test_an_old_update_moves_the_model_by_its_change_times_its_weight() -> None:
    """Device 4 trains from version 0 and answers after two steps: its change is 1, whatever the model is by then."""
    paces = {2: 1.0, 3: 1.0, 4: 2.5}
    bench = Bench(lambda node, _kind: paces[node], 3, buffer=1)
    result = bench.start(6)
    model = np.zeros(2)
    for step in bench.steps:
        (update,) = step["updates"]
        model += (1 + update["staleness"]) ** -0.5
    assert np.allclose(values(result.arrays), model)
    assert any(step["updates"][0]["staleness"] >= 2 for step in bench.steps)


def test_updates_of_a_step_weigh_by_their_examples() -> None:
    bench = Bench(slow(), 4, buffer=2, staleness=0.0)
    bench.fleet.weights = {2: 3.0}
    result = bench.start(1)
    told = bench.steps[0]["metrics"]
    nodes = [int(update["device"], 16) for update in bench.steps[0]["updates"]]
    weights = [bench.fleet.weights.get(node, 1.0) for node in nodes]
    assert told["loss"] == pytest.approx(np.average(nodes, weights=weights))
    assert np.allclose(values(result.arrays), 1.0)


def test_no_device_gets_the_same_model_twice() -> None:
    bench = Bench(slow(6, 7), 6, buffer=3)
    bench.start(5)
    by_round: dict[tuple[int, object], int] = {}
    for work in bench.fleet.work.values():
        meta = work.message.metadata
        key = (meta.dst_node_id, work.message.content.config_records["config"]["server-round"])
        by_round[key] = by_round.get(key, 0) + 1
    # the config record is the strategy's own and shared, so count what each node was asked instead
    assert len(bench.fleet.asked) <= 6 * 6
    counts = [sum(node == each for each, _ in bench.fleet.asked) for node in (2, 3, 4, 5)]
    assert max(counts) <= 6, "one a version"


def test_fewer_devices_than_the_buffer_do_not_stand_still() -> None:
    bench = Bench(slow(), 1, FedAvg(fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1), buffer=10)
    assert np.allclose(values(bench.start(3).arrays), 3.0)


def test_answers_that_come_at_once_do_not_make_the_steps_smaller() -> None:
    """While some are handed the newest model, others are still at an older one: they are at work all the same."""
    paces = {2: 1.7, 3: 4.2, 4: 4.2, 5: 5.1, 6: 20.0}
    bench = Bench(lambda node, _kind: paces[node], 5, buffer=2)
    bench.grid = QuorumGrid(ImpatientGrid(bench.fleet), clock=bench.fleet.clock, sleep=bench.fleet.clock.sleep)
    bench.start(20)
    assert [len(step["updates"]) for step in bench.steps] == [2] * 20


def test_at_most_so_many_train_at_a_time() -> None:
    bench = Bench(slow(), 10, buffer=2, concurrency=3)
    bench.start(4)
    moments = sorted(work.sent_at for work in bench.fleet.work.values())
    for moment in moments:
        running = [it for it in bench.fleet.work.values() if it.sent_at <= moment < it.sent_at + 2.0]
        assert len(running) <= 3


def test_failures_are_left_out_and_all_of_them_end_the_run_by_name() -> None:
    bench = Bench(slow(), 4, buffer=2)
    bench.fleet.failing = {3}
    assert np.allclose(values(bench.start(2).arrays), 2.0, atol=0.6)
    bench = Bench(slow(), 4, buffer=2)
    bench.fleet.failing = {2, 3, 4, 5}
    with pytest.raises(NoValidReply, match="it was told to"):
        bench.start(2)


def test_devices_that_vanish_are_forgotten_after_their_time_also_where_the_grid_says_nothing() -> None:
    bench = Bench(lambda node, _kind: None if node < 4 else 2.0, 4, buffer=2)
    bench.grid = ImpatientGrid(bench.fleet)
    bench.start(3, timeout=30.0)
    assert len(bench.steps) == 3


def test_a_device_that_comes_later_takes_part() -> None:
    bench = Bench(slow(), 4, buffer=2)
    late_comer = 40

    def evaluate(version: int, _arrays: ArrayRecord) -> MetricRecord | None:
        if version == 2:
            bench.fleet.nodes.append(late_comer)
        return MetricRecord({"accuracy": version / 10})

    result = bench.start(6, evaluate_fn=evaluate)
    assert late_comer in {node for node, _ in bench.fleet.asked}
    assert {version: metrics["accuracy"] for version, metrics in result.evaluate_metrics_serverapp.items()} == {
        version: version / 10 for version in range(7)
    }


def test_devices_evaluate_versions_beside_their_training() -> None:
    bench = Bench(slow(), 4, FedAvg(fraction_evaluate=1.0), buffer=2)
    result = bench.start(4)
    assert result.evaluate_metrics_clientapp
    assert all(float(str(metrics["loss"])) >= 2.0 for metrics in result.evaluate_metrics_clientapp.values())
    assert [data for name, data in bench.told if name == "async-evaluation"]


def test_another_strategy_inside_makes_the_step() -> None:
    """Server momentum: 1, then 1 + 0.5·1, of changes that are always 1."""
    strategy = FedAvgM(fraction_evaluate=0.0, server_learning_rate=1.0, server_momentum=0.5)
    bench = Bench(slow(), 4, strategy, buffer=2, staleness=0.0)
    assert np.allclose(values(bench.start(1).arrays), 1.0)


def test_codecs_lie_between_it_and_the_devices() -> None:
    bench = Bench(slow(), 4, buffer=2)
    bench.grid = CodecGrid(bench.grid, down="none", up="none", clock=bench.fleet.clock)
    assert np.allclose(values(bench.start(2).arrays), 2.0, atol=0.6)


def test_a_strategy_that_looks_at_single_updates_is_refused_by_name() -> None:
    with pytest.raises(AsyncUnsuitable, match="FedMedian"):
        FedBuff(FedMedian())
