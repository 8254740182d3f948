"""The grid of the ring codec: between a round's blocks of values and whole numbers mod p. See `ring`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import Vector
from argosy_common.codec.hadamard import Group, Rotation, groups, padded_blocks, random_signs
from argosy_common.prg import KeyStream, derive

if TYPE_CHECKING:
    from argosy_common.codec.ring import RingRound

CHECKS = (1, 4, 16, 64)
"""How many times coarser than the block's own the grids of its projections are."""

_NEAR = 0.98
_TOO_LARGE = 2.0
_TOLERANCE = 6.0
"""Standard deviations of its quantisation error by which a projection may be off."""
_ARITHMETIC = 2e-7
"""The error of a projection in float32, over the largest that the grid holds."""
_IRRATIONAL = (1 + 5**0.5) / 4
"""Part of a projection's factor, whose rest is a power of two in most blocks: without it a spike that went round p a
multiple of 2^10 times would change no projection, or hardly."""
_CHECK_STREAM = 1 << 32
_EXACT = 2.0**20
"""Below it a short reduction mod p is exact in float32: a quotient of at most 2^20 / p is off by 2^-23 of itself."""

Reals = NDArray[np.floating[Any]]


def wrapped(grid: Reals, p: int) -> Reals:
    """Return whole numbers mod p, 0 … p−1; the array that is given is overwritten."""
    if max(grid.max(), -grid.min()) >= _EXACT:
        far: Reals = np.mod(grid, p, dtype=np.float64)  # exact, whatever the size, and slow
        return far
    # a half more in each keeps quotients away from whole numbers by 1 / 2p, which is more than rounding moves them
    quotient = grid + grid.dtype.type(0.5)
    quotient *= grid.dtype.type(1 / p)
    np.floor(quotient, out=quotient)
    quotient *= p
    grid -= quotient
    return grid


class Walk:
    """One pass over a round's groups of blocks, with its rotation and grids.

    In float32; in float64 with two digits, whose second would be lost else, and where a value is too far off its grid.
    """

    def __init__(self, p: int, k: int, shared: RingRound) -> None:
        seed = int.from_bytes(derive(shared.seed, "argosy/ring/rotation")[:8], "big")
        self.rotation = Rotation(seed, shared.size)
        self.dtype: type[np.float32] | type[np.float64] = np.float64 if shared.digits == 2 else np.float32
        self._p, self._k = p, k
        self._seed = seed
        self._shared = shared
        self._signs: dict[int, Reals] = {}
        steps = (2 * k / p) * shared.scales.astype(np.float64)
        self._steps = steps
        self._inverse = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps > 0)

    def groups(self) -> Iterator[tuple[Group, slice]]:
        """Yield each group with the place of its codes."""
        done = 0
        for group in groups(self._shared.size):
            count = group.padded + len(CHECKS) * group.blocks
            yield group, slice(done, done + count)
            done += count

    def on_grid(self, values: Vector, group: Group) -> Reals:
        """Return a group's rotated coordinates and their projections in units of their grids. All are finite."""
        rotated = self.rotation.rotate(padded_blocks(values, group))
        inverse = self._inverse[self._numbers(group)][:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            grid = self._scaled(rotated, inverse, self.dtype)
        # every coordinate is part of its projections, so these few tell whether one was too large for float32
        if not np.isfinite(grid[group.padded :]).all():
            grid = self._scaled(rotated, inverse, np.float64)
        return grid

    def _scaled(
        self, rotated: NDArray[np.float32], inverse: NDArray[np.float64], dtype: type[np.float32] | type[np.float64]
    ) -> Reals:
        grid = np.empty(rotated.size + len(CHECKS) * len(rotated), dtype)
        blocks = grid[: rotated.size].reshape(rotated.shape)
        np.multiply(rotated, inverse.astype(dtype), out=blocks)
        grid[rotated.size :] = (self._project(blocks) / np.array(CHECKS, dtype)).reshape(-1)
        return grid

    def real(self, codes: NDArray[np.unsignedinteger[Any]]) -> Reals:
        """Return codes as numbers to compute with."""
        return codes.astype(self.dtype)

    def centre(self, grid: Reals) -> None:
        """Bring numbers to their representatives mod p around zero, in place."""
        turns = grid * self.dtype(1 / self._p)
        np.rint(turns, out=turns)
        turns *= self._p
        grid -= turns

    def off_grid(
        self, grid: Reals, group: Group, some: slice, error: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Return the rotated blocks of a sum, which of them are flagged, and their spreads.

        Args:
            grid: the sum's coordinates and projections, around zero.
            group: whose they are.
            some: its blocks among all.
            error: variance of the sum's quantisation error, in steps.
        """
        p = self._p
        coordinates = grid[: group.padded].reshape(group.blocks, group.length)
        checks = grid[group.padded :].reshape(group.blocks, len(CHECKS))
        near = np.maximum(coordinates.max(axis=1), -coordinates.min(axis=1)) > _NEAR * p / 2
        size = np.sqrt(np.einsum("bi,bi->b", coordinates, coordinates, dtype=self.dtype) / group.length)
        expected = p / (2 * self._k)  # the scale, in steps
        # sent and decoded, both on the projection's own grid, differ by whole turns of p and by their errors
        coarse: Reals = np.array(CHECKS, self.dtype)
        off = checks - self._project(coordinates) / coarse
        off -= p * np.rint(off / p)
        slack = _TOLERANCE * np.sqrt(error * (1 + 1 / np.square(coarse))) + _ARITHMETIC * p
        wrong = (np.abs(off) > slack).any(axis=1)
        steps = self._steps[some]
        blocks = np.empty(coordinates.shape, np.float32)
        np.multiply(coordinates, steps.astype(self.dtype)[:, None], out=blocks, casting="same_kind")
        flags = (near | (size > _TOO_LARGE * expected) | wrong) & (steps > 0)
        return blocks, flags, (size * steps).astype(np.float32)

    def _numbers(self, group: Group) -> slice:
        first = group.start // 4096
        return slice(first, first + group.blocks)

    def _project(self, blocks: Reals) -> Reals:
        """Return four random ±1 projections of each (m, n) block, scaled to about the size of a coordinate: (m, 4)."""
        length = blocks.shape[1]
        if length not in self._signs:
            streams = range(_CHECK_STREAM, _CHECK_STREAM + len(CHECKS))
            signs = np.stack([random_signs(self._seed, length, stream) for stream in streams], 1)
            self._signs[length] = (signs / np.sqrt(length)).astype(self.dtype)
        projected: Reals = blocks @ self._signs[length]
        projected *= projected.dtype.type(_IRRATIONAL)
        return projected


def uniform_of(words: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return random bytes as numbers in 0 … 1, in the middles of 256 steps."""
    values: NDArray[np.float32] = words * np.float32(2**-8)
    values += np.float32(2**-9)
    return values


class Dither:
    """A client's dither: uniform in ±1/2, in steps of 2^-8, from a key that both ends can derive.

    A byte a coordinate is fine enough: whatever the value, the error of rounding takes 256 equally likely places in an
    interval of one step, so that its variance is 1/12 less 2^-16 of that, and its mean at most 2^-9 of a step. The
    dither is public and hides nothing: a code's mask does.
    """

    def __init__(self, shared: RingRound, client: int) -> None:
        self._stream = KeyStream(shared.suite, derive(shared.seed, "argosy/ring/dither", client))

    def draw(self, count: int) -> NDArray[np.float32]:
        """Return the next `count` values."""
        return uniform_of(self._stream.draw(count)) - np.float32(0.5)

    @staticmethod
    def total(dithers: Sequence[Dither], count: int) -> NDArray[np.float32]:
        """Return the sum of the next `count` values of several; their bytes are added as whole numbers."""
        summed = np.zeros(count, np.uint16 if len(dithers) <= 256 else np.uint32)
        for each in dithers:
            np.add(summed, each._stream.draw(count), out=summed)
        n = len(dithers)
        return (summed.astype(np.float32) + np.float32(0.5 * n)) * np.float32(2**-8) - np.float32(0.5 * n)
