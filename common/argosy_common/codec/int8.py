"""`int8`: whole numbers from −127 to 127 in units of a scale for each 256 values, rounded stochastically.

As in QSGD (D. Alistarh et al., NeurIPS 2017) with the largest magnitude as the norm. Payload, little-endian: the
float32 scale of each block, then a byte a value; 8.125 bits a value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import CHUNK, Codec, Vector
from argosy_common.codec.hadamard import whole_rows
from argosy_common.codec.vector import LARGEST, chunks, require_finite, require_length

SCALED = 256
"""Values that share a scale."""

_LEVELS = 127
_LEAST_SCALE = np.finfo(np.float32).tiny  # beneath it a scale has too few bits of its own
_LARGEST_SCALE = 2 * LARGEST / _LEVELS


class Int8(Codec):
    """Eight bits by blocks. Unbiased; error: less than one unit, 1/127 of the block's largest magnitude, a value."""

    kind = "int8"

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:
        """Return the payload; see `Codec.encode`.

        Raises:
            ValueError: NaN, infinity, or a magnitude above 1e30.
        """
        require_finite(values, LARGEST)
        size = len(values)
        scales, codes = np.empty(-(-size // SCALED), "<f4"), np.empty(size, np.int8)
        noise, work = (np.empty(min(size + SCALED, CHUNK), np.float32) for _ in range(2))
        for part in chunks(size):
            blocks = _blocks(values[part], work)
            scale = np.maximum(np.abs(blocks).max(axis=1) / _LEVELS, _LEAST_SCALE)
            rng.random(dtype=np.float32, out=noise[: blocks.size])
            with whole_rows():
                blocks /= scale[:, None]
            blocks += noise[: blocks.size].reshape(blocks.shape)
            np.floor(blocks, out=blocks)
            np.clip(blocks, -_LEVELS, _LEVELS, out=blocks)
            scales[part.start // SCALED :][: len(scale)] = scale
            codes[part] = blocks.reshape(-1)[: part.stop - part.start]
        return scales.tobytes() + codes.tobytes()

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Yield the values; see `Codec.decode`. A chunk is a buffer that the next step overwrites."""
        count = -(-size // SCALED)
        require_length(payload, 4 * count + size, size)
        scales = np.frombuffer(payload, "<f4", count)
        if not np.all((scales >= 0) & (scales <= _LARGEST_SCALE)):
            raise ValueError("a block's scale is negative, not finite or too large")
        codes = np.frombuffer(payload, np.int8, offset=4 * count)
        work = np.empty(min(size + SCALED, CHUNK), np.float32)
        for part in chunks(size):
            blocks = _blocks(codes[part], work)
            with whole_rows():
                blocks *= scales[part.start // SCALED :][: len(blocks), None]
            yield blocks.reshape(-1)[: part.stop - part.start]


def _blocks(chunk: NDArray[np.float32] | NDArray[np.int8], work: Vector) -> NDArray[np.float32]:
    """Return a copy of a chunk as (m, 256) in `work`, zeros at its end."""
    padded = work[: -(-len(chunk) // SCALED) * SCALED]
    padded[: len(chunk)] = chunk
    padded[len(chunk) :] = 0
    return padded.reshape(-1, SCALED)
