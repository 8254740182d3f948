"""Plans come from the other end of the wire."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import CodeMalformed
from argosy_common.flower.codec import ARGOSY
from argosy_common.flower.codec.plan import InstructionPlan, ReplyPlan, Update


def test_a_plan_comes_out_as_it_went_in_and_leaves_nothing_behind() -> None:
    update = Update(line="a1", version=3, base=1, codec="int8")
    plan = InstructionPlan(up="eden:2", arrays=(("*.bias", "exact"),), down={"arrays": update})
    content = RecordDict()
    plan.put_into(content)
    assert InstructionPlan.taken_from(content, peer="us") == plan
    assert not content
    reply = ReplyPlan(omitted={"arrays": ("w",)}, lacks=("other",))
    reply.put_into(content)
    assert ReplyPlan.taken_from(content, peer="us") == reply


def test_a_message_without_a_plan_has_none() -> None:
    assert ReplyPlan.taken_from(RecordDict({"config": ConfigRecord({"lr": 0.1})}), peer="us") is None


@pytest.mark.parametrize(
    "plan",
    [
        b"\xc1",
        b"",
        msgpack.packb([]),
        msgpack.packb({"v": 2}),
        msgpack.packb({"v": 1, "unknown": 1}),
        msgpack.packb({"v": 1, "omitted": {"arrays": "w"}}),
        msgpack.packb({"v": 1, "lacks": [1]}),
        msgpack.packb({"v": 1, "lacks": ["x" * 2000]}),
        "text",
        7,
    ],
    ids=repr,
)
def test_what_is_no_plan_is_refused_by_name(plan: bytes | str | int) -> None:
    content = RecordDict({ARGOSY: ConfigRecord({"plan": plan})})
    with pytest.raises(CodeMalformed, match="its plan"):
        ReplyPlan.taken_from(content, peer="a board")


def test_a_record_without_a_plan_in_it_is_refused() -> None:
    with pytest.raises(CodeMalformed):
        InstructionPlan.taken_from(RecordDict({ARGOSY: ConfigRecord({})}), peer="a board")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_plan_or_refused(data: bytes) -> None:
    with contextlib.suppress(CodeMalformed):
        ReplyPlan.taken_from(RecordDict({ARGOSY: ConfigRecord({"plan": data})}), peer="a board")
