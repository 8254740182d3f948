"""`fp16`: each value rounded to the nearest 16-bit IEEE float, little-endian. Eleven significant bits, up to 65504."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from argosy_common.codec.base import Codec, Vector
from argosy_common.codec.vector import chunks, require_finite, require_length

LARGEST_FP16 = 65504.0


class Fp16(Codec):
    """Half precision. Error: at most 2^-11 of a value, or 3e-8 where that is more; ties go to even, so no drift."""

    kind = "fp16"

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:  # noqa: ARG002  # nothing here is random
        """Return 2 bytes a value; see `Codec.encode`.

        Raises:
            ValueError: NaN, infinity, or a magnitude above 65504.
        """
        require_finite(values, LARGEST_FP16)
        return values.astype("<f2").tobytes()

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Yield the values; see `Codec.decode`."""
        require_length(payload, 2 * size, size)
        halves = np.frombuffer(payload, "<f2")
        for part in chunks(size):
            if not np.isfinite(halves[part]).all():
                raise ValueError("a value is not finite")
        for part in chunks(size):
            yield halves[part].astype(np.float32)
