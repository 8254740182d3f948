"""Waits between attempts: exponential with full jitter, so that a fleet never comes back in step.

Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), the "full jitter" variant.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """Delays for successive failures: uniform in [floor, min(cap, base·2^n)], in seconds."""

    rng: random.Random
    base: float = 0.5
    cap: float = 60.0
    floor: float = 0.05
    failures: int = 0

    def next(self, *, at_most: float = math.inf) -> float:
        """Return the wait before the next attempt, `at_most` so long, and count one more failure."""
        ceiling = min(self.cap, at_most, self.base * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return self.rng.uniform(self.floor, max(self.floor, ceiling))

    def reset(self) -> None:
        """Forget past failures: the last attempt succeeded."""
        self.failures = 0
