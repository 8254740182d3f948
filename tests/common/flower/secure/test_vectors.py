"""Records of arrays as one vector: all numbers take part, and what cannot is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from argosy_common.errors import ReplyInvalid, SecureUnsuitable, UpdateNotFinite
from argosy_common.flower.compat import become_task
from argosy_common.flower.secure.reply import aggregate, client_update
from argosy_common.flower.secure.vectors import moved, update_vector, vector_size
from tests.common.flower.secure.fleet import model


def record(**arrays: np.ndarray) -> ArrayRecord:
    """A record of these arrays."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def test_an_update_comes_back_to_where_it_was() -> None:
    """Floats of all sizes, whole numbers, flags, nothing."""
    base = record(
        f=np.ones((2, 3), np.float32), d=np.ones(2), h=np.ones(3, np.float16), i=np.array(5), b=np.array([True, False]),
        e=np.empty((0, 4), np.float32),
    )  # fmt: skip
    made = record(
        f=np.full((2, 3), 1.5, np.float32), d=np.full(2, 2.0), h=np.full(3, 0.5, np.float16), i=np.array(7),
        b=np.array([False, True]), e=np.empty((0, 4), np.float32),
    )  # fmt: skip
    assert vector_size(base) == 6 + 2 + 3 + 1 + 2
    vector = update_vector(made, base, where="here")
    assert vector.dtype == np.float32
    back = moved(base, vector)
    for name, array in back.items():
        assert np.array_equal(array.numpy(), made[name].numpy()), name
        assert array.dtype == (base[name].dtype if base[name].numpy().dtype.kind == "f" else "float64")


@pytest.mark.parametrize(("odd", "what"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_what_is_not_finite_is_refused_by_its_array(odd: float, what: str) -> None:
    """One such value would be in every device's sum."""
    base = record(w=np.zeros(3, np.float32), v=np.zeros(2, np.float32))
    made = record(w=np.zeros(3, np.float32), v=np.array([0, odd], np.float32))
    with pytest.raises(UpdateNotFinite, match=rf"'v' on d1 holds {what}"):
        update_vector(made, base, where="on d1")


def test_arrays_of_other_shapes_counts_or_kinds_are_refused() -> None:
    """Nothing is reshaped or guessed."""
    base = record(w=np.zeros((2, 2), np.float32))
    for made in (record(w=np.zeros(4, np.float32)), record(w=np.zeros((2, 2)), v=np.zeros(1)), record()):
        with pytest.raises(ReplyInvalid):
            update_vector(made, base, where="here")
    with pytest.raises(SecureUnsuitable, match="'s'"):
        vector_size(record(s=np.array(["text"])))


def reply_of(**records: ArrayRecord | MetricRecord) -> Message:
    """An app's reply."""
    become_task(run_id=1, node_id=1)
    return Message(RecordDict(dict(records)), reply_to=Message(RecordDict(), 7, "train"))


def test_a_reply_becomes_a_vector_a_weight_and_slots() -> None:
    """By name in order; lists flat."""
    base = model()
    made = client_update(
        reply_of(arrays=base, m=MetricRecord({"z": 1, "num-examples": 8, "a": [0.5, 2.5]})),
        base,
        weight_key="num-examples",
        slots=8,
        where="here",
    )
    assert not made.values.any()
    assert (made.examples, made.metrics, made.slots) == (8.0, (0.5, 2.5, 1.0), (("a", 2), ("z", -1)))
    assert (made.arrays, made.record) == ("arrays", "m")
    metrics, missing = aggregate(24, (0.5, None, 1.25), made.slots, "num-examples")
    assert dict(metrics) == {"z": 1.25, "num-examples": 24}
    assert missing == ["a"]


def test_replies_that_would_tell_of_one_device_or_cannot_be_weighed_are_refused() -> None:
    """Config records, two records of a kind, no weight, too many metrics."""
    base = model()
    weight: dict[str, int | float | list[int] | list[float]] = {"num-examples": 8}
    for kind, odd in (
        (SecureUnsuitable, reply_of(arrays=base, m=MetricRecord(weight), n=MetricRecord({"a": 1}))),
        (SecureUnsuitable, reply_of(arrays=base, m=MetricRecord({**weight, "a": [1.0] * 9}))),
        (ReplyInvalid, reply_of(arrays=base, m=MetricRecord({"a": 1}))),
        (ReplyInvalid, reply_of(arrays=base, m=MetricRecord({"num-examples": -1}))),
        (ReplyInvalid, reply_of(m=MetricRecord(weight))),
    ):
        with pytest.raises(kind):
            client_update(odd, base, weight_key="num-examples", slots=8, where="here")
