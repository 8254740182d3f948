"""Codes as arrays of a record: one uint8 array a group, under the name `code_name(i)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from argosy_common.codec.base import Vector
from argosy_common.codec.frame import decode_frame, encode_frame
from argosy_common.errors import CodeMalformed, UpdateNotFinite
from argosy_common.flower.codec.groups import Group
from argosy_common.flower.codec.plan import code_name
from argosy_common.flower.compat import NUMPY_STYPE


def encoded(group: Group, vector: Vector, rng: np.random.Generator, *, where: str) -> bytes:
    """Return the frame of a group's flat vector, which belongs to `where` ("on the device …").

    Raises:
        UpdateNotFinite: the codec refuses it; the error names the array.
    """
    try:
        return encode_frame(group.codec, vector, rng)
    except ValueError as error:
        parts = {member.name: vector[member.offset : member.offset + member.size] for member in group.members}
        for name, part in parts.items():
            if (what := not_finite(part)) is not None:
                raise UpdateNotFinite(array=name, where=where, what=what) from error
        largest = max(parts, key=lambda name: float(np.abs(parts[name]).max()))
        raise UpdateNotFinite(array=largest, where=where, what=f"values that it cannot carry ({error})") from error


def not_finite(values: NDArray[Any]) -> str | None:
    """Return what of the values is not a finite number, in words; None if all are."""
    if np.isfinite(values).all():
        return None
    return "NaN" if np.isnan(values).any() else "infinity"


def code_array(frame: bytes) -> Array:
    """Return a frame as an array."""
    return Array(np.frombuffer(frame, np.uint8))


def decoded(record: Mapping[str, Array], groups: Sequence[Group], *, peer: str) -> Iterator[tuple[int, int, Vector]]:
    """Return the codes of all groups in a record as (group, offset, chunk), every code checked before the first chunk.

    A chunk may be a buffer that the next step overwrites.

    Raises:
        CodeMalformed: a code is missing, damaged, or not that of its group.
    """
    codes = [_frame(record, number, group, peer) for number, group in enumerate(groups)]
    chunks = [decode_frame(code, group.codec, group.size, peer=peer) for code, group in zip(codes, groups, strict=True)]
    return _numbered(chunks)


def _numbered(groups: list[Iterator[Vector]]) -> Iterator[tuple[int, int, Vector]]:
    for number, chunks in enumerate(groups):
        offset = 0
        for chunk in chunks:
            yield number, offset, chunk
            offset += len(chunk)


def _frame(record: Mapping[str, Array], number: int, group: Group, peer: str) -> memoryview:
    array = record.get(code_name(number))
    if array is None or (array.dtype, array.stype, len(array.shape)) != ("uint8", NUMPY_STYPE, 1):
        raise CodeMalformed(peer=peer, codec=group.codec.name, why="the code is missing")
    code: NDArray[np.uint8] = np.ascontiguousarray(array.numpy())
    return code.data
