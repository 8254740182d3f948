"""`none`: the values as they are, 32-bit little-endian floats. The baseline, and the only one that loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from argosy_common.codec.base import Codec, Vector
from argosy_common.codec.vector import chunks, require_finite, require_length


class Fp32(Codec):
    """No compression. Error: none."""

    kind = "none"

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:  # noqa: ARG002  # nothing here is random
        """Return 4 bytes a value; see `Codec.encode`."""
        require_finite(values)
        return values.astype("<f4", copy=False).tobytes()

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Yield the values; see `Codec.decode`. On a little-endian machine a chunk is a read-only view."""
        require_length(payload, 4 * size, size)
        values = np.frombuffer(payload, "<f4")
        for part in chunks(size):
            if not np.isfinite(values[part]).all():
                raise ValueError("a value is not finite")
        for part in chunks(size):
            yield values[part].astype(np.float32, copy=False)
