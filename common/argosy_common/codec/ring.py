"""`ring:<p>`: linear codes in the integers mod p, the only ones whose *sum* decodes (specs/codecs.md, "Ring codec").

All clients of a round share a rotation and, for each block, a scale; the code of a value is its place on a grid, taken
mod p, after a dither that the receiver knows and takes off again. Codes are added mod p, by whoever adds them and under
whatever mask, and the sum decodes to the sum of the updates, as long as no coordinate of the *sum* leaves ±p/2.

Symbols as in the specification: p the modulus, n the clients, k how many times its spread a coordinate of the sum may
be; the step of a block's grid is 2k·scale/p. The error of the mean is about n·(2k·scale/spread)²/(12·p²) of its square.

Each block carries four further coordinates, random ±1 projections of it on grids 1, 4, 16 and 64 times as coarse. A
block is *flagged*, and counts as zero in the sum, where a coordinate comes near ±p/2, where its size is more than twice
what was expected, or where a projection of what was decoded is not the one that was sent. Flags err towards flagging.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import Codec, Vector
from argosy_common.codec.hadamard import Group, Rotation, block_count, groups, padded_blocks, padded_size, random_signs
from argosy_common.codec.vector import LARGEST, require_finite

LARGEST_P = 65521
"""The largest prime below 2^16."""
LEAST_P = 127
CHECKS = (1, 4, 16, 64)
"""How many times coarser than the block's own the grids of its projections are."""
MARGIN = 1.4
"""A block's next scale over the spread that its sum had."""
FLOOR = 1e-3
"""The least scale of a block over the spread of the whole sum, so that a block at rest can move again."""

_NEAR = 0.98
_TOO_LARGE = 2.0
_TOLERANCE = 6.0
"""Standard deviations of its quantisation error by which a projection may be off."""
_DITHER_STREAM = 1
_CHECK_STREAM = 1 << 32

Codes = NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16, see `Ring.dtype`."""


@dataclass(frozen=True)
class RingRound:
    """What all ends of a round share.

    Attributes:
        seed: 64 bits, public: of the rotation, the dithers and the projections.
        size: d, coordinates of an update.
        clients: n, at most 4096.
        scales: shape (blocks,), float32, ≥ 0: the spread (root mean square) that a coordinate of the *sum* may have.
    """

    seed: int
    size: int
    clients: int
    scales: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: scales of another shape, or not finite, negative or absurd; no clients, or too many.
        """
        if not 1 <= self.clients <= 4096:
            raise ValueError(f"a round has 1 to 4096 clients, not {self.clients}")
        if self.scales.shape != (block_count(self.size),):
            raise ValueError(f"{self.size} values have {block_count(self.size)} blocks, not {self.scales.shape}")
        if not np.all((self.scales >= 0) & (self.scales <= LARGEST)):
            raise ValueError("a block's scale is negative, not finite or too large")

    @classmethod
    def first(cls, seed: int, size: int, clients: int, bound: float) -> Self:
        """Return a run's first round, in which no update's coordinates have a root mean square above `bound`."""
        return cls(seed, size, clients, np.full(block_count(size), bound * clients, np.float32))


@dataclass(frozen=True)
class RingSum:
    """What a sum of codes decodes to.

    Attributes:
        mean: shape (d,), float32: the sum of the updates over how many there are; zero in blocks that are flagged.
        flagged: shape (blocks,), bool.
        spreads: shape (blocks,), float32: root mean square of the sum's coordinates, flagged blocks as they looked.
    """

    mean: Vector
    flagged: NDArray[np.bool_]
    spreads: NDArray[np.float32]
    members: int
    """How many updates the sum is of."""


class Ring(Codec):
    """The ring codec mod p. `encode` and `decode` of a single update have no meaning here, and refuse."""

    kind = "ring"
    form = "ring:<prime, such as 65521 or 251>"
    linear = True

    def __init__(self, p: int) -> None:
        """Code mod `p`, a prime from 127 to 65521."""
        self.p = p
        self.k = 8 if p > 4096 else 5

    @property
    def name(self) -> str:
        """`ring:` and p."""
        return f"ring:{self.p}"

    @classmethod
    def parse(cls, parameter: str | None) -> Self:
        """Return the codec for a prime.

        Raises:
            ValueError: anything else.
        """
        short = parameter is not None and len(parameter) <= 5 and parameter.isascii() and parameter.isdecimal()
        p = int(parameter) if parameter is not None and short else 0
        if str(p) != parameter or not LEAST_P <= p <= LARGEST_P or not _is_prime(p):
            raise ValueError(f"it takes a prime from {LEAST_P} to {LARGEST_P}, as in ring:65521")
        return cls(p)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Of codes: one byte where p allows, else two."""
        return np.uint8 if self.p <= 256 else np.uint16

    def code_count(self, size: int) -> int:
        """Return how many codes `size` values make: the padded blocks, and four projections each."""
        return padded_size(size) + len(CHECKS) * block_count(size)

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:  # noqa: ARG002  (as `Codec`)
        """Refuse: a code needs the round's shared state; see `encode_shared`."""
        raise ValueError("its codes need the state that the clients of a round share")

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:  # noqa: ARG002  (as `Codec`)
        """Refuse: only a sum decodes; see `decode_sum`."""
        raise ValueError("only the sum of a round's codes can be decoded")

    def encode_shared(self, values: Vector, shared: RingRound, client: int) -> Codes:
        """Return the codes of one client's update.

        Args:
            values: shape (d,), float32, C-contiguous.
            shared: the round.
            client: i, 0 … n−1: whose dither to take.

        Returns:
            Shape (code_count(d),), values 0 … p−1: for each group of blocks its coordinates, then its projections.

        Raises:
            ValueError: NaN or infinity, another number of values than the round's, or no such client.
        """
        require_finite(values, LARGEST)
        if len(values) != shared.size or not 0 <= client < shared.clients:
            raise ValueError(f"the round is of {shared.size} values and {shared.clients} clients")
        codes = np.empty(self.code_count(shared.size), self.dtype)
        walk = _Walk(self, shared)
        dither = _Dither(shared.seed, client)
        for group, place in walk.groups():
            rotated = walk.rotation.rotate(padded_blocks(values, group))
            grid = walk.on_grid(rotated, group)
            grid += dither.draw(len(grid))
            np.rint(grid, out=grid)
            codes[place] = np.mod(grid, self.p, out=grid)
        return codes

    def add(self, codes: Sequence[Codes]) -> Codes:
        """Return the sum of codes mod p."""
        total = np.zeros(len(codes[0]), np.uint64)
        for each in codes:
            total += each
        summed: Codes = np.mod(total, self.p).astype(self.dtype)
        return summed

    def decode_sum(self, total: Codes, shared: RingRound, members: Sequence[int] | None = None) -> RingSum:
        """Decode the sum mod p of the codes of some clients.

        Args:
            total: shape (code_count(d),), values 0 … p−1.
            shared: the round.
            members: whose codes were added, each 0 … n−1, since their dithers come off again; None: all n.

        Raises:
            ValueError: not as many codes as the round's size makes, one that is not below p, or no such members.
        """
        members = range(shared.clients) if members is None else members
        if not members or len(set(members)) != len(members) or not set(members) <= set(range(shared.clients)):
            raise ValueError(f"a sum is of 1 to {shared.clients} different clients of the round")
        if total.shape != (self.code_count(shared.size),) or total.dtype != self.dtype:
            raise ValueError(f"{shared.size} values make {self.code_count(shared.size)} codes of {self.dtype.__name__}")
        if total.size and int(total.max()) >= self.p:
            raise ValueError(f"a code is not below {self.p}")
        mean = np.empty(shared.size, np.float32)
        flagged = np.zeros(len(shared.scales), np.bool_)
        spreads = np.zeros(len(shared.scales), np.float32)
        walk = _Walk(self, shared)
        dithers = [_Dither(shared.seed, client) for client in members]
        number = 0
        for group, place in walk.groups():
            some = slice(number, number + group.blocks)
            number += group.blocks
            grid = total[place].astype(np.float64)
            for dither in dithers:
                grid -= dither.draw(len(grid))
            blocks, flagged[some], spreads[some] = walk.off_grid(grid, group, some, len(members))
            blocks[flagged[some]] = 0
            blocks /= np.float32(len(members))
            restored = walk.rotation.restore(blocks).reshape(-1)
            mean[group.start : group.start + group.size] = restored[: group.size]
        return RingSum(mean, flagged, spreads, len(members))


def next_scales(shared: RingRound, seen: RingSum) -> NDArray[np.float32]:
    """Return the scales of the round after one: the spread that was seen, with a margin; doubled where it wrapped.

    The next round is taken to have as many clients; where some of this one's were missing, the spread of all is taken
    to be larger in proportion. A sum of zeros says nothing of the next one: its scales stay.
    """
    sound = np.where(seen.flagged, 0, seen.spreads).astype(np.float64) * (shared.clients / seen.members)
    whole = float(np.sqrt(np.mean(np.square(sound)))) if shared.size else 0.0
    if not seen.flagged.any() and whole == 0:
        return shared.scales
    scales = np.where(seen.flagged, shared.scales * 2, np.maximum(sound * MARGIN, whole * FLOOR))
    return np.minimum(scales, LARGEST).astype(np.float32)


class _Walk:
    """One pass over a round's groups of blocks, with its rotation and grids."""

    def __init__(self, codec: Ring, shared: RingRound) -> None:
        self.rotation = Rotation(shared.seed, shared.size)
        self._codec = codec
        self._shared = shared
        self._signs: dict[int, NDArray[np.float32]] = {}
        self._steps = (2 * codec.k / codec.p) * shared.scales.astype(np.float64)

    def groups(self) -> Iterator[tuple[Group, slice]]:
        """Yield each group with the place of its codes."""
        done = 0
        for group in groups(self._shared.size):
            count = group.padded + len(CHECKS) * group.blocks
            yield group, slice(done, done + count)
            done += count

    def on_grid(self, rotated: NDArray[np.float32], group: Group) -> NDArray[np.float64]:
        """Return the coordinates and the projections of rotated blocks in units of their grids."""
        steps = self._of(group)
        inverse = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps > 0)
        checks = self._project(rotated) * inverse[:, None] / CHECKS
        return np.concatenate([(rotated * inverse[:, None]).reshape(-1), checks.reshape(-1)])

    def off_grid(
        self, grid: NDArray[np.float64], group: Group, some: slice, n: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Return the rotated blocks of a sum of n, which of them are flagged, and their spreads."""
        p = self._codec.p
        grid -= p * np.rint(grid / p)  # to the representatives around zero
        coordinates = grid[: group.padded].reshape(group.blocks, group.length)
        checks = grid[group.padded :].reshape(group.blocks, len(CHECKS))
        near = np.abs(coordinates).max(axis=1) > _NEAR * p / 2
        size = np.sqrt(np.mean(np.square(coordinates), axis=1))
        expected = p / (2 * self._codec.k)  # the scale, in steps
        # sent and decoded, both on the projection's own grid, differ by whole turns of p and by their errors
        off = checks - self._project(coordinates) / CHECKS
        off -= p * np.rint(off / p)
        error = np.sqrt(n / 12 * (1 + 1 / np.square(CHECKS, dtype=np.float64)))
        wrong = (np.abs(off) > _TOLERANCE * error).any(axis=1)
        steps = self._steps[some]
        moving = steps > 0
        blocks = (coordinates * steps[:, None]).astype(np.float32)
        return blocks, (near | (size > _TOO_LARGE * expected) | wrong) & moving, (size * steps).astype(np.float32)

    def _of(self, group: Group) -> NDArray[np.float64]:
        first = group.start // 4096
        return self._steps[first : first + group.blocks]

    def _project(self, blocks: NDArray[Any]) -> NDArray[np.float64]:
        """Return four random ±1 projections of each (m, n) block, scaled to the size of a coordinate: (m, 4)."""
        length = blocks.shape[1]
        if length not in self._signs:
            streams = range(_CHECK_STREAM, _CHECK_STREAM + len(CHECKS))
            self._signs[length] = np.stack([random_signs(self._shared.seed, length, stream) for stream in streams], 1)
        projected: NDArray[np.float64] = blocks.astype(np.float64) @ self._signs[length] / np.sqrt(length)
        return projected


class _Dither:
    """A client's dither: uniform in ±1/2, from the raw stream of Philox, which both ends can make."""

    def __init__(self, seed: int, client: int) -> None:
        self._stream = np.random.Philox(key=np.array([seed, _DITHER_STREAM + client], np.uint64))

    def draw(self, count: int) -> NDArray[np.float64]:
        """Return the next `count` values, in steps of 2^-16."""
        words = np.asarray(self._stream.random_raw(-(-count // 4)), "<u8").view("<u2")[:count]
        return (words + 0.5) / 65536 - 0.5


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
