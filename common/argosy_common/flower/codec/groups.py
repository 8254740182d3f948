"""Which arrays of a record a codec takes, and in what order: the same answer on both ends, from names and shapes alone.

Integer, boolean and half-precision arrays always travel as they are. So do, unless a pattern names them, tiny arrays
and vectors of up to one block: biases, and the running statistics of normalisation layers, where noise does harm (a
negative variance) and a codec saves next to nothing.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from argosy_common.codec.base import Codec, Vector
from argosy_common.codec.registry import get_codec
from argosy_common.flower.compat import NUMPY_STYPE
from argosy_common.run_settings import EXACT, NONE

TINY = 64
"""Arrays of fewer elements travel as they are."""
SHORT_VECTOR = 4096
"""So do arrays of one dimension of up to so many elements."""

_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class CodecChoice:
    """A codec for one direction; (pattern of array names, codec or `exact`) overrides it, the first that fits."""

    codec: str = NONE
    arrays: tuple[tuple[str, str], ...] = ()

    @property
    def active(self) -> bool:
        """Whether any array could be encoded."""
        return any(name != NONE for name in self.names())

    def names(self) -> list[str]:
        """Return the name of every codec that may be used, each once."""
        return [name for name in dict.fromkeys([self.codec, *(codec for _, codec in self.arrays)]) if name != EXACT]

    def of(self, name: str, array: Array) -> str:
        """Return the name of the codec for an array, or `exact`."""
        size = math.prod(array.shape)
        if array.stype != NUMPY_STYPE or array.dtype not in _DTYPES or not size:
            return EXACT
        for pattern, codec in self.arrays:
            if fnmatch.fnmatchcase(name, pattern):
                return EXACT if codec == NONE else codec
        short = size < TINY or (len(array.shape) <= 1 and size <= SHORT_VECTOR)
        return EXACT if short or self.codec == NONE else self.codec


@dataclass(frozen=True)
class Member:
    """An array's place in the flat vector of its group: `size` values from `offset`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int


@dataclass(frozen=True)
class Group:
    """The arrays of a record that one codec takes together, as one flat float32 vector of `size` values."""

    codec: Codec
    members: tuple[Member, ...]
    size: int


def group_arrays(record: Mapping[str, Array], choice: CodecChoice) -> list[Group]:
    """Return the groups of a record, in the order in which their codecs first appear; exact arrays are in none.

    Raises:
        CodecUnknown: a codec that this end does not have.
    """
    members: dict[str, list[Member]] = {}
    sizes: dict[str, int] = {}
    for name, array in record.items():
        codec = choice.of(name, array)
        if codec == EXACT:
            continue
        size = math.prod(array.shape)
        offset = sizes.get(codec, 0)
        members.setdefault(codec, []).append(Member(name, tuple(array.shape), array.dtype, offset, size))
        sizes[codec] = offset + size
    return [Group(get_codec(codec), tuple(its), sizes[codec]) for codec, its in members.items()]


def flatten(record: Mapping[str, Array], group: Group) -> Vector:
    """Return the arrays of a group as a new flat vector, shape (group.size,)."""
    vector = np.empty(group.size, np.float32)
    for member in group.members:
        vector[member.offset : member.offset + member.size] = record[member.name].numpy().reshape(-1)
    return vector


def restored(member: Member, vector: Vector) -> Array:
    """Return an array of a group from its flat vector, in its own shape and dtype."""
    part = vector[member.offset : member.offset + member.size]
    return Array(part.astype(member.dtype, copy=False).reshape(member.shape))


def moved(base: Array, member: Member, vector: Vector) -> Array:
    """Return base + its part of an update's flat vector, in the shape and dtype of the base."""
    part = vector[member.offset : member.offset + member.size]
    return Array((base.numpy() + part.reshape(member.shape)).astype(member.dtype, copy=False))


def fp32_size(record: Mapping[str, Array]) -> int:
    """Return the bytes of a record's values at full precision, without any header."""
    return sum(math.prod(array.shape) * _item_size(array.dtype) for array in record.values())


def _item_size(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        return 1  # opaque bytes of another serialisation: its shape counts them


def same_kind(array: Array, other: Array) -> bool:
    """Tell whether two arrays have the same shape and dtype, both as plain numpy."""
    return tuple(array.shape) == tuple(other.shape) and array.dtype == other.dtype and array.stype == other.stype


def gathered(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return a record of these arrays, none of them copied."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def in_order_of(model: Mapping[str, Array], arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return a record of `arrays` in the order of the model's; what the model does not have comes last."""
    names = [*(name for name in model if name in arrays), *(name for name in arrays if name not in model)]
    return gathered({name: arrays[name] for name in names})
