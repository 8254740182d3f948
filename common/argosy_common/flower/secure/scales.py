"""The ring codec's scales from round to round: what the last sum looked like, or a bound where nothing is known yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.hadamard import block_count
from argosy_common.codec.ring import RingRound, RingSum, next_scales

BOUND = 0.1
"""Root mean square of an update's values that a first round allows for, unless the run says otherwise."""
_FIRST: tuple[int, Literal[1, 2]] = (65521, 2)


class Scales:
    """Of one run's updates.

    Args:
        p: the prime that the run wants. Until every block's spread is known the large one and two digits are used,
            whose range is wide and whose steps are fine enough for a guess; that costs a round two or four times the
            bytes.
        bound: see `BOUND`.
    """

    def __init__(self, p: int, bound: float = BOUND) -> None:
        self._p = p
        self._bound = bound
        self._per_client = np.empty(0, np.float32)
        self._known = np.empty(0, np.bool_)

    def start(self, size: int) -> tuple[int, Literal[1, 2]]:
        """Begin a round of updates of `size` values; return its prime, and the codec's digits."""
        blocks = block_count(size)
        if blocks != len(self._per_client) and size:
            self._per_client = np.full(blocks, self._bound, np.float32)
            self._known = np.zeros(blocks, np.bool_)
        return (self._p, 1) if not size or bool(self._known.all()) else _FIRST

    def of(self, size: int, clients: int) -> NDArray[np.float32]:
        """Return the scales for a group: the spread that the sum of its clients' updates may have."""
        scales: NDArray[np.float32] = self._per_client * np.float32(clients) if size else np.empty(0, np.float32)
        return scales

    def learn(self, seen: Sequence[tuple[RingRound, RingSum]]) -> None:
        """Take in what the groups' sums looked like: of several the widest counts."""
        seen = [(shared, summed) for shared, summed in seen if shared.size]
        if not seen:
            return
        wanted = [next_scales(shared, summed, self._known) / np.float32(shared.clients) for shared, summed in seen]
        self._per_client = np.max(wanted, axis=0).astype(np.float32)
        self._known |= ~np.any([summed.flagged for _, summed in seen], axis=0)
