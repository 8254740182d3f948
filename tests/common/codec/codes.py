"""What the tests of codecs share: the names, sizes at every edge, and short ways to encode and decode."""

from __future__ import annotations

import numpy as np

from argosy_common.codec.base import CHUNK, Codec, Vector

NAMES = ("none", "fp16", "bf16", "int8", "eden:1", "eden:2", "eden:3", "eden:4", "topk:0.001", "topk:0.01", "topk:0.3")
EDGES = (0, 1, 2, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 4097)


def rng(seed: int = 1) -> np.random.Generator:
    """Return a generator that gives the same each time."""
    return np.random.default_rng(seed)


def normal(size: int, seed: int = 7) -> Vector:
    """Return `size` normal values."""
    return rng(seed).standard_normal(size, dtype=np.float32)


def read(codec: Codec, payload: bytes, size: int) -> Vector:
    """Return all that a payload decodes to; each chunk is copied before the next, as a chunk may be a buffer."""
    parts = []
    for chunk in codec.decode(memoryview(payload), size):
        assert chunk.dtype == np.float32
        assert 0 < len(chunk) <= CHUNK or size == 0
        parts.append(chunk.copy())
    return np.concatenate([*parts, np.empty(0, np.float32)])


def there_and_back(codec: Codec, values: Vector, seed: int = 1) -> Vector:
    """Return what `values` come to after a codec."""
    return read(codec, codec.encode(values, rng(seed)), len(values))


def nmse(found: Vector, values: Vector) -> float:
    """Return the squared error over the squared length."""
    return float(np.sum(np.square(found.astype(np.float64) - values)) / np.sum(np.square(values.astype(np.float64))))


def seeded(number: int) -> bytes:
    """Return the public seed of a ring round."""
    return number.to_bytes(32, "big")


def noise(client: int) -> bytes:
    """Return a client's own key for rounding."""
    return b"noise" + client.to_bytes(27, "big")
