"""What devices train on, as shares by bin among the metrics of their replies: the reference that drift is told by.

An app adds one entry to the metrics of a train reply, `{SEEN: seen(inputs, outputs), …}`. The coordinator takes it out
before the strategy sees it, keeps the latest of each device, and writes their mean, weighted by `num-examples`, into
the manifest of the model that the run exports. It tells of no single input. Runs with secure aggregation leave it out
on the device: it would have to be told one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from argosy_common.artefact.sketch import BINS, MAX_CHANNELS, Sketch
from argosy_common.drift import Drawing
from argosy_common.logs import get_logger

log = get_logger(__name__)

SEEN = "argosy-seen"
"""The metric's name."""
WEIGHT = "num-examples"
_COUNTED_AS = 100_000
"""Inputs of the sketch that shares become: a share of one in so many is the smallest that is told apart."""


def seen(inputs: NDArray[np.generic], outputs: NDArray[np.generic]) -> list[float]:
    """Return what a model saw, and how sure it was, as a metric.

    Args:
        inputs: as the model gets them, after preprocessing, shape (n, channels, …); a few hundred are enough.
        outputs: its answers to them, logits or probabilities, shape (n, classes).

    Returns:
        Shares by bin: a row for each channel (at most 16), and one for the confidences.
    """
    drawing = Drawing.empty(inputs.shape[1] if inputs.ndim > 1 else 1)
    drawing.add(inputs, outputs)
    rows = np.vstack([drawing.channels, drawing.confidence[None, :]]).astype(np.float64)
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1.0)
    return [float(share) for share in shares.reshape(-1)]


@dataclass
class Seen:
    """What the devices of a run have said that they saw, the latest of each. Used by one thread."""

    _latest: dict[str, tuple[float, NDArray[np.float32]]] = field(default_factory=dict)

    def take(self, device: str, reply: Message) -> None:
        """Take the entry out of a reply, and keep it; one that makes no sense is told of and left out."""
        for record in reply.content.metric_records.values():
            shares = record.pop(SEEN, None)
            if shares is None:
                continue
            weight, array = record.get(WEIGHT, 1.0), np.asarray(shares, np.float32)
            if not _makes_sense(array) or not isinstance(weight, int | float) or not 0 < weight < 1e12:
                log.warning("seen.senseless", device=device)
                continue
            self._latest[device] = (float(weight), array)

    def sketch(self) -> Sketch | None:
        """Return what all have seen together; None where nobody said. Of several forms, the one that most data has."""
        forms: dict[int, list[tuple[float, NDArray[np.float32]]]] = {}
        for weight, array in self._latest.values():
            forms.setdefault(array.size, []).append((weight, array))
        if not forms:
            return None
        found = max(forms.values(), key=lambda each: sum(weight for weight, _ in each))
        mean = np.average([array for _, array in found], axis=0, weights=[weight for weight, _ in found])
        rows = [[int(count) for count in row] for row in np.rint(mean.reshape(-1, BINS) * _COUNTED_AS)]
        return Sketch(inputs=_COUNTED_AS, channels=rows[:-1], confidence=rows[-1])


def _makes_sense(array: NDArray[np.float32]) -> bool:
    rows, rest = divmod(array.size, BINS) if array.ndim == 1 else (0, 0)
    if rest or not 2 <= rows <= MAX_CHANNELS + 1:
        return False
    return bool(np.all((array >= 0) & (array <= 1))) and bool(np.all(array.reshape(rows, BINS).sum(axis=1) < 1.01))
