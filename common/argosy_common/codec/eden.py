"""`eden:1` … `eden:4`: a random rotation, the best quantiser of the normal law, an unbiased scale a block.

S. Vargaftik et al., EDEN: Communication-Efficient and Robust Distributed Mean Estimation, ICML 2022. After the rotation
R the values of a block are close to normal, whatever they were before; each is coded by its Lloyd–Max level, and the
block x is restored as S·R⁻¹Q with S = ‖x‖²/⟨Rx, Q⟩, which is unbiased over uniform rotations. Every sender draws its
own rotation: under a shared one the errors of several senders would not average out.

The rotation is a Hadamard transform with random signs, not a uniform one. For updates whose energy lies in more than a
handful of coordinates of a block the difference cannot be measured. Where it lies in two or three, the smaller of them
are coded with a bias: some of theirs goes to the largest.

Payload, all little-endian, for m blocks of n_i values (`hadamard.groups`):

    8 bytes            the seed of the signs
    4·m bytes          S of each block, in float32
    Σ n_i·bits/8       the bit planes, group by group (`packing`)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import CHUNK, Codec, Vector
from argosy_common.codec.hadamard import Group, Rotation, block_count, groups, padded_blocks, padded_size, whole_rows
from argosy_common.codec.packing import Packer, packed_size
from argosy_common.codec.vector import LARGEST, refuse_large, require_length, require_vector

SEED_SIZE, SCALE_SIZE = 8, 4
LARGEST_SCALE = 1e33
"""Refused beyond: `LARGEST` values make a scale up to 3e31, and 64 · 2.7 · 1e33 is still finite."""

_SMALL, _GREAT = 1e-20, 1e37
"""Sums of squares in float32 are exact enough between the two."""


class Eden(Codec):
    """EDEN with 1 to 4 bits a coordinate. Its normalised squared error is D/(1−D) (`lloyd_max.eden_nmse`)."""

    kind = "eden"
    form = "eden:<bits, 1 to 4>"

    def __init__(self, bits: int) -> None:
        """Code with `bits` bits, 1 to 4."""
        self.bits = bits

    @property
    def name(self) -> str:
        """`eden:` and the bits."""
        return f"eden:{self.bits}"

    @classmethod
    def parse(cls, parameter: str | None) -> Self:
        """Return the codec for "1" to "4".

        Raises:
            ValueError: anything else.
        """
        if parameter not in {"1", "2", "3", "4"}:
            raise ValueError("it takes 1, 2, 3 or 4 bits a coordinate, as in eden:2")
        return cls(int(parameter))

    def payload_size(self, size: int) -> int:
        """Return the bytes of a payload for `size` coordinates."""
        return SEED_SIZE + SCALE_SIZE * block_count(size) + packed_size(padded_size(size), self.bits)

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:
        """Return the payload; see `Codec.encode`. A block's zeros stay zeros.

        Raises:
            ValueError: NaN, infinity, or a magnitude above 1e30.
        """
        require_vector(values)
        size = len(values)
        payload = bytearray(self.payload_size(size))
        payload[:SEED_SIZE] = seed = rng.bytes(SEED_SIZE)
        scales, codes = _parts(memoryview(payload), size)
        rotation = Rotation(int.from_bytes(seed, "little"), size)
        packer = Packer(self.bits, min(padded_size(size), CHUNK))
        done = 0
        with whole_rows():
            for number, group in _numbered(size):
                end = done + packed_size(group.padded, self.bits)
                planes = codes[done:end].reshape(self.bits, -1)
                scales[number : number + group.blocks] = _encode_group(values, group, rotation, packer, planes)
                done = end
        return bytes(payload)

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:
        """Yield the values; see `Codec.decode`. A chunk is a buffer that the next step overwrites."""
        require_length(payload, self.payload_size(size), size)
        scales, codes = _parts(payload, size)
        if not np.all((scales >= 0) & (scales <= LARGEST_SCALE)):
            raise ValueError("a block's scale is negative, not finite or too large")
        rotation = Rotation(int.from_bytes(payload[:SEED_SIZE], "little"), size)
        return self._decode_groups(size, scales, codes, rotation)

    def _decode_groups(
        self, size: int, scales: NDArray[np.float32], codes: NDArray[np.uint8], rotation: Rotation
    ) -> Iterator[Vector]:
        packer = Packer(self.bits, min(padded_size(size), CHUNK))
        buffer = np.empty(min(padded_size(size), CHUNK), np.float32)
        done = 0
        for number, group in _numbered(size):
            end = done + packed_size(group.padded, self.bits)
            values = buffer[: group.padded]
            blocks = values.reshape(group.blocks, group.length)
            packer.levels(codes[done:end].reshape(self.bits, -1), values)
            with whole_rows():
                blocks *= scales[number : number + group.blocks, None]
            yield rotation.restore(blocks).reshape(-1)[: group.size]
            done = end


def _parts(payload: memoryview, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the scales and the codes of a payload of the right length, as views of it."""
    count = block_count(size)
    scales = np.frombuffer(payload, "<f4", count, SEED_SIZE)
    return scales, np.frombuffer(payload, np.uint8, offset=SEED_SIZE + SCALE_SIZE * count)


def _numbered(size: int) -> Iterator[tuple[int, Group]]:
    """Yield each group with the number of its first block."""
    number = 0
    for group in groups(size):
        yield number, group
        number += group.blocks


def _encode_group(
    values: Vector, group: Group, rotation: Rotation, packer: Packer, planes: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Write the planes of a group; return the scale of each of its blocks."""
    blocks, squares, exponents = _ordinary(padded_blocks(values, group))
    lengths = np.sqrt(squares)
    # To units of a standard deviation; a block of zeros stays one.
    factors = np.divide(np.sqrt(group.length), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    rotated = rotation.rotate(blocks)
    rotated *= factors[:, None]
    packer.pack(rotated.reshape(-1), planes)
    # A value and its level have the same sign, so their magnitudes' product is theirs.
    levels = rotation.spare(group.padded)
    packer.magnitudes(planes, levels)
    agreement = _products(rotated, levels.reshape(rotated.shape))
    scales: NDArray[np.float32] = np.divide(
        squares * factors, agreement, out=np.zeros_like(squares), where=agreement > 0
    )
    return scales if exponents is None else np.ldexp(scales, exponents)


def _ordinary(
    blocks: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32] | None]:
    """Return the blocks such that their squares neither overflow nor vanish, the sum of these squares a block, and the
    powers of two that were taken out, if any.

    Raises:
        ValueError: NaN, infinity or a magnitude above `LARGEST`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = _products(blocks, blocks)
    if np.all((squares > _SMALL) & (squares < _GREAT)):
        return blocks, squares, None
    peaks = np.abs(blocks).max(axis=1)
    refuse_large(peaks.max(), LARGEST)
    exponents = np.frexp(peaks)[1]
    blocks = np.ldexp(blocks, -exponents[:, None])
    return blocks, _products(blocks, blocks), exponents


def _products(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the inner product of each pair of rows, (m, n) and (m, n) to (m,)."""
    products: NDArray[np.float32] = np.matmul(left[:, None, :], right[:, :, None])[:, 0, 0]
    return products
