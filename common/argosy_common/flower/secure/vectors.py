"""A record of arrays as one flat vector and back: every number in it takes part in the sum, whatever its type.

Whole numbers (counters of normalisation layers) come out as float64, as they do of Flower's own mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord

from argosy_common.codec.base import Vector
from argosy_common.errors import ReplyInvalid, SecureUnsuitable, UpdateNotFinite
from argosy_common.flower.compat import NUMPY_STYPE

_NUMBERS = "fiub"
"""numpy's kinds of arrays that can be averaged: floats, whole numbers, booleans."""


def vector_size(record: Mapping[str, Array]) -> int:
    """Return how many numbers a record holds.

    Raises:
        SecureUnsuitable: one of its arrays is none of numbers.
    """
    for name, array in record.items():
        if array.stype != NUMPY_STYPE or _kind(array) not in _NUMBERS:
            raise SecureUnsuitable(what=f"the array '{name}'", why=f"it holds {array.dtype}, which has no mean")
    return sum(math.prod(array.shape) for array in record.values())


def update_vector(record: Mapping[str, Array], base: Mapping[str, Array], *, where: str) -> Vector:
    """Return record − base as a new flat float32 vector, in the order of `base`.

    Arrays are matched by name; by place where an app returns as many under other names, as from a plain list.

    Raises:
        ReplyInvalid: other arrays, or of other shapes, than those of `base`.
        UpdateNotFinite: NaN or infinity in it; `where` says on which device.
    """
    if set(record) != set(base):
        if len(record) != len(base):
            why = f"under secure aggregation it returns the {len(base)} arrays it was given, not {len(record)}"
            raise ReplyInvalid(why=why)
        record = dict(zip(base, record.values(), strict=True))
    vector = np.empty(vector_size(base), np.float32)
    at = 0
    for name, received in base.items():
        array = record[name]
        if tuple(array.shape) != tuple(received.shape) or array.stype != NUMPY_STYPE or _kind(array) not in _NUMBERS:
            raise ReplyInvalid(why=f"its array '{name}' has another shape or type than the one it was given")
        place = vector[at : at + math.prod(received.shape)]
        at += len(place)
        exact = np.float32 if array.dtype == received.dtype == "float32" else np.float64
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
            place[...] = array.numpy().reshape(-1).astype(exact) - received.numpy().reshape(-1).astype(exact)
        if not np.isfinite(place).all():
            what = "NaN" if np.isnan(place).any() else "infinity"
            raise UpdateNotFinite(array=name, where=where, what=what)
    return vector


def moved(base: Mapping[str, Array], vector: Vector) -> ArrayRecord:
    """Return base + vector as a new record."""
    record = ArrayRecord()
    at = 0
    for name, array in base.items():
        count = math.prod(array.shape)
        part = vector[at : at + count].reshape(array.shape)
        at += count
        held = array.numpy()
        dtype = held.dtype if held.dtype.kind == "f" else np.dtype(np.float64)
        record[name] = Array(np.asarray((held.astype(dtype) + part).astype(dtype, copy=False)))
    return record


def _kind(array: Array) -> str:
    try:
        return np.dtype(array.dtype).kind
    except TypeError:
        return "?"
