"""The codec's mod is around every app on a device: it takes part where an instruction says so."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from argosy_common.codec.frame import decode_vector
from argosy_common.codec.registry import get_codec
from argosy_common.errors import CodecUnknown, CodeMalformed, UpdateNotFinite
from argosy_common.flower.codec.plan import InstructionPlan, ReplyPlan, Update, code_name
from argosy_common.flower.state import read_state
from tests.client.worker.bench import NODE_ID, Bench

ADD = """
@app.train()
def train(message, context):
    made = ArrayRecord()
    for name, array in message.content["arrays"].items():
        made[name] = Array(array.numpy() + np.float32(message.content["config"]["lr"]))
    assert "argosy" not in " ".join(context.state)
    return Message(RecordDict({"arrays": made, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
"""


def content(up: str | None = "int8", lr: float = 0.5, down: dict[str, Update] | None = None) -> RecordDict:
    arrays = ArrayRecord()
    arrays["w"] = Array(np.arange(6000, dtype=np.float32).reshape(60, 100))
    arrays["b"] = Array(np.ones(3, np.float32))
    records = RecordDict({"arrays": arrays, "config": ConfigRecord({"lr": lr})})
    InstructionPlan(up=up, down=down or {}).put_into(records)
    return records


def test_a_reply_is_the_encoded_update_where_the_instruction_asks_for_it(bench: Bench) -> None:
    bench.app(ADD)
    reply = bench.told(bench.instruction(content()))
    plan = ReplyPlan.taken_from(reply, peer="the device")
    assert plan == ReplyPlan(omitted={"arrays": ()})
    assert set(reply["arrays"]) == {"b", code_name(0)}
    update = decode_vector(reply["arrays"][code_name(0)].numpy().tobytes(), get_codec("int8"), 6000, peer="x")
    np.testing.assert_allclose(update, 0.5, atol=0.01)
    np.testing.assert_array_equal(reply["arrays"]["b"].numpy(), np.full(3, 1.5, np.float32))


def test_an_update_with_nan_is_refused_by_name(bench: Bench) -> None:
    bench.app(ADD)
    with pytest.raises(UpdateNotFinite) as refused:
        bench.ask(bench.instruction(content(lr=float("nan"))))
    assert "'w'" in refused.value.message
    assert f"{NODE_ID:016x}" in refused.value.message


def test_a_codec_that_this_device_lacks_is_told(bench: Bench) -> None:
    bench.app(ADD)
    with pytest.raises(CodecUnknown, match="zip"):
        bench.ask(bench.instruction(content(up="zip")))


def test_a_plan_that_is_none_is_refused_by_name(bench: Bench) -> None:
    bench.app(ADD)
    records = content()
    records["argosy.codec"] = ConfigRecord({"plan": b"\xc1"})
    with pytest.raises(CodeMalformed):
        bench.ask(bench.instruction(records))


def test_the_model_and_what_topk_left_out_are_kept_in_the_context_over_a_new_worker(bench: Bench) -> None:
    bench.app(ADD)
    whole = {"arrays": Update(line="l", version=0, codec="int8")}
    bench.ask(bench.instruction(content(up="topk:0.01", down=whole)))
    assert bench._context is not None
    state = read_state(bench._context)
    assert set(state) == {"argosy.codec.versions", "argosy.codec.model.arrays", "argosy.codec.residuals"}
    (residual,) = state.array_records["argosy.codec.residuals"].values()
    assert np.count_nonzero(residual.numpy() < 0.1) == 60, "what was sent"
    bench.host.close()
    bench.host = bench.new_host()
    again = RecordDict({"config": ConfigRecord({"lr": 0.5})})
    held = {"arrays": Update(line="l", version=0, base=0, codec="int8")}
    InstructionPlan(up="topk:0.01", down=held).put_into(again)
    reply = bench.told(bench.instruction(again))
    sent = decode_vector(reply["arrays"][code_name(0)].numpy().tobytes(), get_codec("topk:0.01"), 6000, peer="x")
    np.testing.assert_allclose(sent[sent != 0], 1.0, rtol=1e-3, err_msg="this update and the last one's remainder")


def test_a_model_that_is_not_here_is_asked_for(bench: Bench) -> None:
    bench.app(ADD)
    records = RecordDict({"config": ConfigRecord({"lr": 0.5})})
    InstructionPlan(up="int8", down={"arrays": Update(line="l", version=4, base=3, codec="int8")}).put_into(records)
    reply = bench.told(bench.instruction(records))
    assert ReplyPlan.taken_from(reply, peer="the device") == ReplyPlan(lacks=("arrays",))


def test_evaluating_a_model_that_is_held_writes_nothing_anew(bench: Bench) -> None:
    bench.app(
        """
        @app.evaluate()
        def evaluate(message, context):
            return Message(RecordDict({"m": MetricRecord({"num-examples": 1})}), reply_to=message)
        """
    )
    whole = {"arrays": Update(line="l", version=0, codec="int8")}
    bench.ask(bench.instruction(content(up=None, down=whole), "evaluate"))
    first = bench._context
    assert first is not None
    records = RecordDict({"config": ConfigRecord({"lr": 0.5})})
    InstructionPlan(down={"arrays": Update(line="l", version=0, base=0, codec="int8")}).put_into(records)
    bench.ask(bench.instruction(records, "evaluate"))
    assert bench._context is not None
    assert bench._context != first
    assert bench._context.samefile(first)
