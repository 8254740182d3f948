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

GRID = 256
"""Steps a standard deviation on which magnitudes are compared: as int16, two values to one of float32. The thresholds'
rounding to it costs less than 1e-5 of the error."""

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
        self._whole = np.empty(count, np.int16)
        self._flags, self._plane = np.empty(count, bool), np.empty(count, bool)
        self._index = np.empty(count // 4, np.intp)

    def pack(self, scaled: Vector, planes: Planes) -> None:
        """Write the planes (bits, n/8) of `scaled`, n values in units of 1/`GRID` standard deviation, within ±32767."""
        whole, flags, plane = (buffer[: scaled.size] for buffer in (self._whole, self._flags, self._plane))
        np.copyto(whole, scaled, casting="unsafe")
        np.less(whole, 0, out=plane)
        planes[0] = np.packbits(plane)
        np.abs(whole, out=whole)
        for number, ranks in enumerate(self._ranks, 1):
            np.greater_equal(whole, ranks[0], out=plane)
            for rank in ranks[1:]:
                np.greater_equal(whole, rank, out=flags)
                np.logical_xor(plane, flags, out=plane)
            planes[number] = np.packbits(plane)

    def levels(self, planes: Planes, out: Vector) -> None:
        """Write the level of each code, in standard deviations, to `out` (n values, as many as the planes hold)."""
        index = self._index[: out.size // 4].reshape(-1, 2)
        np.right_shift(planes[0], 4, out=index[:, 0], casting="unsafe")
        np.bitwise_and(planes[0], 15, out=index[:, 1], casting="unsafe")
        for plane in planes[1:]:
            index <<= 4
            index[:, 0] |= plane >> 4
            index[:, 1] |= plane & 15
        # Every index is within the table; "clip" only spares numpy the second look.
        np.take(level_table(self._bits), index.reshape(-1), out=out.view(np.complex128), mode="clip")


def rank_thresholds(bits: int) -> list[tuple[np.int16, ...]]:
    """Return, for each plane of the magnitude, the thresholds on the grid whose comparisons it is the parity of."""
    grid = [np.int16(round(value * GRID)) for value in thresholds(bits)]
    chosen = []
    for plane in range(1, bits):
        step = 1 << (bits - plane)
        chosen.append(tuple(grid[step // 2 - 1 :: step]))
    return chosen


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
