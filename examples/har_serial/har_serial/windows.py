"""Samples as windows, as the model was trained on them: 128 samples at 50 Hz, one every 64."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from har_serial.samples import AXES, Sample

LENGTH, STEP, RATE_HZ = 128, 64, 50
GAP_S = 0.5
"""After a silence as long a window begins anew: half of it would be of another time."""


class Windows:
    """Takes samples, and gives a window whenever one is full."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=LENGTH)
        self._new = 0
        self._at = float("-inf")

    def add(self, sample: Sample, at: float) -> NDArray[np.float32] | None:
        """Take a sample that came at `at` (monotonic seconds); return the window that it fills, shape (6, 128)."""
        if at - self._at > GAP_S:
            self._samples.clear()
            self._new = LENGTH - STEP  # a full window is needed first, then a step's worth
        self._at = at
        self._samples.append(sample)
        self._new += 1
        if len(self._samples) < LENGTH or self._new % STEP:
            return None
        return np.asarray(self._samples, np.float32).T.reshape(AXES, LENGTH)
