"""What every codec asks of the vector it is given, and the sizes that all of them work in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from argosy_common.codec.base import CHUNK, Vector

LARGEST = 1e30
"""The largest magnitude that the scaled codecs take. An update beyond it has diverged, and its squares overflow."""

_SURELY_FINITE = 1e37


def chunks(size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `CHUNK` coordinates that cover `size`."""
    for start in range(0, size, CHUNK):
        yield slice(start, min(start + CHUNK, size))


def require_finite(values: Vector, limit: float = float(np.finfo(np.float32).max)) -> None:
    """Raise ValueError unless every value is finite and at most `limit` in magnitude.

    Args:
        values: shape (d,), float32, C-contiguous.
        limit: the largest magnitude allowed.
    """
    require_vector(values)
    for part in chunks(len(values)):
        chunk = values[part]
        # One fast pass: where the sum of squares is an ordinary number, each value is at most its root, 3e18.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.dot(chunk, chunk) < _SURELY_FINITE and limit >= LARGEST:
                continue
        refuse_large(np.abs(chunk).max(), limit)


def refuse_large(peak: np.floating, limit: float) -> None:
    """Raise ValueError where `peak`, the largest magnitude (NaN counts as larger than all), is not within `limit`."""
    if np.isnan(peak):
        raise ValueError("it holds NaN")
    if np.isinf(peak):
        raise ValueError("it holds infinity")
    if peak > np.float32(limit):
        raise ValueError(f"it holds {float(peak):.3g}, and this codec takes magnitudes up to {limit:.3g}")


def require_vector(values: Vector) -> None:
    """Raise ValueError for what is no flat, contiguous float32 vector."""
    if values.ndim != 1 or values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError(f"a codec takes a flat contiguous float32 vector, not {values.dtype} of shape {values.shape}")


def require_length(payload: memoryview, expected: int, size: int) -> None:
    """Raise ValueError where a payload has not the length that `size` values make."""
    if payload.nbytes != expected:
        raise ValueError(f"{size} values make {expected} bytes, not {payload.nbytes}")
