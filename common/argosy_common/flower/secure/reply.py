"""An app's reply as what a client says under the mask: one vector, a weight, and metrics in slots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from argosy_common.errors import ReplyInvalid, SecureUnsuitable
from argosy_common.flower.secure.vectors import update_vector
from argosy_common.flower.seen import SEEN
from argosy_common.secagg.client import ClientUpdate
from argosy_common.secagg.limbs import MOST_METRIC
from argosy_common.secagg.messages import Slot


def client_update(reply: Message, base: ArrayRecord | None, *, weight_key: str, slots: int, where: str) -> ClientUpdate:
    """Return what a reply says.

    Args:
        reply: the app's, without an error.
        base: the arrays that the app was given; None where only metrics are summed.
        weight_key: the metric that is the weight.
        slots: how many metrics message 1 has room for.
        where: says in errors on which device.

    Raises:
        ReplyInvalid: arrays or metrics that cannot be summed.
        SecureUnsuitable: records that would have to be told one by one, or too many metrics.
        UpdateNotFinite: NaN or infinity in the arrays.
    """
    content = reply.content
    if content.config_records:
        raise SecureUnsuitable(what="a config record in a reply", why="it cannot be summed, and would show one device")
    arrays, record = _only(content.array_records, "arrays"), _only(content.metric_records, "metrics")
    if base is None or not arrays:
        if base is not None or arrays:
            raise ReplyInvalid(why="it has arrays where none were asked for, or none where they were")
        values = np.empty(0, np.float32)
    else:
        values = update_vector(content.array_records[arrays], base, where=where)
    metrics = content.metric_records[record] if record else MetricRecord()
    examples = metrics.get(weight_key)
    if not isinstance(examples, int | float) or not math.isfinite(examples) or examples < 0:
        raise ReplyInvalid(why=f"its metric '{weight_key}' is not a number of examples")
    others = {name: value for name, value in sorted(metrics.items()) if name not in (weight_key, SEEN)}
    layout = tuple(_layout(others))
    _require_finite(others)
    flat = tuple(float(each) for value in others.values() for each in (value if isinstance(value, list) else [value]))
    if len(flat) > slots:
        raise SecureUnsuitable(what=f"{len(flat)} metrics", why=f"at most {slots} numbers are summed under the mask")
    return ClientUpdate(values, float(examples), flat, arrays, record, layout)


def aggregate(
    weight: int, means: tuple[float | None, ...], slots: tuple[Slot, ...], weight_key: str
) -> tuple[MetricRecord, list[str]]:
    """Return the metrics of an aggregate, and the names of those that not every client had."""
    metrics: dict[str, int | float | list[int] | list[float]] = {}
    missing: list[str] = []
    at = 0
    for name, length in slots:
        count = 1 if length < 0 else length
        values = means[at : at + count]
        at += count
        if any(value is None for value in values):
            missing.append(name)
        elif length < 0:
            metrics[name] = float(values[0] or 0.0)
        else:
            metrics[name] = [float(value or 0.0) for value in values]
    metrics[weight_key] = weight
    return MetricRecord(metrics), missing


def _layout(metrics: Mapping[str, object]) -> Iterator[Slot]:
    for name, value in metrics.items():
        if len(name) > 256:
            raise SecureUnsuitable(what=f"the metric '{name[:40]}…'", why="its name has more than 256 characters")
        yield name, len(value) if isinstance(value, list) else -1


def _require_finite(metrics: Mapping[str, int | float | list[int] | list[float]]) -> None:
    """Refuse what cannot be summed: a metric that only some devices have would be shown for those alone."""
    for name, value in metrics.items():
        values: Sequence[float] = value if isinstance(value, list) else [value]
        if not all(math.isfinite(float(each)) and abs(float(each)) < MOST_METRIC for each in values):
            raise ReplyInvalid(why=f"its metric '{name}' is not a number that can be summed: {value!r}"[:300])


def _only(records: Mapping[str, object], what: str) -> str:
    """Return the name of the one record of a kind; empty if there is none."""
    if len(records) > 1:
        raise SecureUnsuitable(what=f"{len(records)} records of {what} in a reply", why="one is summed")
    return next(iter(records), "")


def plain(content: RecordDict, own: str) -> RecordDict:
    """Return a content without the records whose names begin with `own`."""
    return RecordDict({name: record for name, record in content.items() if not name.startswith(own)})
