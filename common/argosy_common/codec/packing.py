"""Codes of 1 to 4 bits as bit planes, and back to levels by table.

A code is a sign and the Gray code of a magnitude's rank among the levels, so that every plane is an exclusive or of a
few comparisons: plane 0 holds the signs (1 is negative), plane p ≥ 1 bit b−1−p of the Gray code. A plane is a bit a
coordinate, the first coordinate in the highest bit of a byte. Reading takes the same four coordinates' bits of all
planes together as an index into a table of four levels.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import Vector
from argosy_common.codec.lloyd_max import LEVELS, thresholds

Planes = NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """Return the bytes of `count` codes, a multiple of 8, of `bits` bits."""
    return count // 8 * bits


class Packer:
    """Packs and unpacks codes of one width, with its own buffers. For one thread at a time.

    Args:
        bits: 1 to 4.
        count: the most values that are handed to it at once, a multiple of 8.
    """

    def __init__(self, bits: int, count: int) -> None:
        self._bits = bits
        self._ranks = rank_thresholds(bits)
        self._flags, self._plane = np.empty(count, bool), np.empty(count, bool)
        # half bytes of all planes side by side, in as few bytes as hold them: a wider type costs more than it saves
        narrow = np.uint8 if bits <= 2 else np.uint16
        self._halves = np.empty((count // 8, 2), narrow)
        self._half = np.empty(count // 8, narrow)
        self._index = np.empty(count // 4, np.intp)

    def pack(self, values: Vector, planes: Planes) -> None:
        """Write the planes (bits, n/8) of `values`, n of them in standard deviations; leaves their magnitudes there."""
        flags, plane = self._flags[: values.size], self._plane[: values.size]
        np.less(values, 0, out=plane)
        planes[0] = np.packbits(plane)
        np.abs(values, out=values)
        for number, ranks in enumerate(self._ranks, 1):
            np.greater_equal(values, ranks[0], out=plane)
            for rank in ranks[1:]:
                np.greater_equal(values, rank, out=flags)
                np.logical_xor(plane, flags, out=plane)
            planes[number] = np.packbits(plane)

    def levels(self, planes: Planes, out: Vector) -> None:
        """Write the level of each code, in standard deviations, to `out` (n values, as many as the planes hold)."""
        self._look_up(planes, level_table(self._bits), out)

    def magnitudes(self, planes: Planes, out: Vector) -> None:
        """Write the magnitude of each code's level to `out`: the signs need not be looked at."""
        if self._bits == 1:
            out.fill(LEVELS[1][0])
        else:
            self._look_up(planes[1:], magnitude_table(self._bits), out)

    def _look_up(self, planes: Planes, table: NDArray[np.complex128], out: Vector) -> None:
        halves, half = self._halves[: out.size // 8], self._half[: out.size // 8]
        for place, half_of in ((0, _high), (1, _low)):
            half[...] = half_of(planes[0])
            for plane in planes[1:]:
                np.left_shift(half, 4, out=half)
                np.bitwise_or(half, half_of(plane), out=half)
            halves[:, place] = half
        index = self._index[: out.size // 4]
        index[...] = halves.reshape(-1)
        # Every index is within the table; "clip" only spares numpy the second look.
        np.take(table, index, out=out.view(np.complex128), mode="clip")


def _high(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return plane >> np.uint8(4)


def _low(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return plane & np.uint8(15)


def rank_thresholds(bits: int) -> list[tuple[np.float32, ...]]:
    """Return, for each plane of the magnitude, the thresholds whose comparisons it is the parity of."""
    rising = [np.float32(value) for value in thresholds(bits)]
    chosen = []
    for plane in range(1, bits):
        step = 1 << (bits - plane)
        chosen.append(tuple(rising[step // 2 - 1 :: step]))
    return chosen


@lru_cache(maxsize=4)
def magnitude_table(bits: int) -> NDArray[np.complex128]:
    """Return the table from the 4·(bits−1) bits of four coordinates' magnitudes to these: `level_table`, no signs."""
    return level_table(bits)[: 16 ** (bits - 1)]


@lru_cache(maxsize=4)
def level_table(bits: int) -> NDArray[np.complex128]:
    """Return the table from the 4·bits bits of four coordinates to their four levels, 16 bytes an entry.

    The index has the four signs as its highest bits, then the four bits of each plane. An entry is read as a complex
    number only because numpy has no four floats.
    """
    of_code = np.zeros(1 << bits, np.float32)
    for negative, (rank, level) in product((0, 1), enumerate(LEVELS[bits])):
        of_code[negative << (bits - 1) | rank ^ (rank >> 1)] = -level if negative else level
    index = np.arange(16**bits)
    table = np.empty((len(index), 4), np.float32)
    for place in range(4):
        code = np.zeros(len(index), np.intp)
        for plane in range(bits):
            code = code << 1 | index >> (4 * (bits - 1 - plane) + 3 - place) & 1
        table[:, place] = of_code[code]
    whole: NDArray[np.complex128] = table.view(np.complex128)[:, 0]
    whole.flags.writeable = False
    return whole
