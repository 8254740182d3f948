"""`bf16`: each value rounded to the upper half of its 32-bit float, little-endian: 8 significant bits, full range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from argosy_common.codec.base import Codec, Vector
from argosy_common.codec.vector import chunks, require_finite, require_length

LARGEST_BF16 = 3.3895313892515355e38
_EXPONENT = np.uint16(0x7F80)  # all ones in NaN and infinity only


class Bf16(Codec):
    """Brain floating point. Error: at most 2^-8 of a value; ties go to even, so no drift."""

    kind = "bf16"

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:  # noqa: ARG002  # nothing here is random
        """Return 2 bytes a value; see `Codec.encode`.

        Raises:
            ValueError: NaN, infinity, or a magnitude above 3.39e38, which would round to infinity.
        """
        require_finite(values, LARGEST_BF16)
        rounded = np.empty(len(values), "<u2")
        for part in chunks(len(values)):
            bits = values[part].view(np.uint32)
            # Half a unit less one, and one more where the kept part is odd: to nearest, ties to even.
            rounded[part] = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
        return rounded.tobytes()

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Yield the values; see `Codec.decode`."""
        require_length(payload, 2 * size, size)
        halves = np.frombuffer(payload, "<u2")
        for part in chunks(size):
            if np.any(halves[part] & _EXPONENT == _EXPONENT):
                raise ValueError("a value is not finite")
        for part in chunks(size):
            yield (halves[part].astype(np.uint32) << 16).view(np.float32)
