"""The running mean of replies: what a mean strategy would compute from all of them, in the memory of one model.

Flower's strategies of the FedAvg family take Σ wᵢ·arraysᵢ / Σ wᵢ of the replies' arrays, with wᵢ = `num-examples`. One
reply that carries this mean and Σ wᵢ leaves them exact (DESIGN.md, "The way of one round"). Updates are summed, not
arrays, in float32: they are small beside the model, so that little is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from argosy_common.codec.base import CHUNK, Vector
from argosy_common.flower.codec.groups import Group, in_order_of, moved

Chunks = Iterator[tuple[int, int, Vector]]
"""(group, offset, values) …, as `frames.decoded` gives them."""


class RunningMean:
    """The weighted mean of one record of arrays over replies that come one by one.

    Args:
        base: the model that the strategy sent; updates are relative to it.
        groups: its groups.
    """

    def __init__(self, base: ArrayRecord, groups: Sequence[Group]) -> None:
        self.base = base
        self.groups = groups
        self.weight: float = 0
        self.count = 0
        self._form: tuple[object, ...] = ()
        self._sums: list[Vector] = []
        self._exact: dict[str, NDArray[Any]] = {}
        self._scaled = np.empty(CHUNK, np.float32)

    def fits(self, exact: Mapping[str, Array], omitted: Sequence[str]) -> bool:
        """Tell whether a reply has the arrays that the replies before it had."""
        return not self.count or self._form == _form(exact, omitted)

    def add(self, weight: float, updates: Chunks, exact: Mapping[str, Array], omitted: Sequence[str]) -> None:
        """Take a reply in: its updates group by group, and the arrays that came as they are.

        `updates` must not fail half-way: what it has yielded by then is in the sum.
        """
        if not self.count:
            self._form = _form(exact, omitted)
            self._sums = [np.zeros(group.size, np.float32) for group in self.groups]
        for number, offset, chunk in updates:
            scaled = self._scaled[: len(chunk)]
            np.multiply(chunk, np.float32(weight), out=scaled)
            place = self._sums[number][offset : offset + len(chunk)]
            np.add(place, scaled, out=place)
        for name, array in exact.items():
            weighted = array.numpy() * weight  # promotes as in Flower's own mean: integers to float64
            self._exact[name] = weighted if name not in self._exact else self._exact[name] + weighted
        self.weight += weight
        self.count += 1

    def arrays(self) -> ArrayRecord:
        """Return the mean of the replies' arrays, in the order of the model; gives up what was summed."""
        omitted = set(self._form[1:])
        found: dict[str, Array] = {}
        for group, total in zip(self.groups, self._sums, strict=True):
            np.divide(total, np.float32(self.weight), out=total)
            for member in group.members:
                if member.name not in omitted:
                    found[member.name] = moved(self.base[member.name], member, total)
        found |= {name: Array(np.asarray(total / self.weight)) for name, total in self._exact.items()}
        self._sums, self._exact = [], {}
        return in_order_of(self.base, found)


def _form(exact: Mapping[str, Array], omitted: Sequence[str]) -> tuple[object, ...]:
    return (frozenset((name, tuple(array.shape)) for name, array in exact.items()), *sorted(omitted))
