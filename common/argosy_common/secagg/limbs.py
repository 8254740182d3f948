"""Weights and metrics as field elements that add up exactly (specs/secure-aggregation.md, 4).

A number is a whole one of fixed width, cut into limbs of b bits, each in an element of its own; b is such that the sum
of n limbs stays below p. A metric is fixed-point with an offset for its sign, and has a limb that says whether it is
there. Nothing here is rotated or dithered: sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from argosy_common.field import Field
from argosy_common.prg import Elements

WEIGHT_BITS = 32
METRIC_BITS = 64
_OFFSET = 1 << (METRIC_BITS - 1)
_UNIT = 1 << 32
"""Steps of a metric in one."""
MOST_SLOTS = 64
MOST_METRIC = 2.0**31
"""The magnitude that a metric must stay below."""


class Weighting(StrEnum):
    """What a client's number of examples becomes before it is summed."""

    POWERS = "powers"
    """Rounded to a power of two: sums over many rounds with changing sets give each client's number away to within a
    factor of √2, and no more."""
    EQUAL = "equal"
    """Every client counts the same."""
    EXACT = "exact"
    """As it is: after some rounds with changing sets the coordinator knows every client's number."""

    def of(self, examples: float, cap: int) -> tuple[int, bool]:
        """Return a client's weight, 0 … cap, and whether it was cut to the cap.

        Raises:
            ValueError: a number of examples that is negative or not finite.
        """
        if not math.isfinite(examples) or examples < 0:
            raise ValueError(f"a number of examples is 0 or more, not {examples}")
        if examples == 0:
            return 0, False
        if self is Weighting.EQUAL:
            return cap, False
        rounded = max(1, round(examples)) if self is Weighting.EXACT else 2 ** max(0, round(math.log2(examples)))
        return min(rounded, cap), rounded > cap


@dataclass(frozen=True)
class Tally:
    """What the limbs of a sum say.

    Attributes:
        weight: Σ w_i, > 0.
        capped: how many clients' weights were cut to the cap.
        means: for each slot the mean of its metric weighted by w_i; None where not every client of the sum had it.
    """

    weight: int
    capped: int
    means: tuple[float | None, ...]


class Limbs:
    """The layout of limbs for groups of n clients mod p: a weight, a flag, and `slots` metrics."""

    def __init__(self, n: int, p: int, slots: int) -> None:
        if not 0 <= slots <= MOST_SLOTS:
            raise ValueError(f"there are 0 to {MOST_SLOTS} metrics, not {slots}")
        self.bits = ((p - 1) // n + 1).bit_length() - 1
        self.slots = slots
        self._dtype = Field(p).dtype
        self._widths = [WEIGHT_BITS, 1, *[1, METRIC_BITS] * slots]

    @property
    def count(self) -> int:
        """How many elements they are."""
        return sum(-(-width // self.bits) for width in self._widths)

    def encode(self, weight: int, *, capped: bool, cap: int, metrics: Sequence[float | None]) -> Elements:
        """Return one client's limbs, shape (count,).

        A metric that is not finite, or beyond ±2^31, counts as absent; slots beyond `metrics` are absent too.

        Args:
            weight: w_i, 0 … cap.
            capped: whether it was cut.
            cap: w_cap, 1 … 2^32 − 1.
            metrics: at most `slots` values.
        """
        numbers = [weight, int(capped)]
        for value in [*metrics, *[None] * (self.slots - len(metrics))]:
            fixed = None if value is None or not math.isfinite(value) else round(value * weight / cap * _UNIT)
            present = fixed is not None and -_OFFSET <= fixed < _OFFSET
            numbers += [int(present), fixed + _OFFSET if present and fixed is not None else 0]
        limbs = [limb for number, width in zip(numbers, self._widths, strict=True) for limb in self._cut(number, width)]
        return np.array(limbs, self._dtype)

    def decode(self, total: Elements, members: int, cap: int) -> Tally:
        """Return what the sum of the limbs of `members` clients says.

        Raises:
            ValueError: a sum that honest clients cannot make, or weights that sum to zero.
        """
        if total.shape != (self.count,) or (total.size and int(total.max()) > members * (2**self.bits - 1)):
            raise ValueError("the sum of weights and metrics is not one of honest clients")
        numbers = list(self._joined(total))
        weight, capped = numbers[0], numbers[1]
        if not 0 < weight <= members * cap or capped > members:
            raise ValueError("all clients of the sum weigh nothing" if weight == 0 else "the weights exceed the cap")
        means: list[float | None] = []
        for slot in range(self.slots):
            present, value = numbers[2 + 2 * slot], numbers[3 + 2 * slot]
            whole = present == members
            means.append((value - present * _OFFSET) / _UNIT * cap / weight if whole else None)
        return Tally(weight, capped, tuple(means))

    def _cut(self, number: int, width: int) -> Iterator[int]:
        for at in range(0, width, self.bits):
            yield number >> at & (1 << min(self.bits, width - at)) - 1

    def _joined(self, total: Elements) -> Iterator[int]:
        limbs = iter(total.tolist())
        for width in self._widths:
            yield sum(next(limbs) << at for at in range(0, width, self.bits))
