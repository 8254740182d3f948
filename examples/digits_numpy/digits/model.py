"""A network of one hidden layer in numpy (24 k parameters, 96 kB), trained by SGD with momentum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from digits.data import CLASSES, PIXELS, Pictures

HIDDEN = 320
MOMENTUM = 0.9

Arrays = list[NDArray[np.float32]]
"""Weights and biases of the two layers, in order; their gradients and momenta likewise."""


class Score(NamedTuple):
    """Mean cross-entropy and the share of digits recognised."""

    loss: float
    accuracy: float


def initial(seed: int) -> Arrays:
    """A fresh network."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(0.0, np.sqrt(2.0 / PIXELS), (PIXELS, HIDDEN)).astype(np.float32),
        np.zeros(HIDDEN, np.float32),
        rng.normal(0.0, np.sqrt(1.0 / HIDDEN), (HIDDEN, CLASSES)).astype(np.float32),
        np.zeros(CLASSES, np.float32),
    ]


def still(weights: Arrays) -> Arrays:
    """No momentum yet."""
    return [np.zeros_like(array) for array in weights]


def train(
    weights: Arrays,
    momenta: Arrays,
    pictures: Pictures,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    rng: np.random.Generator,
) -> Score:
    """Train in place, momenta too; the score afterwards on the same pictures."""
    for _ in range(epochs):
        order = rng.permutation(pictures.size)
        for first in range(0, pictures.size, batch_size):
            batch = pictures.part(order[first : first + batch_size])
            for array, momentum, slope in zip(weights, momenta, gradient(weights, batch), strict=True):
                np.add(MOMENTUM * momentum, slope, out=momentum)
                np.subtract(array, lr * momentum, out=array)
    return test(weights, pictures)


def test(weights: Arrays, pictures: Pictures) -> Score:
    """The score of a network; of no pictures at all, zero."""
    if not pictures.size:
        return Score(0.0, 0.0)
    _, chances = forward(weights, pictures.images)
    right = chances[np.arange(pictures.size), pictures.labels]
    hits = chances.argmax(1) == pictures.labels
    return Score(float(-np.log(np.maximum(right, 1e-12)).mean()), float(hits.mean()))


def forward(weights: Arrays, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The hidden layer, and each digit's probability."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(images @ w1 + b1, 0)
    scores = hidden @ w2 + b2
    chances = np.exp(scores - scores.max(1, keepdims=True))
    return hidden, chances / chances.sum(1, keepdims=True)


def gradient(weights: Arrays, pictures: Pictures) -> Arrays:
    """Of the mean cross-entropy, by each array."""
    hidden, error = forward(weights, pictures.images)
    error[np.arange(pictures.size), pictures.labels] -= 1
    error /= pictures.size
    back = (error @ weights[2].T) * (hidden > 0)
    return [pictures.images.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
