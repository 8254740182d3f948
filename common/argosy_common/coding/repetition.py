"""The fractional-repetition code: a site's sum is complete when any n − s of its n boards have answered.

Source: Tandon, Lei, Dimakis, Karampatziakis, "Gradient Coding", ICML 2017, section 3.1. Its matrix holds only 0 and 1,
so that decoding is a choice and a sum, exact in any arithmetic. Random cyclic codes (section 3.2 there) tolerate the
same s for any n, but divide by small pivots: at 16 boards they lose 3e-3 in float32. They are left out on purpose.

The site's data is cut into n / (s+1) shards, and each shard is given to s + 1 boards. Whichever s boards stay silent,
one of the s + 1 has answered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_STRAGGLERS = 2
"""The largest s: every further one costs every board another shard's worth of work."""

Answer = NDArray[np.number[Any]]
"""What a board computed over its shard, any shape; the same shape and dtype from all boards."""


@dataclass(frozen=True)
class Repetition:
    """Which of a site's boards holds which shard, and how their answers become one.

    Boards are numbered 0 … n−1 and shards 0 … n/(s+1)−1, board i holding shard i mod n/(s+1).

    Attributes:
        boards: n ≥ 1, a multiple of s + 1.
        stragglers: s, 0 to 2: how many boards, whichever they are, need not answer.
    """

    boards: int
    stragglers: int

    def __post_init__(self) -> None:
        """Refuse sizes that there is no code for. Raises `ValueError`, which says what fits."""
        if not 0 <= self.stragglers <= MOST_STRAGGLERS:
            raise ValueError(f"a site can do without 0 to {MOST_STRAGGLERS} stragglers, not {self.stragglers}")
        if self.boards < 1 or self.boards % self.copies:
            raise ValueError(
                f"{self.boards} boards cannot hold every shard {self.copies} times: "
                f"it takes a multiple of {self.copies}, such as {fitting(self.boards, self.stragglers)}"
            )

    @property
    def copies(self) -> int:
        """How many boards hold each shard: s + 1."""
        return self.stragglers + 1

    @property
    def shards(self) -> int:
        """How many shards the site's data is cut into: n / (s+1)."""
        return self.boards // self.copies

    def shard_of(self, board: int) -> int:
        """Return the one shard that a board holds. Raises `ValueError`: there is no such board."""
        if not 0 <= board < self.boards:
            raise ValueError(f"a site of {self.boards} boards has no board {board}")
        return board % self.shards

    def holders(self, shard: int) -> tuple[int, ...]:
        """Return the s + 1 boards that hold a shard, in order. Raises `ValueError`: there is no such shard."""
        if not 0 <= shard < self.shards:
            raise ValueError(f"a site of {self.shards} shards has no shard {shard}")
        return tuple(range(shard, self.boards, self.shards))

    def complete(self, answered: Collection[int]) -> bool:
        """Return whether each shard has an answer. Raises `ValueError`: one is of a board that does not exist."""
        return len({self.shard_of(board) for board in answered}) == self.shards

    def decode(self, answers: Mapping[int, Answer]) -> Answer:
        """Return the site's sum.

        Each shard counts once: of several answers for it, that of the lowest board is taken. Shards are summed in
        order, in the answers' own dtype, so that the sum is the same to the last bit whichever n − s boards answered,
        where boards with the same shard answer alike; where they do not, as on different hardware, it differs by no
        more than they do.

        Args:
            answers: by board, each a sum over its shard; a mean would have to be multiplied by its examples first.

        Returns:
            A new array of the answers' shape and dtype.

        Raises:
            ValueError: a shard has no answer, or answers differ in shape or dtype, or a board does not exist.
        """
        if len({(answer.shape, answer.dtype) for answer in answers.values()}) > 1:
            raise ValueError("answers of one site have one shape and one dtype")
        chosen: dict[int, Answer] = {}
        for board in sorted(answers):
            chosen.setdefault(self.shard_of(board), answers[board])
        for shard in range(self.shards):
            if shard not in chosen:
                silent = ", ".join(map(str, self.holders(shard)))
                raise ValueError(f"shard {shard} is missing: none of the boards that hold it ({silent}) has answered")
        total = chosen[0].copy()
        for shard in range(1, self.shards):
            np.add(total, chosen[shard], out=total)
        return total


def fitting(boards: int, stragglers: int) -> str:
    """Return the numbers of boards next to `boards` that s stragglers are possible with, in words: `4 or 6`."""
    copies = stragglers + 1
    below = boards // copies * copies
    return " or ".join(str(size) for size in (below, below + copies) if size > 0)
