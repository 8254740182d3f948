"""A strategy that is gone on with from any of its checkpoints comes to the same result, and asks nobody twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, Result, Strategy

from argosy_common.blobs import BlobStore
from argosy_common.flower.arrays import read_arrays, write_arrays
from argosy_common.flower.checkpoint import Checkpointed, Record, changed, fingerprints, put_back
from argosy_common.flower.compat import become_task, set_message_id
from tests.grids import BareGrid

ROUNDS = 4
NODES = [5, 7, 11, 13]


@pytest.fixture(autouse=True)
def _server() -> None:
    become_task(run_id=1, node_id=1)


class Fleet(BareGrid):
    """Devices that add their own number, and count how often they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, int]] = []

    def get_node_ids(self) -> Iterable[int]:
        return NODES

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        number = message.content.config_records["config"]["server-round"]
        assert isinstance(number, int)
        self.asked.append((number, kind, node))
        set_message_id(message, f"{len(self.asked):032x}")
        metrics = MetricRecord({"num-examples": node, "loss": float(node)})
        content = RecordDict({"metrics": metrics})
        if kind == "train":
            arrays = [array + node for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
            content["arrays"] = ArrayRecord(arrays)
        return Message(content, reply_to=message)


@dataclass
class Kept:
    """What was kept, as another process would find it."""

    store: BlobStore
    records: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    sizes: dict[bytes, int] = field(default_factory=dict)

    def __call__(self, record: Record, arrays: ArrayRecord | None) -> None:
        last = self.records[-1][1] if self.records else None
        if arrays is not None:
            ref = write_arrays(arrays, self.store)
            last, self.sizes[ref.digest] = ref.digest, ref.size
        self.records.append((record.pack(), last))

    def at(self, number: int) -> tuple[Record, ArrayRecord | None]:
        from argosy_common.blobs import BlobRef  # noqa: PLC0415  (beside its use)

        data, digest = self.records[number]
        arrays = None if digest is None else read_arrays(BlobRef(digest, self.sizes[digest]), self.store)
        return Record.unpack(data), arrays


class Counting(FedAvg):
    """A strategy of an app's own, with a state, a generator, and things that cannot be pickled."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # as the test gives them
        self.rounds: list[int] = []
        self.callback = lambda: None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: object
    ) -> Iterable[Message]:
        self.rounds.append(server_round)
        config["noise"] = float(np.random.random())
        return super().configure_train(server_round, arrays, config, grid)  # type: ignore[arg-type]  # a grid


def adam() -> Strategy:
    return FedAdam(fraction_train=0.5, fraction_evaluate=0.5, min_available_nodes=4, eta=0.5)


def momentum() -> Strategy:
    return FedAvgM(fraction_train=0.5, fraction_evaluate=0.0, min_available_nodes=4, server_momentum=0.9)


def counting() -> Strategy:
    return Counting(fraction_train=0.5, fraction_evaluate=1.0, min_available_nodes=4)


def run(strategy: Checkpointed, fleet: Fleet) -> tuple[Result, list[tuple[int, float]]]:
    central: list[tuple[int, float]] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        central.append((number, float(arrays.to_numpy_ndarrays()[0][0])))
        return MetricRecord({"first": central[-1][1], "luck": random.random()})

    random.seed(1)
    np.random.seed(1)
    result = strategy.start(
        grid=fleet,
        initial_arrays=ArrayRecord([np.zeros(5, np.float32)]),
        num_rounds=ROUNDS,
        evaluate_fn=strategy.central(evaluate),
    )
    return result, central


@pytest.mark.parametrize("make", [adam, momentum, counting])
def test_from_every_checkpoint_the_same_result_comes_and_nobody_is_asked_twice(
    make: Callable[[], Strategy], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    kept, fleet = Kept(store), Fleet()
    whole, seen = run(Checkpointed(make(), done=None, keep=kept), fleet)
    assert len(kept.records) == 2 * ROUNDS
    for number in range(2 * ROUNDS):
        again, more, rest = Kept(store), Fleet(), make()
        result, central = run(Checkpointed(rest, done=kept.at(number), keep=again), more)
        assert str(result) == str(whole)
        assert np.array_equal(result.arrays.to_numpy_ndarrays()[0], whole.arrays.to_numpy_ndarrays()[0])
        assert len(again.records) == 2 * ROUNDS - number - 1
        before = [each for each in fleet.asked if _behind(each, number)]
        assert [*before, *more.asked] == fleet.asked
        assert central == seen[len(seen) - len(central) :]
        if isinstance(rest, Counting):
            assert rest.rounds == [1, 2, 3, 4]


def _behind(asked: tuple[int, str, int], number: int) -> bool:
    round_, kind, _ = asked
    return (round_ - 1) * 2 + (kind == "evaluate") <= number


def test_what_a_strategy_wraps_is_put_back_too_and_what_cannot_be_pickled_is_left_as_the_app_makes_it() -> None:
    class Wrapper(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.strategy = Counting()
            self.later: object = None

    strategy = Wrapper()
    fresh = fingerprints(strategy)
    assert changed(strategy, fresh) == {}
    strategy.rounds.append(3)
    strategy.strategy.rounds.append(4)
    strategy.later = lambda: None
    state = changed(strategy, fresh)
    assert set(state) == {"rounds", "strategy"}
    other = Wrapper()
    put_back(other, state)
    assert (other.rounds, other.strategy.rounds, other.later) == ([3], [4], None)


def test_what_is_no_record_is_refused() -> None:
    import pickle  # noqa: PLC0415  (beside its use)

    with pytest.raises(TypeError):
        Record.unpack(pickle.dumps({"done": (1, "train")}))
