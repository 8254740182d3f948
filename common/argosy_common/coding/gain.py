"""What waiting differently would gain: expected times of a round, simulated from measured or described ones.

Compared are waiting for all, a quorum, the fractional-repetition code and asynchronous updates. Seeded Monte Carlo; the
generator is handed in. Every way is judged on the same draws, so that the noise of a ratio is well below that of a time
(at 10 000 draws about 1 %).

What is modelled, and which way it errs:
- A device's times are drawn independently of the other devices' and of the round before. Where all are slow together
  (one access point, one noon heat), the ways that do not wait gain less than is said here.
- A device that does not answer at all has no time, and is left out: waiting for all is then worse than is said here.
- Gains are in time per round. That a quorum leaves answers out, and that asynchronous updates are stale, costs some
  rounds more: their gains on the way to an accuracy are at most these. The code leaves nothing out.
- The coordinator's own work is part of the measured times and of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from argosy_common.coding.repetition import MOST_STRAGGLERS, Repetition

Seconds = NDArray[np.float64]

DRAWS = 10_000
_P90 = 0.9

WAIT_FOR_ALL = "wait-for-all"
QUORUM = "quorum"
ASYNCHRONOUS = "asynchronous"
SITE_WAIT_FOR_ALL = "site-wait-for-all"


def repetition_name(stragglers: int) -> str:
    """Return the name of the outcome of the code with s stragglers."""
    return f"repetition-{stragglers}"


class Draw(NamedTuple):
    """Many rounds of `boards` boards each. All arrays are (draws, boards), in seconds, > 0."""

    seconds: Seconds
    """From the instruction to the answer."""
    work: Seconds
    """The part of it that grows with the amount of data; 0 is allowed."""
    pace: Seconds
    """What the same board takes on average."""


@dataclass(frozen=True)
class Boards:
    """What boards take for a round. Made by `measured` or `described`.

    Attributes:
        seconds: for each board, or kind of board, the times it may take, (samples,), each equally likely.
        work: the part of each that grows with the amount of data, of the same shapes.
        weights: how likely a board is of each kind; None: these are the boards themselves, each there once.
    """

    seconds: tuple[Seconds, ...]
    work: tuple[Seconds, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def measured(cls, seconds: Sequence[ArrayLike], compute: float | Sequence[ArrayLike] = 1.0) -> Self:
        """Return boards whose times are known.

        Args:
            seconds: for each board its times, (samples,), finite and > 0; boards may have different numbers of them.
            compute: 0 … 1, the share of a time that grows with the amount of data; one for all, or as many as times.
                What a training takes without any data (starting, loading) should not be in it: where it is, the code
                is said to gain less than it does.

        Raises:
            ValueError: no boards or times, or numbers outside these ranges.
        """
        taken = tuple(np.asarray(each, np.float64).reshape(-1) for each in seconds)
        shares = [compute] * len(taken) if isinstance(compute, int | float) else compute
        if not taken or any(not each.size for each in taken):
            raise ValueError("each board needs at least one time")
        if not all(np.isfinite(each).all() and (each > 0).all() for each in taken):
            raise ValueError("times are finite numbers of seconds above zero")
        work = []
        for each, share in zip(taken, shares, strict=True):
            part = np.broadcast_to(np.asarray(share, np.float64), each.shape)
            if not ((part >= 0) & (part <= 1)).all():
                raise ValueError("the share that grows with the data is between 0 and 1")
            work.append(each * part)
        return cls(taken, tuple(work))

    @classmethod
    def described(cls, mean: float, *, slow_share: float = 0.0, slow_factor: float = 1.0, compute: float = 1.0) -> Self:
        """Return boards that take `mean` seconds, but a share of them, whichever they are, so many times as long.

        A slow board stays slow. That only matters for asynchronous updates: boards that are slow by turns would yield
        fewer of them than is said here.

        Raises:
            ValueError: a time that is not finite and > 0, a share outside 0 … 1.
        """
        if not 0 <= slow_share <= 1:
            raise ValueError("the share of slow boards is between 0 and 1")
        kinds = cls.measured([[mean], [mean * slow_factor]], compute)
        return cls(kinds.seconds, kinds.work, (1 - slow_share, slow_share))

    @property
    def compute(self) -> float:
        """The share of all time that grows with the amount of data, 0 … 1; of kinds, by how many are of each."""
        weights = self.weights or (1.0,) * len(self.seconds)
        means = [
            (weight * taken.mean(), weight * work.mean())
            for weight, taken, work in zip(weights, self.seconds, self.work, strict=True)
        ]
        return float(sum(work for _, work in means) / sum(taken for taken, _ in means))

    def draw(self, rng: np.random.Generator, *, draws: int, boards: int) -> Draw:
        """Return what `boards` boards take in `draws` rounds.

        Known boards come in a random order, none twice, unless more are asked for than there are; so an outcome that
        depends on which boards share a shard is the mean over all ways to share them out.
        """
        sizes = np.array([each.size for each in self.seconds])
        starts = np.cumsum(sizes) - sizes
        means = np.array([each.mean() for each in self.seconds])
        if self.weights is None and boards <= len(self.seconds):
            which = rng.permuted(np.tile(np.arange(len(self.seconds)), (draws, 1)), axis=1)[:, :boards]
        else:
            which = rng.choice(len(self.seconds), size=(draws, boards), p=self.weights)
        sample = starts[which] + rng.integers(sizes[which])
        return Draw(np.concatenate(self.seconds)[sample], np.concatenate(self.work)[sample], means[which])


def wait_for_all(draw: Draw) -> Seconds:
    """Return what each round takes, (draws,), if it waits for its slowest board."""
    slowest: Seconds = np.max(draw.seconds, axis=1)
    return slowest


def wait_for_quorum(draw: Draw, quorum: int) -> Seconds:
    """Return what each round takes, (draws,), if it ends with the `quorum`-th answer.

    This is over-selection: more boards are asked than are wanted. With a deadline that comes after the quorum a round
    takes longer than this, up to the deadline.
    """
    return np.partition(draw.seconds, quorum - 1, axis=1)[:, quorum - 1]


def wait_for_shards(draw: Draw, code: Repetition) -> Seconds:
    """Return what each round takes, (draws,), if it ends when every shard has an answer.

    A board holds a shard that is s + 1 times as large as its own data would be, so that part of its time is as many
    times as long. Where boards see the same data anyway, nothing grows: that is a share of compute of 0.
    """
    taken = draw.seconds + code.stragglers * draw.work
    covered: Seconds = np.max(np.min(taken.reshape(-1, code.copies, code.shards), axis=1), axis=1)
    return covered


def never_wait(draw: Draw) -> Seconds:
    """Return how long it takes, (draws,), until as many updates have come as there are boards, if none ever waits.

    The rate in the long run, when each board starts again at once: the sum of 1 / pace (renewal theorem). For boards
    that are known it does not vary.
    """
    each: Seconds = draw.pace.shape[1] / np.sum(1 / draw.pace, axis=1)
    return each


@dataclass(frozen=True)
class Outcome:
    """What one way to wait comes to.

    Attributes:
        name: `wait-for-all`, `quorum`, `asynchronous`, `repetition-1`, `repetition-2`; `site-wait-for-all`.
        boards: how many are asked.
        counted: with how many answers a round is over, whichever devices they are of.
        expected: mean seconds of a round.
        p90: seconds within which nine rounds of ten end.
        gain: expected seconds of waiting for all the same boards, divided by those of this; below 1 it is a loss.
    """

    name: str
    boards: int
    counted: int
    expected: float
    p90: float
    gain: float


def outcomes(
    boards: Boards, *, devices: int, quorum: int, site_boards: int, rng: np.random.Generator, draws: int = DRAWS
) -> list[Outcome]:
    """Return what each way to wait comes to; waiting for all is the first.

    Args:
        boards: what they take.
        devices: n ≥ 2, asked in a round.
        quorum: how many of them a quorum is, 1 … n.
        site_boards: boards of the site that is coded. If they are not n, the code is compared with waiting for all of
            the site, which is an outcome of its own then. A code that they do not fit has no outcome.
        rng: the same seed gives the same outcomes.
        draws: rounds simulated.

    Raises:
        ValueError: fewer than two devices or boards of a site, a quorum that they cannot reach, no draws.
    """
    if devices < 2 or site_boards < 2:
        raise ValueError("there is nothing to wait for with fewer than two devices")
    if not 1 <= quorum <= devices:
        raise ValueError(f"a quorum of {devices} devices is 1 to {devices}, not {quorum}")
    if draws < 1:
        raise ValueError("it takes at least one draw")
    draw = boards.draw(rng, draws=draws, boards=devices)
    everyone = wait_for_all(draw)
    found = [
        _outcome(WAIT_FOR_ALL, devices, devices, everyone, everyone),
        _outcome(QUORUM, devices, quorum, wait_for_quorum(draw, quorum), everyone),
        _outcome(ASYNCHRONOUS, devices, 1, never_wait(draw), everyone),
    ]
    if site_boards != devices:
        draw = boards.draw(rng, draws=draws, boards=site_boards)
        everyone = wait_for_all(draw)
        found.append(_outcome(SITE_WAIT_FOR_ALL, site_boards, site_boards, everyone, everyone))
    for stragglers in range(1, MOST_STRAGGLERS + 1):
        if site_boards % (stragglers + 1) == 0:
            taken = wait_for_shards(draw, Repetition(site_boards, stragglers))
            counted = site_boards - stragglers
            found.append(_outcome(repetition_name(stragglers), site_boards, counted, taken, everyone))
    return found


def _outcome(name: str, boards: int, counted: int, taken: Seconds, everyone: Seconds) -> Outcome:
    expected = float(taken.mean())
    gain = float(everyone.mean()) / expected
    return Outcome(name, boards, counted, expected, float(np.quantile(taken, _P90)), gain)
