"""One person's sensor windows as a few dozen numbers each, or made ones where nothing is to be read.

A window is 2.56 s of a phone at the waist: acceleration in g and rotation in rad/s, three axes each, 128 samples. Its
features are scaled by constants in these units, never by statistics: no board knows those of the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SYNTHETIC = "synthetic"
ACTIVITIES, AXES, SAMPLES = 6, 6, 128
BINS = 8  # of the spectrum, 0.39 Hz each: steps are below 3 Hz
FEATURES = AXES * (4 + BINS)
SYNTHETIC_WINDOWS = 120

_UNITS = np.array([1, 1, 1, 2, 2, 2], np.float32)[:, None]  # 1 g, and the 2 rad/s of a brisk turn
_FAINT = 0.01  # of a unit: below it there is only noise
_MIDDLE = 1.5  # decades from there to a lively movement, half way


class Windows(NamedTuple):
    """Features (n, 72) as float32 and activities (n,) as int64."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def size(self) -> int:
        """How many windows."""
        return len(self.labels)


def load_person(data: str, subject: int) -> Windows:
    """One person's windows: of `subject-NN.npz` in the folder `data`, or made from the number.

    Raises FileNotFoundError, which says how to prepare the data, or ValueError for a wrong shape.
    """
    if data == SYNTHETIC:
        return synthetic(subject)
    path = Path(data) / f"subject-{subject:02}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"no sensor data at '{path}': run `python prepare.py FOLDER` of examples/har first")
    with np.load(path, allow_pickle=False) as file:
        signals, labels = file["signals"], file["labels"]
    if signals.shape != (len(labels), AXES, SAMPLES):
        raise ValueError(f"{path} holds signals of shape {signals.shape}, not (windows, {AXES}, {SAMPLES})")
    return Windows(features(signals.astype(np.float32)), labels.astype(np.int64))


def load_people(data: str, subjects: str) -> Windows:
    """All windows of several people, such as "21-30"."""
    first, _, last = subjects.partition("-")
    people = [load_person(data, subject) for subject in range(int(first), int(last or first) + 1)]
    return Windows(np.concatenate([one.features for one in people]), np.concatenate([one.labels for one in people]))


def features(signals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where each axis points, and in decades how far and how fast it moves."""
    signals = signals / _UNITS
    means = signals.mean(2)
    moves = signals - means[..., None]
    spectrum = np.abs(np.fft.rfft(moves * np.hanning(SAMPLES), axis=2))[:, :, 1 : BINS + 1] / (SAMPLES / 4)
    reach = np.concatenate([moves.std(2), -moves.min(2), moves.max(2), spectrum.reshape(len(signals), -1)], 1)
    return np.concatenate([2 * means, np.log10(reach + _FAINT) + _MIDDLE], 1).astype(np.float32)


def synthetic(subject: int) -> Windows:
    """Made windows: activities have the same centres everywhere, people differ by a small offset and by their noise."""
    centres = np.random.default_rng(0).normal(0, 0.6, (ACTIVITIES, FEATURES))
    rng = np.random.default_rng((1, subject))
    labels = rng.integers(0, ACTIVITIES, SYNTHETIC_WINDOWS)
    made = centres[labels] + rng.normal(0, 0.3, FEATURES) + rng.normal(0, 0.6, (SYNTHETIC_WINDOWS, FEATURES))
    return Windows(made.astype(np.float32), labels)
