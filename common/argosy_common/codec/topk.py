"""`topk:<fraction>`: the largest magnitudes only; what is left out goes into the sender's next update.

S. U. Stich et al., Sparsified SGD with Memory, NeurIPS 2018. Exactly k = ⌈fraction·d⌉ coordinates are sent, so that a
payload's length follows from d. Their values are 16-bit floats in units of the largest. Their places are coded by how
dense they are:

- *bits*, from 1/8: one bit a coordinate;
- *near*, from 1/128: how many there are in each 256 coordinates, 2 bytes, then each one's offset there, a byte;
- *far*, below: the same with 65536 coordinates, 4 bytes and 2 bytes.

Payload, little-endian: the float32 unit, k values, places. About 0.30 bits a coordinate at 0.01, 0.03 at 0.001.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import CHUNK, Codec, Vector
from argosy_common.codec.vector import LARGEST, chunks, require_finite, require_length

Places = NDArray[np.int64]

_BITS_FROM, _NEAR_FROM = 1 / 8, 1 / 128
_SAMPLE = 1 << 15
_LARGEST_UNIT = 2 * LARGEST


@dataclass(frozen=True)
class Buckets:
    """Coordinates that share a count: `width` of them, counted in `count` and offset in `offset`, numpy's names."""

    width: int
    count: str
    offset: str

    def counts_size(self, size: int) -> int:
        """Return the bytes of the counts of `size` coordinates."""
        return -(-size // self.width) * np.dtype(self.count).itemsize


NEAR, FAR = Buckets(1 << 8, "<u2", "u1"), Buckets(1 << 16, "<u4", "<u2")


class TopK(Codec):
    """The largest magnitudes. Biased towards zero: needs the sender's memory of what was left out (`feedback`)."""

    kind = "topk"
    form = "topk:<fraction between 0 and 1>"
    feedback = True
    sparse = True

    def __init__(self, fraction: float) -> None:
        """Keep `fraction` of the coordinates, 0 < fraction < 1, and always at least one."""
        self.fraction = fraction
        self.buckets = None if fraction >= _BITS_FROM else NEAR if fraction >= _NEAR_FROM else FAR

    @property
    def name(self) -> str:
        """`topk:` and the fraction, as short as it can be written."""
        return f"topk:{self.fraction!r}"

    @classmethod
    def parse(cls, parameter: str | None) -> Self:
        """Return the codec for a fraction such as "0.01".

        Raises:
            ValueError: it is no number between 0 and 1, both excluded.
        """
        try:
            fraction = float(parameter or "")
        except ValueError:
            fraction = math.nan
        if not 0 < fraction < 1:
            raise ValueError("it takes the fraction that is sent, between 0 and 1, as in topk:0.01")
        return cls(fraction)

    def kept(self, size: int) -> int:
        """Return k, how many of `size` coordinates are sent."""
        return min(size, math.ceil(self.fraction * size))

    def payload_size(self, size: int) -> int:
        """Return the bytes of a payload for `size` coordinates."""
        if self.buckets is None:
            places = -(-size // 8)
        else:
            places = self.buckets.counts_size(size) + self.kept(size) * np.dtype(self.buckets.offset).itemsize
        return 4 + 2 * self.kept(size) + places

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:
        """Return the payload; see `Codec.encode`. Among equal magnitudes the first ones are sent.

        Raises:
            ValueError: NaN, infinity, or a magnitude above 1e30.
        """
        require_finite(values, LARGEST)
        places = largest(values, self.kept(len(values)), rng)
        kept = values[places]
        unit = np.float32(np.abs(kept).max(initial=0))
        halves = np.divide(kept, unit, out=np.zeros_like(kept), where=unit > 0).astype("<f2")
        return np.asarray(unit, "<f4").tobytes() + halves.tobytes() + self._coded_places(places, len(values))

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Yield the values; see `Codec.decode`. A chunk is a buffer that the next step overwrites."""
        require_length(payload, self.payload_size(size), size)
        kept = self.kept(size)
        unit = np.frombuffer(payload, "<f4", 1)[0]
        halves = np.frombuffer(payload, "<f2", kept, 4)
        if not 0 <= unit <= _LARGEST_UNIT or not np.isfinite(halves).all():
            raise ValueError("a value is not finite or too large")
        places = self._read_places(payload[4 + 2 * kept :], size, kept)
        starts = np.searchsorted(places, [*range(0, size, CHUNK), size])
        buffer = np.empty(min(size, CHUNK), np.float32)
        for number, part in enumerate(chunks(size)):
            chunk = buffer[: part.stop - part.start]
            chunk.fill(0)
            held = slice(starts[number], starts[number + 1])
            chunk[places[held] - part.start] = halves[held].astype(np.float32) * unit
            yield chunk

    def _coded_places(self, places: Places, size: int) -> bytes:
        if self.buckets is None:
            flags = np.zeros(size, bool)
            flags[places] = True
            return np.packbits(flags).tobytes()
        width = self.buckets.width
        counts = np.bincount(places // width, minlength=-(-size // width))
        return counts.astype(self.buckets.count).tobytes() + (places % width).astype(self.buckets.offset).tobytes()

    def _read_places(self, coded: memoryview, size: int, kept: int) -> Places:
        """Return the places, rising.

        Raises:
            ValueError: there are not exactly `kept`, or not rising, or not all within `size`.
        """
        if self.buckets is None:
            flags = np.unpackbits(np.frombuffer(coded, np.uint8))
            places = np.flatnonzero(flags)
        else:
            split = self.buckets.counts_size(size)
            counts = np.frombuffer(coded[:split], self.buckets.count).astype(np.int64)
            if counts.sum() != kept:
                raise ValueError(f"it does not place exactly {kept} values")
            places = np.repeat(np.arange(len(counts)), counts) * self.buckets.width
            places += np.frombuffer(coded[split:], self.buckets.offset)
        if len(places) != kept or (kept and places[-1] >= size) or np.any(np.diff(places) <= 0):
            raise ValueError(f"it does not place exactly {kept} of {size} values in rising order")
        return places


def largest(values: Vector, kept: int, rng: np.random.Generator) -> Places:
    """Return the places of the `kept` largest magnitudes, rising.

    A threshold taken from a sample leaves little more than `kept` candidates, and those are looked at exactly. Where
    the sample misled, as with many equal values, the exact threshold of the whole vector is taken.
    """
    size = len(values)
    if kept == 0:
        return np.empty(0, np.int64)
    if size > 4 * _SAMPLE:
        sample = np.abs(values[rng.integers(0, size, _SAMPLE)])
        expected = _SAMPLE * kept / size
        wanted = int(expected + 4 * math.sqrt(expected) + 4)  # four standard deviations: seldom too few
        if wanted < _SAMPLE:
            threshold = np.partition(sample, _SAMPLE - wanted)[_SAMPLE - wanted]
            candidates = _at_least(values, threshold, 4 * kept + 4096)
            if candidates is not None and len(candidates) >= kept:
                return candidates[_largest_of(np.abs(values[candidates]), kept)]
    return _largest_of(np.abs(values), kept)


def _at_least(values: Vector, threshold: np.float32, most: int) -> Places | None:
    """Return the places of magnitudes from `threshold`, or None as soon as there are more than `most`."""
    found: list[Places] = []
    total = 0
    for part in chunks(len(values)):
        flags = np.abs(values[part]) >= threshold
        total += int(np.count_nonzero(flags))
        if total > most:
            return None
        found.append(np.flatnonzero(flags) + part.start)
    return np.concatenate(found)


def _largest_of(magnitudes: Vector, kept: int) -> Places:
    """Return the places of the `kept` largest, rising; of those equal to the least of them the first."""
    least = np.partition(magnitudes, len(magnitudes) - kept)[len(magnitudes) - kept]
    above = np.flatnonzero(magnitudes > least)
    equal = np.flatnonzero(magnitudes == least)[: kept - len(above)]
    return np.sort(np.concatenate([above, equal]))
