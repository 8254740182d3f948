"""The randomized Hadamard rotation, by blocks: random signs, then H(X)H with two matrix products a block.

A block of n = 4096 values, as a matrix X of 64×64, is rotated to H X H; H is the orthonormal Hadamard matrix of order
64, so this is the Hadamard transform of order 4096 at the speed of a matrix product. What is left over at a vector's
end is padded with zeros to the next power of two from 64, as a matrix of (n/64)×64. The rotation is its own inverse but
for the signs, and keeps norms.

Signs come from the raw stream of Philox under a 64-bit seed, which numpy keeps stable from version to version (its
*distributions* it does not): a board and its coordinator may run different ones. One pattern of `CHUNK` signs is used
for every chunk of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import CHUNK, Vector

BLOCK = 4096
ROW = 64
"""The order of H, and the least size of a padded block."""


@dataclass(frozen=True)
class Group:
    """Blocks of one length that are worked on together, at most `CHUNK` values.

    Attributes:
        start: the vector's first coordinate in it.
        size: coordinates of the vector in it; the rest of `blocks · length` is padding.
        blocks: how many.
        length: values a block, a power of two from 64 to 4096.
    """

    start: int
    size: int
    blocks: int
    length: int

    @property
    def padded(self) -> int:
        """How many values with the padding."""
        return self.blocks * self.length


def groups(size: int) -> Iterator[Group]:
    """Yield the groups of a vector of `size` coordinates: whole chunks, the blocks left over, the padded tail."""
    whole = size - size % BLOCK
    for start in range(0, whole, CHUNK):
        held = min(CHUNK, whole - start)
        yield Group(start, held, held // BLOCK, BLOCK)
    if whole < size:
        yield Group(whole, size - whole, 1, tail_length(size - whole))


def tail_length(left: int) -> int:
    """Return the block that `left` coordinates (1 to 4096) are padded to: a power of two, 64 or more."""
    return max(ROW, 1 << (left - 1).bit_length())


def block_count(size: int) -> int:
    """Return how many blocks a vector of `size` coordinates has, a padded tail counted."""
    return -(-size // BLOCK)


def padded_size(size: int) -> int:
    """Return how many values the blocks of `size` coordinates hold."""
    left = size % BLOCK
    return size - left + (tail_length(left) if left else 0)


def random_signs(seed: int, count: int, stream: int = 0) -> Vector:
    """Return `count` random ±1 (float32) that follow from a 64-bit seed and the number of a stream."""
    words = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(-(-count // 64))
    bits = np.unpackbits(np.asarray(words, "<u8").view(np.uint8), count=count)
    signs = bits.astype(np.float32)
    signs *= -2
    signs += 1
    return signs


@lru_cache(maxsize=8)
def hadamard_matrix(order: int) -> NDArray[np.float32]:
    """Return the orthonormal Hadamard matrix (order, order); `order` is a power of two."""
    sums = np.ones((1, 1))
    while len(sums) < order:
        sums = np.block([[sums, sums], [sums, -sums]])
    matrix: NDArray[np.float32] = (sums / np.sqrt(order)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


class Rotation:
    """The rotation of one vector, with its signs and two buffers. For one thread at a time.

    Args:
        seed: 64 bits.
        size: coordinates of the vector; no more signs and buffer than these need are made.
    """

    def __init__(self, seed: int, size: int) -> None:
        held = min(padded_size(size), CHUNK)
        self._signs = random_signs(seed, held)
        self._front, self._back = np.empty(held, np.float32), np.empty(held, np.float32)

    def rotate(self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rotated (m, n) blocks in a buffer that the next call overwrites."""
        front = self._front[: blocks.size].reshape(blocks.shape)
        np.multiply(blocks.reshape(-1), self._signs[: blocks.size], out=front.reshape(-1))
        self._transform(front)
        return front

    def restore(self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn rotated (m, n) blocks back, in place, and return them."""
        self._transform(blocks)
        np.multiply(blocks.reshape(-1), self._signs[: blocks.size], out=blocks.reshape(-1))
        return blocks

    def spare(self, count: int) -> Vector:
        """Return `count` values of the second buffer, free to use between two calls."""
        return self._back[:count]

    def _transform(self, blocks: NDArray[np.float32]) -> None:
        count, length = blocks.shape
        shape = (count, length // ROW, ROW)
        matrices, between = blocks.reshape(shape), self._back[: blocks.size].reshape(shape)
        np.matmul(hadamard_matrix(length // ROW), matrices, out=between)
        np.matmul(between, hadamard_matrix(ROW), out=matrices)


def padded_blocks(values: Vector, group: Group) -> NDArray[np.float32]:
    """Return the (m, n) blocks of a group: a view where nothing is padded, else a copy with zeros at its end."""
    held = values[group.start : group.start + group.size]
    if group.size != group.padded:
        held = np.concatenate([held, np.zeros(group.padded - group.size, np.float32)])
    return held.reshape(group.blocks, group.length)


@contextmanager
def whole_rows() -> Iterator[None]:
    """Let numpy work on blocks in place when one number a block meets them.

    Where a row is shorter than numpy's buffer of 8192 it copies operands into that buffer first, which takes three
    times as long as the arithmetic (numpy 2.4).
    """
    before = np.setbufsize(BLOCK // 2)
    try:
        yield
    finally:
        np.setbufsize(before)
