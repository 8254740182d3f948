"""Vectors that codecs find hard, what each codec promises of them, and how errors are measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

from argosy_common.codec.base import CHUNK, Codec, Vector
from argosy_common.codec.hadamard import BLOCK
from argosy_common.codec.int8 import SCALED
from argosy_common.codec.lloyd_max import eden_nmse

EDEN = ("eden:1", "eden:2", "eden:3", "eden:4")
TOPK = ("topk:0.3", "topk:0.01", "topk:0.001")
"""One for each way that places are written."""
CODECS = ("none", "fp16", "bf16", "int8", *EDEN, *TOPK)
"""All that encode a vector on their own: not the ring."""

SMALL = (0, 1, 2, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097)
LARGE = (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + BLOCK + 5)

LIMITS = {"fp16": 65504.0, "int8": 1e30, "eden": 1e30, "topk": 1e30}
"""The largest magnitude a codec takes, where float32 holds larger ones."""

same_each_time = settings(derandomize=True, deadline=None, max_examples=40, database=None)


def normal(size: int) -> Vector:
    return np.random.default_rng(size).standard_normal(size, dtype=np.float32)


def heavy(size: int) -> Vector:
    """Student's t with three degrees of freedom: no kurtosis at all."""
    return np.random.default_rng(size).standard_t(3, size).astype(np.float32)


def _zeros(size: int) -> Vector:
    return np.zeros(size, np.float32)


def _some_blocks_are_zero(size: int) -> Vector:
    values = normal(size)
    for start in range(0, size, 3 * SCALED):
        values[start : start + SCALED] = 0
    for start in range(0, size, 2 * BLOCK):
        values[start : start + BLOCK] = 0
    return values


def _outlier(magnitude: float) -> Callable[[int], Vector]:
    def make(size: int) -> Vector:
        values = normal(size)
        values[size // 2 : size // 2 + 1] = -magnitude
        return values

    return make


def _denormals(size: int) -> Vector:
    return (normal(size).astype(np.float64) * 1e-42).astype(np.float32)


def _from_least_to_largest(size: int) -> Vector:
    exponents = np.random.default_rng(size).uniform(-45, 30, size)
    return (np.power(10.0, exponents) * np.where(np.arange(size) % 2, 1, -1)).astype(np.float32)


def _all_the_same(size: int) -> Vector:
    return np.full(size, -0.3, np.float32)


AWKWARD: dict[str, Callable[[int], Vector]] = {
    "zeros": _zeros,
    "zero blocks": _some_blocks_are_zero,
    "outlier 1e30": _outlier(1e30),
    "outlier 1e25": _outlier(1e25),
    "denormals": _denormals,
    "heavy tails": heavy,
    "75 orders of magnitude": _from_least_to_largest,
    "all the same": _all_the_same,
}


def decode(codec: Codec, payload: bytes, size: int) -> Vector:
    """Return what a payload decodes to, having checked the shape of the chunks."""
    parts = [np.array(chunk) for chunk in codec.decode(memoryview(payload), size)]
    assert all(part.dtype == np.float32 and 0 < len(part) <= CHUNK for part in parts)
    whole = np.concatenate([*parts, np.empty(0, np.float32)])
    assert len(whole) == size
    return whole


def round_trip(codec: Codec, values: Vector, seed: int = 1) -> Vector:
    return decode(codec, codec.encode(values, np.random.default_rng(seed)), len(values))


def nmse(decoded: Vector, values: Vector) -> float:
    """Return the squared error over the squared length."""
    exact = values.astype(np.float64)
    return float(np.sum(np.square(decoded - exact)) / np.sum(np.square(exact)))


def assert_kept(name: str, values: Vector, decoded: Vector) -> None:
    """Fail unless `decoded` is as close to `values` as the codec promises of every vector."""
    assert np.isfinite(decoded).all()
    exact = values.astype(np.float64)
    error = np.abs(decoded - exact)
    kind, _, parameter = name.partition(":")
    if kind == "none":
        assert np.array_equal(decoded.view(np.uint32), values.view(np.uint32))
    elif kind == "fp16":
        assert np.all(error <= np.maximum(np.abs(exact) * 2**-11, 2**-25))
    elif kind == "bf16":
        assert np.all(error <= np.maximum(np.abs(exact) * 2**-8, 2**-134))
    elif kind == "int8":
        for start in range(0, len(values), SCALED):
            unit = max(np.abs(exact[start : start + SCALED]).max() / 127, float(np.finfo(np.float32).tiny))
            assert error[start : start + SCALED].max() <= unit * 1.0001
    elif kind == "eden":
        _assert_eden_kept(int(parameter), exact, decoded.astype(np.float64))
    else:
        _assert_largest_kept(name, exact, decoded)


def _assert_eden_kept(bits: int, exact: NDArray[np.float64], decoded: NDArray[np.float64]) -> None:
    """The scale makes ⟨decoded, x⟩ = ‖x‖² in every block, whatever it held: exactly what unbiasedness needs."""
    for start in range(0, len(exact), BLOCK):
        block, restored = exact[start : start + BLOCK], decoded[start : start + BLOCK]
        peak = np.abs(block).max()
        if peak == 0:
            assert not restored.any()
        elif peak > 1e-34:  # beneath, the scale itself has too few bits
            block, restored = block / peak, restored / peak
            assert np.isclose(restored @ block, block @ block, rtol=1e-4)
            assert np.sum(np.square(restored - block)) <= 2.5 * eden_nmse(bits) * (block @ block)


def _assert_largest_kept(name: str, exact: NDArray[np.float64], decoded: Vector) -> None:
    size = len(exact)
    kept = min(size, int(np.ceil(float(name.partition(":")[2]) * size)))
    largest = np.argsort(-np.abs(exact), kind="stable")[:kept]
    rest = np.ones(size, bool)
    rest[largest] = False
    assert not decoded[rest].any()
    unit = np.abs(exact).max(initial=0)
    allowed = np.maximum(np.abs(exact[largest]) * 2**-10.99, unit * 2**-24.99) + 2.0**-149
    assert np.all(np.abs(decoded[largest] - exact[largest]) <= allowed)
