"""FedBuff's buffer: updates to models of several versions, and the one reply that stands for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from argosy_common.errors import ReplyInvalid
from argosy_common.flower import compat
from argosy_common.flower.rounds import device_id


@dataclass(frozen=True)
class Update:
    """A device's reply to `train`, and what it was a reply to."""

    node: int
    version: int
    """Of the model that the device got; steps made before it was sent."""
    base: ArrayRecord
    reply: Message
    seconds: float

    @property
    def arrays(self) -> ArrayRecord:
        """The arrays that it brought."""
        return next(iter(self.reply.content.array_records.values()))

    @property
    def metrics(self) -> MetricRecord:
        """Its metrics, its weight among them."""
        return next(iter(self.reply.content.metric_records.values()))


class Buffer:
    """Updates until a step is made of them.

    An update of staleness s (steps made since its base) stands for the change Δ to its base times (1 + s) ** −exponent.
    A strategy that takes the weighted mean of what it gets then makes the model w + Σ pᵢ (1 + sᵢ) ** −a Δᵢ, where pᵢ
    are the weights divided by their sum.
    """

    def __init__(self, weight_key: str, exponent: float, *, plain: bool) -> None:
        """Hold nothing yet; `plain` is whether one reply may stand for all, metrics included."""
        self._weight_key = weight_key
        self._exponent = exponent
        self._plain = plain
        self._updates: list[Update] = []

    def __len__(self) -> int:
        return len(self._updates)

    def put(self, update: Update) -> None:
        """Add an update.

        Raises:
            ReplyInvalid: it does not go together with the model, or with the updates before it.
        """
        content = update.reply.content
        if len(content.array_records) != 1 or len(content.metric_records) != 1:
            raise ReplyInvalid(why="it must have one record of arrays and one of metrics")
        if {name: array.shape for name, array in update.arrays.items()} != {
            name: array.shape for name, array in update.base.items()
        }:
            raise ReplyInvalid(why="its arrays have other names or shapes than those of the model")
        weight = update.metrics.get(self._weight_key)
        if not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
            raise ReplyInvalid(why=f"its metric '{self._weight_key}', by which it is weighted, is {weight!r}")
        if self._updates and set(self._updates[0].metrics) != set(update.metrics):
            raise ReplyInvalid(why="its metrics have other names than those of the devices before it")
        self._updates.append(update)

    def described(self, version: int) -> list[dict[str, object]]:
        """Return what a step from `version` would take in, as plain data."""
        return [
            {
                "device": device_id(each.node),
                "staleness": version - each.version,
                "weight": self._discount(each, version),
                "seconds": each.seconds,
            }
            for each in self._updates
        ]

    def take(self, version: int, arrays: ArrayRecord) -> list[Message]:
        """Empty the buffer; return replies as a strategy would have got them to `arrays`, the model of `version`.

        One that stands for all if that may be; else one for each update.
        """
        updates, self._updates = self._updates, []
        if not self._plain:
            return [self._moved(each, version, arrays) for each in updates]
        weights = [float(cast("float", each.metrics[self._weight_key])) for each in updates]
        total = sum(weights)
        if total <= 0:
            return [self._moved(each, version, arrays) for each in updates]
        shares = [weight / total * self._discount(each, version) for weight, each in zip(weights, updates, strict=True)]
        metrics = compat.mean_metrics([RecordDict({"metrics": each.metrics}) for each in updates], self._weight_key)
        metrics[self._weight_key] = total
        return [_answer(updates[0], _sum(arrays, updates, shares, weights), metrics)]

    def _moved(self, update: Update, version: int, arrays: ArrayRecord) -> Message:
        """Return an update as if the device had got `arrays`."""
        return _answer(update, _sum(arrays, [update], [self._discount(update, version)], [1.0]), update.metrics)

    def _discount(self, update: Update, version: int) -> float:
        return float((1.0 + version - update.version) ** -self._exponent)


def _sum(arrays: ArrayRecord, updates: list[Update], shares: list[float], weights: list[float]) -> ArrayRecord:
    """Return w + Σ shareᵢ (wᵢ − baseᵢ), array by array; of one that is no float (a counter), the weighted mean."""
    made = ArrayRecord()
    for name, array in arrays.items():
        now = array.numpy()
        if np.issubdtype(now.dtype, np.floating):
            value = now.astype(np.float64)
            for update, share in zip(updates, shares, strict=True):
                value += share * (update.arrays[name].numpy().astype(np.float64) - update.base[name].numpy())
        else:
            total = sum(weights) or 1.0
            parts = [
                update.arrays[name].numpy() * (weight / total) for update, weight in zip(updates, weights, strict=True)
            ]
            value = np.sum(parts, axis=0)
        made[name] = Array(np.asarray(value).astype(now.dtype).reshape(now.shape))
    return made


def _answer(update: Update, arrays: ArrayRecord, metrics: MetricRecord) -> Message:
    """Return a reply with the names of records that the device's had."""
    content = update.reply.content
    made = RecordDict({next(iter(content.array_records)): arrays, next(iter(content.metric_records)): metrics})
    return compat.with_content(update.reply, made)
