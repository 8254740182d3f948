"""Sketches of what a model sees, and how far apart two are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from argosy_common.artefact.sketch import MAX_CHANNELS, Sketch
from argosy_common.drift import DRIFTING, LEAST, Drawing, added, confidences, distance

RNG = np.random.default_rng(1)


def drawn(count: int, shift: float = 0.0, *, channels: int = 6, sure: float = 3.0) -> Sketch:
    drawing = Drawing.empty(channels)
    outputs = RNG.normal(size=(count, 6))
    outputs[:, 0] += sure
    drawing.add((RNG.normal(size=(count, channels, 32)) + shift).astype(np.float32), outputs)
    return drawing.sketch()


def test_more_of_the_same_is_no_drift_and_other_inputs_or_doubts_are() -> None:
    reference = drawn(1000)
    assert (distance(drawn(1000), reference) or 0) < 0.1
    assert (distance(drawn(1000, shift=1.0), reference) or 0) > DRIFTING
    assert (distance(drawn(1000, sure=0.0), reference) or 0) > DRIFTING


def test_one_channel_of_many_that_drifts_is_seen() -> None:
    reference = drawn(1000)
    drawing = Drawing.empty(6)
    inputs = RNG.normal(size=(1000, 6, 32))
    inputs[:, 4] *= 0.2  # a sensor that got deaf
    outputs = RNG.normal(size=(1000, 6))
    outputs[:, 0] += 3.0
    drawing.add(inputs, outputs)
    assert (distance(drawing.sketch(), reference) or 0) > DRIFTING


def test_too_little_says_nothing() -> None:
    assert distance(drawn(LEAST - 1), drawn(1000)) is None
    assert distance(drawn(1000), drawn(1000, channels=3)) is None


def test_sketches_of_many_boards_add_up() -> None:
    parts = [drawn(300), drawn(400)]
    whole = added(parts)
    assert whole is not None
    assert whole.inputs == 700
    assert whole.channels[0] == [a + b for a, b in zip(parts[0].channels[0], parts[1].channels[0], strict=True)]
    assert added([]) is None


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 3))),
    arrays.arrays(np.float32, st.tuples(st.integers(1, 1), st.integers(1, 5))),
)
def test_whatever_comes_is_counted_once_or_not_at_all(inputs: np.ndarray, outputs: np.ndarray) -> None:
    drawing = Drawing.empty(inputs.shape[1])
    with np.errstate(all="ignore"):
        drawing.add(inputs, np.repeat(outputs, inputs.shape[0], axis=0))
    sketch = drawing.sketch()
    assert len(sketch.channels) == min(inputs.shape[1], MAX_CHANNELS)
    assert sum(map(sum, sketch.channels)) == int(np.isfinite(inputs).sum())
    assert sketch.inputs == inputs.shape[0]
    assert Sketch.model_validate_json(sketch.model_dump_json()) == sketch


def test_confidence_is_the_probability_of_the_first_choice() -> None:
    assert confidences(np.array([[0.7, 0.2, 0.1]])) == pytest.approx([0.7])
    assert confidences(np.array([[5.0, 5.0]])) == pytest.approx([0.5])
    assert confidences(np.array([[0.0], [-3.0]])) == pytest.approx([0.5, 0.9526], abs=1e-3)
