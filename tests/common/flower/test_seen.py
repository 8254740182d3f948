"""What devices say that they trained on: added up by weight, taken out of replies, and deaf to nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict

from argosy_common.artefact.sketch import BINS
from argosy_common.drift import DRIFTING, Drawing, distance
from argosy_common.flower.seen import SEEN, Seen, seen

RNG = np.random.default_rng(3)


def windows(count: int, shift: float) -> np.ndarray:
    return (RNG.normal(size=(count, 6, 64)) + shift).astype(np.float32)


def reply(shares: list[float] | None = None, weight: float | None = None) -> Message:
    metrics: dict[str, int | float | list[int] | list[float]] = {"loss": 0.5}
    if shares is not None:
        metrics[SEEN] = shares
    if weight is not None:
        metrics["num-examples"] = weight
    content = RecordDict({"metrics": MetricRecord(metrics)})
    return Message(content, reply_to=Message(RecordDict(), 7, "train"))


def test_what_all_devices_saw_together_is_the_reference_by_the_weight_of_each() -> None:
    outputs = RNG.normal(size=(400, 6))
    near, far = windows(400, 0.0), windows(400, 2.0)
    both = Seen()
    both.take("a", reply(seen(far, outputs), 300.0))
    both.take("a", reply(seen(near, outputs), 300.0))  # its latest counts
    both.take("b", reply(seen(far, outputs), 100.0))
    sketch = both.sketch()
    assert sketch is not None
    drawing = Drawing.empty(6)
    drawing.add(np.concatenate([near, near, near, far]), np.concatenate([outputs] * 4))
    assert (distance(drawing.sketch(), sketch) or 0.0) < 0.01
    alone = Drawing.empty(6)
    alone.add(far, outputs)
    assert (distance(alone.sketch(), sketch) or 0.0) > DRIFTING


def test_the_strategy_does_not_see_it() -> None:
    message = reply(seen(windows(8, 0.0), RNG.normal(size=(8, 6))), 8)
    Seen().take("a", message)
    assert dict(message.content.metric_records["metrics"]) == {"loss": 0.5, "num-examples": 8}


@pytest.mark.parametrize(
    "nonsense",
    [
        [0.5] * 10,
        [],
        [0.0] * BINS,
        [float("nan")] * (2 * BINS),
        [-0.1] * (2 * BINS),
        [1.0] * (2 * BINS),
        [0.0] * (40 * BINS),
    ],
)
def test_nonsense_is_left_out_and_harms_nobody(nonsense: list[float]) -> None:
    kept = Seen()
    kept.take("rogue", reply(nonsense))
    kept.take("weightless", reply([1.0 / BINS] * (2 * BINS), 0))
    assert kept.sketch() is None
    kept.take("silent", reply())
    kept.take("good", reply(seen(windows(8, 0.0), RNG.normal(size=(8, 6)))))
    assert kept.sketch() is not None
