"""What we rely on in Flower's private parts. When one of these fails, Flower has changed: correct `compat`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from argosy_common.errors import AppRaised, ArgosyError, DeviceLost, ProgrammingError, TooFewDevices
from argosy_common.flower import compat


class LoopGrid(Grid):
    """A grid whose nodes answer at once with what they were sent."""

    def __init__(self, nodes: int) -> None:
        self.nodes = list(range(2, 2 + nodes))
        self._run = compat.empty_run(7)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        assert timeout
        replies = []
        for number, message in enumerate(messages):
            compat.set_message_id(message, f"{number:032x}")
            content = RecordDict({"m": MetricRecord({"num-examples": 1, "loss": 0.5})})
            if message.metadata.message_type == "train":
                content["arrays"] = message.content["arrays"]
            replies.append(Message(content, reply_to=message))
        return replies


class Notes:
    """An observer that writes everything down."""

    def __init__(self, rounds: int | None = None) -> None:
        self.rounds = rounds
        self.told: list[tuple[Any, ...]] = []

    def starting(self, start: compat.StrategyStart) -> int | None:
        self.told.append(("starting", start))
        return self.rounds

    def evaluation(self, strategy: Strategy, evaluate: compat.Evaluate) -> compat.Evaluate:  # noqa: ARG002  (the protocol's)
        return evaluate

    def instead(self, strategy: Strategy) -> Strategy:
        return strategy

    def waiting(self, online: int, wanted: int) -> None:
        self.told.append(("waiting", online, wanted))
        raise TooFewDevices(wanted=wanted, online=online)

    def central(self, round_: int, metrics: compat.Metrics) -> None:
        self.told.append(("central", round_, metrics))

    def finished(self, arrays: ArrayRecord) -> None:
        self.told.append(("finished", list(arrays)))


@pytest.fixture
def notes() -> Iterable[Notes]:
    notes = Notes()
    undo = compat.observe_strategies(notes)
    yield notes
    undo()


def test_a_strategy_is_observed_from_start_to_finish(notes: Notes) -> None:
    def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord | None:
        return MetricRecord({"accuracy": 0.5 + round_ / 10}) if round_ else None

    strategy = FedAvg(min_available_nodes=3, min_train_nodes=1)
    result = strategy.start(LoopGrid(3), ArrayRecord([np.ones(2)]), 2, evaluate_fn=evaluate)
    assert notes.told == [
        ("starting", compat.StrategyStart("FedAvg", 2, 3, 3600, compat.traits_of(FedAvg()))),
        ("central", 1, {"accuracy": 0.6}),
        ("central", 2, {"accuracy": 0.7}),
        ("finished", ["0"]),
    ]
    assert result.evaluate_metrics_serverapp[2] == MetricRecord({"accuracy": 0.7})
    assert len(result.train_metrics_clientapp) == 2


def test_strategies_are_told_apart_by_what_they_do_with_replies() -> None:
    means = [FedAvg(weighted_by_key="mine"), FedAvgM(), FedAdam(), FedAdagrad(), FedYogi(), FedProx(proximal_mu=0.1)]
    assert [compat.traits_of(each).weight_key for each in means] == ["mine", *["num-examples"] * 5]
    single = [FedMedian(), FedTrimmedAvg(), Krum(), MultiKrum(), Bulyan()]
    assert {compat.traits_of(each) for each in single} == {
        compat.StrategyTraits(type(each).__name__, None, takes_sparse=False, averages=None) for each in single
    }
    private = DifferentialPrivacyServerSideFixedClipping(FedMedian(), 1.0, 1.0, 2)
    assert compat.traits_of(private).weight_key is None
    assert not compat.traits_of(private).takes_sparse
    assert compat.traits_of(QFedAvg(client_learning_rate=0.1)).weight_key is None


def test_the_mean_of_metrics_is_flowers_own() -> None:
    records = [RecordDict({"m": MetricRecord({"num-examples": n, "loss": float(n)})}) for n in (1, 3)]
    assert dict(compat.mean_metrics(records, "num-examples")) == {"loss": 2.5}


def test_the_number_of_rounds_can_be_overridden(notes: Notes) -> None:
    notes.rounds = 1
    result = FedAvgM().start(grid=LoopGrid(2), initial_arrays=ArrayRecord([np.ones(2)]), num_rounds=9, timeout=5.0)
    assert list(result.train_metrics_clientapp) == [1]
    assert notes.told[0] == ("starting", compat.StrategyStart("FedAvgM", 9, 2, 5.0, compat.traits_of(FedAvgM())))


def test_waiting_for_nodes_reaches_the_observer_and_can_be_ended_by_it(notes: Notes) -> None:
    with pytest.raises(TooFewDevices, match="wants 4 devices and only 2 are online"):
        FedAvg(min_available_nodes=4).start(LoopGrid(2), ArrayRecord([np.ones(2)]), 1)
    assert ("waiting", 2, 4) in notes.told


def test_a_wrapped_strategys_minimum_counts() -> None:
    outer, outer_any = FedAvg(), FedAvg()
    vars(outer)["strategy"] = FedAvg(min_available_nodes=9)
    assert compat._fewest_nodes(outer) == 9
    assert compat._fewest_nodes(outer_any) == 2
    assert compat._fewest_nodes(object()) is None


def test_observing_can_be_undone() -> None:
    original = Strategy.start
    compat.observe_strategies(Notes())()
    assert Strategy.start is original


def test_start_has_the_parameters_we_read() -> None:
    assert set(inspect.signature(Strategy.start).parameters) >= {"num_rounds", "timeout", "evaluate_fn"}


def test_the_task_identity_is_what_messages_are_made_from() -> None:
    compat.become_task(run_id=11, node_id=13, task_id=2)
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (11, 13, 2)
    message = Message(RecordDict(), 5, "train")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (11, 13)


def test_an_empty_run_has_its_id() -> None:
    assert compat.empty_run(5).run_id == 5


def test_a_message_id_can_be_set_and_a_reply_names_it() -> None:
    message = Message(RecordDict(), 5, "train")
    compat.set_message_id(message, "ab" * 16)
    assert message.metadata.message_id == "ab" * 16
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "ab" * 16


@pytest.mark.parametrize(
    ("error", "code"),
    [(AppRaised(why="ValueError"), 2), (DeviceLost(device="d", grace_s=9), 5), (ProgrammingError(what="x"), 0)],
)
def test_errors_become_flowers_errors(error: ArgosyError, code: int) -> None:
    reply = compat.error_reply(Message(RecordDict(), 5, "train"), error)
    assert reply.error.code == code
    assert str(reply.error.reason).startswith(f"{error.code}: ")
    assert reply.metadata.src_node_id == 5


def test_arrays_are_numpy_files_under_the_name_we_know() -> None:
    array = Array(np.ones(3))
    assert array.stype == compat.NUMPY_STYPE
    assert array.data.startswith(b"\x93NUMPY\x01\x00")


def test_an_array_record_takes_arrays_of_a_subclass_as_they_are() -> None:
    class Mine(Array):
        pass

    mine = Mine(np.ones(1))
    record = ArrayRecord()
    record["a"] = mine
    assert record["a"] is mine


def test_a_context_and_a_client_app_are_made_and_called_as_the_worker_does() -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"c": ConfigRecord({"x": context.run_config["x"]})}), reply_to=message)

    context = Context(1, 2, {"partition-id": 3}, RecordDict(), {"x": 5})
    assert app(Message(RecordDict(), 5, "query"), context).content["c"] == ConfigRecord({"x": 5})
