"""A network with one hidden layer: 72 features in, six activities out; 2,534 parameters, 10 kB."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boards_app.data import ACTIVITIES, FEATURES, Windows

HIDDEN = 32
MOMENTUM = 0.9

Arrays = list[NDArray[np.float32]]


class Score(NamedTuple):
    """Mean cross-entropy and the share of windows recognised."""

    loss: float
    accuracy: float


def initial(seed: int) -> Arrays:
    """A network that has learnt nothing."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(0, (2 / FEATURES) ** 0.5, (FEATURES, HIDDEN)).astype(np.float32),
        np.zeros(HIDDEN, np.float32),
        rng.normal(0, (1 / HIDDEN) ** 0.5, (HIDDEN, ACTIVITIES)).astype(np.float32),
        np.zeros(ACTIVITIES, np.float32),
    ]


def train(
    weights: Arrays, windows: Windows, *, epochs: int, lr: float, batch_size: int, rng: np.random.Generator
) -> None:
    """Train in place by SGD with momentum."""
    momenta = [np.zeros_like(array) for array in weights]
    for _ in range(epochs):
        order = rng.permutation(windows.size)
        for first in range(0, windows.size, batch_size):
            chosen = order[first : first + batch_size]
            slopes = gradient(weights, windows.features[chosen], windows.labels[chosen])
            for array, momentum, slope in zip(weights, momenta, slopes, strict=True):
                np.add(MOMENTUM * momentum, slope, out=momentum)
                np.subtract(array, lr * momentum, out=array)


def test(weights: Arrays, windows: Windows) -> Score:
    """The score on these windows."""
    _, chances = forward(weights, windows.features)
    right = chances[np.arange(windows.size), windows.labels]
    hits = chances.argmax(1) == windows.labels
    return Score(float(-np.log(np.maximum(right, 1e-12)).mean()), float(hits.mean()))


def forward(weights: Arrays, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The hidden layer, and each activity's probability."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(inputs @ w1 + b1, 0)
    scores = hidden @ w2 + b2
    chances = np.exp(scores - scores.max(1, keepdims=True))
    return hidden, chances / chances.sum(1, keepdims=True)


def gradient(weights: Arrays, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> Arrays:
    """Of the mean cross-entropy, by each array."""
    hidden, error = forward(weights, inputs)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    back = (error @ weights[2].T) * (hidden > 0)
    return [inputs.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
