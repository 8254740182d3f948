"""How far what a model sees today is from what it was trained on, without keeping any of it.

A *sketch* counts, in fixed bins, the values of each channel of the inputs (after the model's preprocessing, so that
they are about −3 to 3) and the confidences of the outputs. Sketches of the same model add up, hold a few kilobytes
whatever they have seen, and tell of no single input.

The distance of two is the population stability index, Σ (p − q) ln(p / q) over the bins: the largest of any channel and
of the confidence. Below 0.1 nothing has changed; from 0.25 on the model should be looked at (the usual thresholds of
credit scoring, where it comes from: Siddiqi, "Credit Risk Scorecards", 2006).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from argosy_common.artefact.sketch import BINS, DRIFTING, MAX_CHANNELS, Sketch

LEAST = 200
"""Inputs that a sketch needs before it is compared: fewer say nothing."""

__all__ = ["DRIFTING", "LEAST", "Drawing", "added", "confidences", "distance"]

_EDGES = np.sinh(np.linspace(-3.0, 3.0, BINS - 1))
"""Of the inner bins: fine around 0, coarse out to ±10; the first and the last bin are open."""
_CONFIDENCE_EDGES = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
_SMALLEST = 1e-4
"""A bin's least share, so that one that is empty on one side does not make the distance infinite."""


@dataclass
class Drawing:
    """A sketch being drawn. Not for two threads at once."""

    channels: NDArray[np.int64]
    confidence: NDArray[np.int64]
    inputs: int = 0

    @classmethod
    def empty(cls, channels: int) -> Drawing:
        """Return one that has seen nothing, of inputs with so many channels (the first dimension of their shape)."""
        rows = max(1, min(channels, MAX_CHANNELS))
        return cls(np.zeros((rows, BINS), np.int64), np.zeros(BINS, np.int64))

    def add(self, batch: NDArray[np.generic], outputs: NDArray[np.generic]) -> None:
        """Count a batch of inputs, shape (n, channels, …), and its outputs, shape (n, classes) or others.

        Outputs that are no probabilities are taken for logits; where there is one number, its logistic function is the
        confidence. What is not finite is counted in no bin.
        """
        count = batch.shape[0]
        values = batch.reshape(count, batch.shape[1] if batch.ndim > 1 else 1, -1)
        for row, part in enumerate(np.array_split(np.arange(values.shape[1]), len(self.channels))):
            self.channels[row] += _counted(values[:, part].reshape(-1), _EDGES)
        self.confidence += _counted(confidences(outputs), _CONFIDENCE_EDGES)
        self.inputs += count

    def sketch(self) -> Sketch:
        """Return what was counted so far."""
        rows = [[int(count) for count in row] for row in self.channels]
        return Sketch(inputs=self.inputs, channels=rows, confidence=[int(count) for count in self.confidence])


def added(sketches: Iterable[Sketch]) -> Sketch | None:
    """Return the sketch of all that several sketches of one model have seen; None for none."""
    found = list(sketches)
    if not found:
        return None
    channels = np.sum([sketch.channels for sketch in found], axis=0)
    confidence = np.sum([sketch.confidence for sketch in found], axis=0)
    return Drawing(channels, confidence, sum(sketch.inputs for sketch in found)).sketch()


def distance(sketch: Sketch, reference: Sketch) -> float | None:
    """Return how far one is from the other; None where either has seen too little, or they are of different models."""
    if min(sketch.inputs, reference.inputs) < LEAST or len(sketch.channels) != len(reference.channels):
        return None
    pairs = [*zip(sketch.channels, reference.channels, strict=True), (sketch.confidence, reference.confidence)]
    return max(_stability_index(np.asarray(ours), np.asarray(theirs)) for ours, theirs in pairs)


def confidences(outputs: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return how sure the model is of each of its outputs, 0 to 1: the probability of its first choice."""
    flat = outputs.reshape(outputs.shape[0], -1).astype(np.float64)
    if flat.shape[1] == 1:
        likely = 1.0 / (1.0 + np.exp(-np.abs(np.clip(flat, -700, 700))))
        return np.asarray(likely[:, 0])
    probable = bool(np.all(flat >= 0)) and bool(np.all(np.abs(flat.sum(axis=1) - 1.0) < 1e-3))
    if not probable:
        raised = np.exp(flat - flat.max(axis=1, keepdims=True))
        flat = raised / raised.sum(axis=1, keepdims=True)
    return np.asarray(flat.max(axis=1))


def _counted(values: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    finite = values[np.isfinite(values)] if np.issubdtype(values.dtype, np.inexact) else values
    return np.bincount(np.searchsorted(edges, finite), minlength=BINS).astype(np.int64)


def _stability_index(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    p, q = (np.maximum(row / max(1, int(row.sum())), _SMALLEST) for row in (ours, theirs))
    return float(np.sum((p - q) * np.log(p / q)))
