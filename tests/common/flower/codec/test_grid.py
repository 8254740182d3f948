"""Both halves together, over bytes and files: what a strategy sees, and what a codec does to it."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Krum, Strategy

from argosy_common.errors import CodecUnknown, CodecUnsuitable, NoValidReply, UpdateNotFinite
from argosy_common.flower.arrays import StoredArray
from argosy_common.flower.codec import ARGOSY
from argosy_common.flower.codec.grid import CodecGrid, Traffic
from argosy_common.flower.codec.groups import fp32_size
from argosy_common.flower.codec.plan import InstructionPlan, code_name
from argosy_common.flower.streaming import Accept, accepted
from tests.common.flower.codec.wire_grid import App, WireGrid, model, nudge_of, nudged, train_messages

EXACT = ("conv.bias", "norm.running_var", "norm.num_batches_tracked", "mask", "embedding", "half.weight")


def grids(folder: Path, app: App = nudged, **options: object) -> tuple[CodecGrid, WireGrid]:
    wire = WireGrid(folder, app)
    return CodecGrid(wire, rng=np.random.default_rng(1), **options), wire  # type: ignore[arg-type]  # each test gives its own


def arrays_of(message: Message) -> dict[str, np.ndarray[Any, Any]]:
    assert message.has_content(), message.error.reason
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def reason(message: Message) -> str:
    return str(message.error.reason)


def plain_mean(received: ArrayRecord, nodes: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    replies = [nudge_of(node, received) for node in nodes]
    return {
        name: np.asarray(sum(n * it[name] for n, it in zip(nodes, replies, strict=True)) / sum(nodes))
        for name in replies[0]
    }


def relative_error(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> float:
    """Squared error over the squared length of the update."""
    update = np.asarray(wanted, np.float64) - base
    return float(np.sum((found - wanted) ** 2) / np.sum(update**2))


def test_an_app_sees_its_arrays_in_full_and_a_strategy_sees_the_model_plus_the_decoded_update(tmp_path: Path) -> None:
    grid, _ = grids(tmp_path, up="int8", down="int8")
    sent = model()
    for reply in grid.send_and_receive(train_messages(grid, sent)):
        assert set(reply.content) == {"arrays", "metrics"}
        found, wanted = arrays_of(reply), nudge_of(reply.metadata.src_node_id, sent)
        assert list(found) == list(wanted)
        for name, values in found.items():
            assert (values.dtype, values.shape) == (wanted[name].dtype, wanted[name].shape)
            if name in EXACT:
                np.testing.assert_array_equal(values, wanted[name])
            else:
                assert relative_error(values, wanted[name], sent[name].numpy()) < 0.001


@pytest.mark.parametrize("up", ["none", "fp16", "bf16", "int8", "eden:4", "eden:2"])
def test_a_mean_strategy_gets_one_reply_that_is_the_mean(tmp_path: Path, up: str) -> None:
    grid, wire = grids(tmp_path, up=up, down="eden:4", strategy=FedAvg())
    assert grid.folds
    sent = model()
    (reply,) = grid.send_and_receive(train_messages(grid, sent))
    metrics = reply.content.metric_records["metrics"]
    assert metrics["num-examples"] == sum(wire.nodes)
    assert metrics["loss"] == pytest.approx(len(wire.nodes) / sum(wire.nodes))
    wanted = plain_mean(sent, wire.nodes)
    bound = {"none": 1e-9, "fp16": 1e-6, "bf16": 1e-4, "int8": 1e-3, "eden:4": 0.02, "eden:2": 0.2}[up]
    for name, values in arrays_of(reply).items():
        if name in EXACT:
            np.testing.assert_allclose(values, wanted[name], rtol=2e-3 if name == "half.weight" else 1e-5)
        else:
            assert relative_error(values, wanted[name], sent[name].numpy()) < bound


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam(eta=0.01)])
def test_a_strategy_aggregates_the_one_reply_as_it_would_all(tmp_path: Path, strategy: Strategy) -> None:
    results = []
    for folded in (True, False):
        grid, _ = grids(tmp_path / str(folded), up="int8", strategy=strategy if folded else None)
        sent = floats_of(model())
        if isinstance(strategy, FedAdam):
            strategy = FedAdam(eta=0.01)
            strategy.current_arrays = {name: array.numpy() for name, array in sent.items()}
        replies = list(grid.send_and_receive(train_messages(grid, sent)))
        assert len(replies) == (1 if folded else 3)
        arrays, metrics = strategy.aggregate_train(1, replies)
        assert arrays is not None
        assert metrics is not None
        results.append((arrays, metrics))
    (one, ones), (other, others) = results
    assert dict(ones) == pytest.approx(dict(others))
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_allclose(one[name].numpy(), other[name].numpy(), rtol=1e-4, atol=1e-5)


def floats_of(record: ArrayRecord) -> ArrayRecord:
    kept = ArrayRecord()
    for name, array in record.items():
        if array.dtype == "float32":
            kept[name] = array
    return kept


def test_a_strategy_that_looks_at_single_updates_gets_them(tmp_path: Path) -> None:
    for strategy in (FedMedian(), Krum()):
        grid, _ = grids(tmp_path / type(strategy).__name__, up="eden:4", strategy=strategy)
        assert not grid.folds
        replies = list(grid.send_and_receive(train_messages(grid, floats_of(model()))))
        assert len(replies) == 3
        arrays, _ = strategy.aggregate_train(1, replies)
        assert arrays is not None


def test_single_replies_can_lie_on_disk_and_leave_nothing_there(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    folder.mkdir()
    grid, _ = grids(tmp_path, up="int8", spill_to=folder)
    sent = model()
    replies = list(grid.send_and_receive(train_messages(grid, sent)))
    open_files = len(list(Path("/proc/self/fd").iterdir()))

    def check(reply: Message) -> None:
        record = reply.content.array_records["arrays"]
        assert all(isinstance(array, StoredArray) for array in record.values())
        wanted = nudge_of(reply.metadata.src_node_id, sent)
        np.testing.assert_allclose(record["dense.weight"].numpy(), wanted["dense.weight"], atol=0.01)
        np.testing.assert_array_equal(record["mask"].numpy(), wanted["mask"])

    for reply in replies:
        check(reply)
    assert not list(folder.iterdir())
    del replies, reply
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files - 3


def test_a_strategy_with_metrics_of_its_own_gets_single_replies() -> None:
    def worst(records: list[RecordDict], _key: str) -> MetricRecord:
        return MetricRecord({"loss": max(float(str(it.metric_records["metrics"]["loss"])) for it in records)})

    class Mine(FedAvg):
        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord | None, MetricRecord | None]:
            return super().aggregate_train(server_round, list(replies)[:2])

    for strategy in (FedAvg(train_metrics_aggr_fn=worst), Mine()):
        assert not CodecGrid(WireGrid(Path("unused"), nudged), up="int8", strategy=strategy).folds


# --- down ---------------------------------------------------------------------------------------------------------


def test_a_model_goes_out_once_in_full_and_then_as_changes(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="eden:2", down="eden:4", strategy=FedAvg())
    arrays = model()
    whole = fp32_size(arrays)
    weights = []
    for number in range(1, 5):
        (reply,) = grid.send_and_receive(train_messages(grid, arrays, number=number))
        weights.append(dict(wire.down))
        arrays = reply.content.array_records["arrays"]
        list(grid.send_and_receive(train_messages(grid, arrays, kind="evaluate", number=number)))
        weights.append(dict(wire.down))
    assert min(weights[0].values()) > whole
    assert max(weights[1].values()) < whole / 4
    assert max(weights[2].values()) < 1000, "what was evaluated is trained on without being sent again"
    assert max(weights[7].values()) < whole / 4
    assert max(wire.up.values()) < 1000


def test_what_encoding_the_model_loses_is_made_good_by_the_next_version(tmp_path: Path) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def look(message: Message, context: Context) -> Message:
        seen.append(message.content.array_records["arrays"]["dense.weight"].numpy())
        return nudged(message, context)

    grid, wire = grids(tmp_path, look, down="eden:1")
    wire.nodes = [11]
    first, last = model(1), model(2)
    list(grid.send_and_receive(train_messages(grid, first)))
    errors = []
    target = last["dense.weight"].numpy()
    for number in range(12):
        copy = ArrayRecord()
        for name, array in last.items():
            copy[name] = Array(array.numpy())  # the same values, a new model to the grid
        list(grid.send_and_receive(train_messages(grid, copy, number=number)))
        errors.append(float(np.sum((seen[-1] - target) ** 2) / np.sum(target**2)))
    assert errors[0] > 0.3
    assert errors[-1] < 0.02


def test_a_device_that_was_away_gets_the_chain_or_the_whole_model_whichever_is_smaller(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="int8", down="int8", strategy=FedAvg())
    everyone = list(wire.nodes)
    arrays = model()
    for number in range(1, 9):
        wire.nodes = everyone if number in {1, 3} else everyone[:2] if number < 8 else everyone
        (reply,) = grid.send_and_receive(train_messages(grid, arrays, number=number))
        arrays = reply.content.array_records["arrays"]
        sent = [each for each in wire.sent[-len(wire.nodes) :] if each.metadata.dst_node_id == everyone[-1]]
        if number == 3:
            assert {"arrays@1", "arrays@2", "arrays@exact"} <= set(sent[0].content)
        if number == 8:
            assert "arrays" in sent[0].content, "five changes of 8 bits are more than 32"
    metrics = reply.content.metric_records["metrics"]
    assert metrics["num-examples"] == sum(everyone)


def test_a_device_that_lost_its_model_is_sent_it_whole_in_the_same_round(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="int8", down="int8", strategy=FedAvg())
    arrays = model()
    (reply,) = grid.send_and_receive(train_messages(grid, arrays))
    arrays = reply.content.array_records["arrays"]
    wire.forget(12)
    (reply,) = grid.send_and_receive(train_messages(grid, arrays, number=2))
    assert reply.content.metric_records["metrics"]["num-examples"] == sum(wire.nodes)
    assert [message.metadata.dst_node_id for message in wire.sent[3:]] == [11, 12, 13, 12]


class StreamingWireGrid(WireGrid):
    """Streams as the grid of boards does, and like that one raises when not one reply of a phase is valid."""

    mute: frozenset[int] = frozenset()

    def stream(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None,  # noqa: ARG002  (they are here at once)
        accept: Accept,
    ) -> Iterator[Message]:
        replies = [self._replies.pop(name) for name in self.push_messages(messages)]
        heard = [reply for reply in replies if reply.metadata.src_node_id not in self.mute]
        for reply in heard:
            yield accepted(reply, reply, accept)
        if not heard:
            raise NoValidReply(phase="train", round=1, causes="nobody answered")


def test_a_device_that_does_not_answer_again_costs_only_its_own_part(tmp_path: Path) -> None:
    wire = StreamingWireGrid(tmp_path, nudged)
    grid = CodecGrid(wire, up="int8", down="int8", strategy=FedAvg(), rng=np.random.default_rng(1))
    (reply,) = grid.send_and_receive(train_messages(grid, model()))
    arrays = reply.content.array_records["arrays"]
    wire.forget(12)
    answer = wire.push_messages

    def mute_from_the_second_time(messages: Iterable[Message]) -> Iterable[str]:
        outgoing = list(messages)
        if len(outgoing) == 1:
            wire.mute = frozenset({12})
        return answer(outgoing)

    wire.push_messages = mute_from_the_second_time  # type: ignore[method-assign]  # to be silent at the right moment
    whole, failed = grid.send_and_receive(train_messages(grid, arrays, number=2))
    assert whole.content.metric_records["metrics"]["num-examples"] == 24
    assert reason(failed).startswith("model-version-missing")


def test_a_device_that_never_keeps_the_model_is_answered_for_by_name(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="int8", down="int8", strategy=FedAvg())
    arrays = model()
    list(grid.send_and_receive(train_messages(grid, arrays)))
    wire.forget(12)
    ids = list(grid.push_messages(train_messages(grid, model(5), number=2)))
    replies = {reply.metadata.src_node_id: reply for each in ids for reply in grid.pull_messages([each])}
    assert reason(replies[12]).startswith("model-version-missing")
    assert not replies[11].has_error()
    again = train_messages(grid, model(5), number=3)[1:2]
    (name,) = grid.push_messages(again)
    (reply,) = grid.pull_messages([name])
    assert not reply.has_error()


def test_models_that_differ_from_device_to_device_travel_as_they_are(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="int8", down="int8", strategy=FedAvg())
    messages = [
        Message(RecordDict({"arrays": model(node), "config": ConfigRecord({})}), node, "train") for node in wire.nodes
    ]
    replies = list(grid.send_and_receive(messages))
    assert len(replies) == 3
    for reply in replies:
        node = reply.metadata.src_node_id
        wanted = nudge_of(node, model(node))
        np.testing.assert_allclose(arrays_of(reply)["dense.weight"], wanted["dense.weight"], atol=0.01)


def test_a_model_of_another_layout_starts_over(tmp_path: Path) -> None:
    grid, _ = grids(tmp_path, up="int8", down="int8", strategy=FedAvg())
    list(grid.send_and_receive(train_messages(grid, model())))
    other = model(3)
    other["new.weight"] = Array(np.ones((80, 80), np.float32))
    (reply,) = grid.send_and_receive(train_messages(grid, other))
    assert arrays_of(reply)["new.weight"].mean() == pytest.approx(1.0, abs=0.01)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_update_with_nan_is_refused_on_its_device_and_the_round_goes_on(tmp_path: Path) -> None:
    def broken(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        if context.node_id == 12:
            values = reply.content.array_records["arrays"]["dense.weight"].numpy().copy()
            values[3, 4] = np.nan
            reply.content.array_records["arrays"]["dense.weight"] = Array(values)
        return reply

    grid, _ = grids(tmp_path, broken, up="eden:2", strategy=FedAvg())
    whole, failed = grid.send_and_receive(train_messages(grid, model()))
    assert whole.content.metric_records["metrics"]["num-examples"] == 24
    assert "dense.weight" in reason(failed)
    assert f"{12:016x}" in reason(failed)
    assert "NaN" in reason(failed)


def test_infinity_in_an_exact_array_is_refused_too(tmp_path: Path) -> None:
    def broken(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        reply.content.array_records["arrays"]["conv.bias"] = Array(np.full(16, np.inf, np.float32))
        return reply

    grid, _ = grids(tmp_path, broken, up="eden:2")
    replies = list(grid.send_and_receive(train_messages(grid, model())))
    assert all("conv.bias" in reason(reply) and "infinity" in reason(reply) for reply in replies)


def test_a_model_that_diverged_ends_the_run_by_name(tmp_path: Path) -> None:
    grid, _ = grids(tmp_path, up="eden:2", down="eden:4")
    list(grid.send_and_receive(train_messages(grid, model())))
    bad = model(1)
    bad["dense.weight"] = Array(np.full((70, 90), np.nan, np.float32))
    with pytest.raises(UpdateNotFinite, match=r"dense\.weight' of the strategy's model holds NaN"):
        grid.send_and_receive(train_messages(grid, bad))


def test_a_damaged_code_is_left_out_of_the_sum(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="eden:2", strategy=FedAvg())

    def flip(node: int, reply: Message) -> None:
        if node == 13:
            code = reply.content.array_records["arrays"][code_name(0)].numpy().copy()
            code[len(code) // 2] ^= 16
            reply.content.array_records["arrays"][code_name(0)] = Array(code)

    wire.tamper = flip
    whole, failed = grid.send_and_receive(train_messages(grid, model()))
    assert reason(failed).startswith("code-malformed")
    assert whole.content.metric_records["metrics"]["num-examples"] == 23


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"num-examples": float("nan")}, "nan"),
        ({"num-examples": -1}, "-1"),
        ({"loss": 1.0}, "None"),
        ({"num-examples": [1, 2]}, "[1, 2]"),
    ],
)
def test_a_weight_that_is_none_is_refused(tmp_path: Path, metrics: dict[str, Any], why: str) -> None:
    def odd(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        if context.node_id == 11:
            reply.content["metrics"] = MetricRecord(metrics)
        return reply

    grid, _ = grids(tmp_path, odd, up="int8", strategy=FedAvg())
    whole, failed = grid.send_and_receive(train_messages(grid, model()))
    assert why in reason(failed)
    assert whole.content.metric_records["metrics"]["num-examples"] == 25


@pytest.mark.parametrize("metrics", [{"num-examples": 5}, {"num-examples": 5, "loss": [0.1, 0.2]}])
def test_a_reply_with_other_metrics_than_the_others_is_refused(tmp_path: Path, metrics: dict[str, Any]) -> None:
    def odd(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        if context.node_id == 13:
            reply.content["metrics"] = MetricRecord(metrics)
        return reply

    grid, _ = grids(tmp_path, odd, up="int8", strategy=FedAvg())
    whole, failed = grid.send_and_receive(train_messages(grid, model()))
    assert "metrics" in reason(failed)
    assert whole.content.metric_records["metrics"]["num-examples"] == 23


def test_devices_that_all_weigh_nothing_end_the_run_by_name(tmp_path: Path) -> None:
    def idle(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        reply.content["metrics"] = MetricRecord({"num-examples": 0})
        return reply

    grid, _ = grids(tmp_path, idle, up="int8", strategy=FedAvg())
    with pytest.raises(NoValidReply, match="num-examples"):
        grid.send_and_receive(train_messages(grid, model()))


def test_a_reply_with_other_arrays_than_the_others_is_refused(tmp_path: Path) -> None:
    def partial(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        if context.node_id == 12:
            del reply.content.array_records["arrays"]["dense.weight"]
        return reply

    grid, _ = grids(tmp_path, partial, up="int8", strategy=FedAvg())
    _, failed = grid.send_and_receive(train_messages(grid, model()))
    assert "other names or shapes" in reason(failed)


@pytest.mark.parametrize("name", ["dense.weight", "conv.bias"])
@pytest.mark.parametrize("strategy", [FedAvg(), None])
def test_an_array_of_another_shape_is_refused_by_name(tmp_path: Path, name: str, strategy: FedAvg | None) -> None:
    def reshaped(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        if context.node_id == 12:
            reply.content.array_records["arrays"][name] = Array(np.zeros((3, 3), np.float32))
        return reply

    grid, _ = grids(tmp_path, reshaped, up="int8", down="int8", strategy=strategy)
    failed = [reply for reply in grid.send_and_receive(train_messages(grid, model())) if reply.has_error()]
    assert [reply.metadata.src_node_id for reply in failed] == [12]
    assert reason(failed[0]).startswith("arrays-changed")
    assert name in reason(failed[0])


def test_an_app_that_returns_some_arrays_only_gets_their_mean(tmp_path: Path) -> None:
    def partial(message: Message, context: Context) -> Message:
        reply = nudged(message, context)
        for name in ("dense.weight", "mask"):
            del reply.content.array_records["arrays"][name]
        reply.content.array_records["arrays"]["mine"] = Array(np.full((4, 4), float(context.node_id)))
        return reply

    grid, wire = grids(tmp_path, partial, up="int8", strategy=FedAvg())
    (reply,) = grid.send_and_receive(train_messages(grid, model()))
    found = arrays_of(reply)
    assert not {"dense.weight", "mask"} & set(found)
    assert found["mine"][0, 0] == pytest.approx(sum(n * n for n in wire.nodes) / sum(wire.nodes))


def test_a_device_without_the_mod_takes_part_in_what_goes_up(tmp_path: Path) -> None:
    def tolerant(message: Message, context: Context) -> Message:
        message.content.pop(ARGOSY, None)
        return nudged(message, context)

    grid, wire = grids(tmp_path, up="int8", strategy=FedAvg())
    mod = wire.mod
    wire.mod = lambda message, context, app: (
        tolerant(message, context) if context.node_id == 12 else mod(message, context, app)
    )
    sent = model()
    (reply,) = grid.send_and_receive(train_messages(grid, sent))
    wanted = plain_mean(sent, wire.nodes)
    assert relative_error(arrays_of(reply)["dense.weight"], wanted["dense.weight"], sent["dense.weight"].numpy()) < 0.01


def test_codecs_are_judged_before_anything_is_sent() -> None:
    wire = WireGrid(Path("unused"), nudged)
    with pytest.raises(CodecUnknown):
        CodecGrid(wire, up="eden:9")
    with pytest.raises(CodecUnknown):
        CodecGrid(wire, arrays=[("*", "zip")])
    with pytest.raises(CodecUnsuitable, match="--secure"):
        CodecGrid(wire, up="ring:65521")
    with pytest.raises(CodecUnsuitable, match="FedMedian"):
        CodecGrid(wire, up="topk:0.01", strategy=FedMedian())
    with pytest.raises(CodecUnsuitable, match="Krum"):
        CodecGrid(wire, up="topk:0.01", strategy=Krum())
    assert CodecGrid(wire, up="topk:0.01", down="topk:0.1", strategy=FedAvg()).folds


# --- the rest -------------------------------------------------------------------------------------------------------


def test_patterns_choose_a_codec_for_some_arrays(tmp_path: Path) -> None:
    patterns = [("dense.*", "exact"), ("conv.bias", "fp16"), ("half.weight", "eden:1")]
    grid, wire = grids(tmp_path, up="eden:1", arrays=patterns)
    sent = model()
    reply = next(iter(grid.send_and_receive(train_messages(grid, sent))))
    found, wanted = arrays_of(reply), nudge_of(11, sent)
    np.testing.assert_array_equal(found["dense.weight"], wanted["dense.weight"])
    np.testing.assert_array_equal(found["half.weight"], wanted["half.weight"])
    assert 0 < relative_error(found["conv.bias"], wanted["conv.bias"], sent["conv.bias"].numpy()) < 1e-6
    assert relative_error(found["conv.weight"], wanted["conv.weight"], sent["conv.weight"].numpy()) > 0.2
    plan = InstructionPlan.taken_from(wire.sent[0].content, peer="test")
    assert plan is not None
    assert plan.arrays == tuple(patterns)


def test_what_topk_leaves_out_is_kept_on_the_device_across_restarts(tmp_path: Path) -> None:
    def same_step(message: Message, _context: Context) -> Message:
        received = message.content.array_records["arrays"]
        made = ArrayRecord()
        for name, array in received.items():
            made[name] = Array(array.numpy() + step[name])
        return Message(RecordDict({"arrays": made, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    rng = np.random.default_rng(3)
    arrays = ArrayRecord()
    arrays["w"] = Array(np.zeros((100, 100), np.float32))
    step = {"w": rng.standard_normal((100, 100)).astype(np.float32)}
    grid, wire = grids(tmp_path, same_step, up="topk:0.1", strategy=FedAvg())
    rounds = 40
    for number in range(rounds):
        (reply,) = grid.send_and_receive(train_messages(grid, arrays, number=number))
        arrays = reply.content.array_records["arrays"]
    error = np.sum((arrays["w"].numpy() / rounds - step["w"]) ** 2) / np.sum(step["w"] ** 2)
    assert error < 0.05, "without feedback 60 % of the energy would be lost in every round"
    assert max(wire.up.values()) < 4 * 10_000 / 5


def test_replies_that_are_pulled_are_decoded_one_by_one(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path, up="int8", down="int8", strategy=FedAvg())
    sent = model()
    ids = list(grid.push_messages(train_messages(grid, sent)))
    replies = [reply for each in ids for reply in grid.pull_messages([each])]
    assert {reply.metadata.src_node_id for reply in replies} == set(wire.nodes)
    wanted = nudge_of(11, sent)["dense.weight"]
    assert relative_error(arrays_of(replies[0])["dense.weight"], wanted, sent["dense.weight"].numpy()) < 0.001


def test_it_tells_what_a_phase_would_weigh_at_full_precision(tmp_path: Path) -> None:
    told: list[Traffic] = []
    grid, _ = grids(tmp_path, up="eden:2", down="int8", strategy=FedAvg(), report=told.append)
    arrays = model()
    whole = fp32_size(arrays)
    (reply,) = grid.send_and_receive(train_messages(grid, arrays, number=4))
    mean = reply.content.array_records["arrays"]
    list(grid.send_and_receive(train_messages(grid, mean, kind="evaluate", number=4)))
    list(grid.send_and_receive(train_messages(grid, mean, number=5)))
    assert told[0] == Traffic(4, "train", fp32_up=3 * whole, fp32_down=3 * whole)
    assert told[1] == Traffic(4, "evaluate", fp32_up=0, fp32_down=3 * fp32_size(mean))
    assert told[2].fp32_down == 0, "at full precision too, a model that is there is not sent again"


def test_without_a_codec_nothing_changes(tmp_path: Path) -> None:
    grid, wire = grids(tmp_path)
    sent = model()
    replies = list(grid.send_and_receive(train_messages(grid, sent)))
    assert len(replies) == 3
    assert ARGOSY not in wire.sent[0].content
    np.testing.assert_array_equal(arrays_of(replies[0])["dense.weight"], nudge_of(11, sent)["dense.weight"])


def test_evaluation_is_passed_through(tmp_path: Path) -> None:
    grid, _ = grids(tmp_path, up="eden:2", strategy=FedAvg())
    replies = list(grid.send_and_receive(train_messages(grid, model(), kind="evaluate")))
    assert [reply.content.metric_records["metrics"]["num-examples"] for reply in replies] == [11, 12, 13]
