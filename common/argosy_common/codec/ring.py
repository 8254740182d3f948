"""`ring:<p>`: linear codes in the integers mod p, the only ones whose *sum* decodes (specs/codecs.md, "Ring codec").

All clients of a round share a rotation and, for each block, a scale; the code of a value is its place on a grid, taken
mod p. Codes are added mod p, by whoever adds them and under whatever mask, and the sum decodes to the sum of the
updates, as long as no coordinate of the *sum* leaves ±p/2.

Symbols as in the specification: p the modulus, n the clients, k how many times its spread a coordinate of the sum may
be; the step of a block's grid is 2k·scale/p. How a value is brought to a whole number, and what that costs:

    p > 4096     rounded at random by the client's own noise, with a bias below 2^-9 of a step:
                 n·(2k·scale/spread)²/(6·p²)
    p ≤ 4096     rounded to the nearest after a dither that the receiver knows and takes off again: half of that
    two digits   rounded to the nearest, and the error coded as well, on a grid p/n times as fine: next to nothing where
                 p is far above n, at twice the bytes. For a round whose scales are a guess

(each as a share of the square of the mean). Each block carries four further coordinates, random ±1 projections of it
on grids 1, 4, 16 and 64 times as coarse. A block is *flagged*, and counts as zero in the sum, where a coordinate comes
near ±p/2, where its size is more than twice what was expected, or where a projection of what was decoded is not the one
that was sent. Flags err towards flagging.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from argosy_common.codec.base import Codec, Vector
from argosy_common.codec.hadamard import block_count, padded_size, whole_rows
from argosy_common.codec.ring_grid import CHECKS, Dither, Walk, uniform_of, wrapped
from argosy_common.codec.vector import LARGEST, require_finite
from argosy_common.field import Field
from argosy_common.prg import SEED_BYTES, KeyStream, Suite

LARGEST_P = 65521
"""The largest prime below 2^16."""
LEAST_P = 127
MARGIN = 1.3
"""A block's next scale over the spread that its sum had."""
FLOOR = 1e-3
"""The least scale of a block over the spread of the whole sum, so that a block at rest can move again."""
GROWTH = (2.0, 16.0)
"""By how much the scale of a block that wrapped grows: where its spread was known, and where it never was."""

Codes = NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16, see `Ring.dtype`."""


@dataclass(frozen=True)
class RingRound:
    """What all ends of a round share.

    Attributes:
        seed: 32 bytes, public: of the rotation, the dithers and the projections.
        size: d, coordinates of an update; 0 for none.
        clients: n, at most 4096.
        scales: shape (blocks,), float32, ≥ 0: the spread (root mean square) that a coordinate of the *sum* may have.
        suite: which cipher makes dithers and noise.
        digits: 1 or 2; see the module.
    """

    seed: bytes
    size: int
    clients: int
    scales: NDArray[np.float32]
    suite: Suite = Suite.AES
    digits: int = 1

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: scales of another shape, or not finite, negative or absurd; no clients, or too many; another
                seed or number of digits.
        """
        if len(self.seed) != SEED_BYTES or self.digits not in {1, 2}:
            raise ValueError(f"a round has a seed of {SEED_BYTES} bytes, and one digit or two")
        if not 1 <= self.clients <= 4096:
            raise ValueError(f"a round has 1 to 4096 clients, not {self.clients}")
        if self.scales.shape != (block_count(self.size),):
            raise ValueError(f"{self.size} values have {block_count(self.size)} blocks, not {self.scales.shape}")
        if not np.all((self.scales >= 0) & (self.scales <= LARGEST)):
            raise ValueError("a block's scale is negative, not finite or too large")

    @classmethod
    def first(cls, seed: bytes, size: int, clients: int, bound: float) -> Self:
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

    def code_count(self, size: int, digits: int = 1) -> int:
        """Return how many codes `size` values make: for each digit the padded blocks, and four projections each."""
        return digits * (padded_size(size) + len(CHECKS) * block_count(size))

    def encode(self, values: Vector, rng: np.random.Generator) -> bytes:  # noqa: ARG002  (as `Codec`)
        """Refuse: a code needs the round's shared state; see `encode_shared`."""
        raise ValueError("its codes need the state that the clients of a round share")

    def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:  # noqa: ARG002  (as `Codec`)
        """Refuse: only a sum decodes; see `decode_sum`."""
        raise ValueError("only the sum of a round's codes can be decoded")

    def encode_shared(self, values: Vector, shared: RingRound, client: int, noise: bytes) -> Codes:
        """Return the codes of one client's update.

        Args:
            values: shape (d,), float32, C-contiguous.
            shared: the round.
            client: i, 0 … n−1: whose dither to take.
            noise: 32 secret bytes, fresh: the client's own randomness for rounding.

        Returns:
            Shape (code_count(d, digits),), values 0 … p−1: for each group of blocks its coordinates, then its
            projections; after them all second digits in the same order.

        Raises:
            ValueError: NaN or infinity, another number of values than the round's, or no such client.
        """
        require_finite(values, LARGEST)
        if len(values) != shared.size or not 0 <= client < shared.clients:
            raise ValueError(f"the round is of {shared.size} values and {shared.clients} clients")
        codes = np.empty(self.code_count(shared.size, shared.digits), self.dtype)
        walk, rest = Walk(self.p, self.k, shared), self.code_count(shared.size)
        random = KeyStream(shared.suite, noise) if self._rounds_at_random(shared) else Dither(shared, client)
        fineness = self._fineness(shared)
        with whole_rows():
            for group, place in walk.groups():
                grid = walk.on_grid(values, group)
                if shared.digits == 2:
                    whole = np.rint(grid)
                    codes[rest:][place] = wrapped(np.rint((grid - whole) * fineness), self.p)
                    grid = whole
                elif isinstance(random, Dither):
                    grid += random.draw(len(grid))
                    np.rint(grid, out=grid)
                else:
                    grid += uniform_of(random.draw(len(grid)))
                    np.floor(grid, out=grid)
                codes[place] = wrapped(grid, self.p)
        return codes

    def _rounds_at_random(self, shared: RingRound) -> bool:
        return self.p > 4096 or shared.digits == 2

    def _fineness(self, shared: RingRound) -> int:
        """Return how many steps of the second digit make one of the first: so many that n errors do not wrap."""
        return max(self.p // shared.clients - 2, 1)

    def _error(self, shared: RingRound, members: int) -> float:
        """Return the variance of a coordinate of a sum's error, in steps.

        What two digits lose is no matter of chance: where all updates are the same their errors are too, and add up.
        """
        if shared.digits == 2:
            return (members / self._fineness(shared)) ** 2 / 12
        return members / 6 if self._rounds_at_random(shared) else members / 12

    def add(self, codes: Sequence[Codes]) -> Codes:
        """Return the sum mod p of the codes of at most 65,536 clients."""
        return Field(self.p).total(codes)

    def decode_sum(self, total: Codes, shared: RingRound, members: Sequence[int] | None = None) -> RingSum:
        """Decode the sum mod p of the codes of some clients.

        Args:
            total: shape (code_count(d, digits),), values 0 … p−1.
            shared: the round.
            members: whose codes were added, each 0 … n−1, since their dithers come off again; None: all n.

        Raises:
            ValueError: not as many codes as the round's size makes, one that is not below p, or no such members.
        """
        members = range(shared.clients) if members is None else members
        if not members or len(set(members)) != len(members) or not set(members) <= set(range(shared.clients)):
            raise ValueError(f"a sum is of 1 to {shared.clients} different clients of the round")
        count = self.code_count(shared.size)
        if total.shape != (count * shared.digits,) or total.dtype != self.dtype:
            raise ValueError(f"{shared.size} values make {count * shared.digits} codes of {self.dtype.__name__}")
        if total.size and int(total.max()) >= self.p:
            raise ValueError(f"a code is not below {self.p}")
        mean = np.empty(shared.size, np.float32)
        flagged = np.zeros(len(shared.scales), np.bool_)
        spreads = np.zeros(len(shared.scales), np.float32)
        walk = Walk(self.p, self.k, shared)
        dithers = [] if self._rounds_at_random(shared) else [Dither(shared, client) for client in members]
        error = self._error(shared, len(members))
        number = 0
        with whole_rows():
            for group, place in walk.groups():
                some = slice(number, number + group.blocks)
                number += group.blocks
                grid = walk.real(total[place])
                if dithers:
                    grid -= Dither.total(dithers, len(grid))
                walk.centre(grid)
                if shared.digits == 2:
                    fine = walk.real(total[count:][place])
                    walk.centre(fine)
                    grid += fine / self._fineness(shared)
                blocks, flagged[some], spreads[some] = walk.off_grid(grid, group, some, error)
                blocks[flagged[some]] = 0
                blocks *= np.float32(1 / len(members))
                restored = walk.rotation.restore(blocks).reshape(-1)
                mean[group.start : group.start + group.size] = restored[: group.size]
        return RingSum(mean, flagged, spreads, len(members))


def next_scales(shared: RingRound, seen: RingSum, known: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return the scales of the round after one: the spread that was seen, with a margin; grown where it wrapped.

    The next round is taken to have as many clients; where some of this one's were missing, the spread of all is taken
    to be larger in proportion. A sum of zeros says nothing of the next one: its scales stay.

    Args:
        shared, seen: the round, and its sum.
        known: shape (blocks,): of which blocks the spread was known before; None: of all. See `GROWTH`.
    """
    sound = np.where(seen.flagged, 0, seen.spreads).astype(np.float64) * (shared.clients / seen.members)
    whole = float(np.sqrt(np.mean(np.square(sound)))) if shared.size else 0.0
    if not seen.flagged.any() and whole == 0:
        return shared.scales
    growth = GROWTH[0] if known is None else np.where(known, *GROWTH)
    scales = np.where(seen.flagged, shared.scales * growth, np.maximum(sound * MARGIN, whole * FLOOR))
    return np.minimum(scales, LARGEST).astype(np.float32)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
