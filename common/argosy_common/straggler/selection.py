"""Which devices a round asks: the form of a selector, and the two that there are, `Random` and `Ready`."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from argosy_common.straggler.conditions import UNKNOWN, Condition

CHARGED = 0.5
"""From half full on a battery is as good as the mains: a round costs a board some percent of it at most."""
EMPTY = 0.2
"""Below a fifth, and not charging, a battery is left for what the board is there for. Some fuel gauges are off by ten
percent, so that less could be nothing."""
HOT = 80.0
"""°C. From here on a Raspberry Pi slows itself down, and boards without a fan soon follow."""
HEARD_PART = 10
"""One in so many of those asked, and at least one, may be there for the sake of being heard: rounds stay fast."""
_SHORTEST_S = 1e-3
"""Devices that take less than this are equally fast."""


@dataclass(frozen=True)
class Candidate:
    """A device that is online and free.

    Attributes:
        node: Flower's number of it.
        drawn: whether the strategy drew it by itself.
        condition: what it last said of itself.
        seconds: the median of what it took lately for this kind of work; None: it has not answered yet.
        unheard: how many rounds ago an answer of it last counted; the rounds so far where none ever did.
    """

    node: int
    drawn: bool = True
    condition: Condition = UNKNOWN
    seconds: float | None = None
    unheard: int = 0


@dataclass(frozen=True)
class Spared:
    """Why a device is not asked."""

    code: str
    """`not-drawn`, `busy`, `battery-low`, `hot`, `throttled`, `metered`, `slow`."""
    why: str
    """The same in words, without the device's name: `its battery is at 12 % and not charging`."""


@dataclass(frozen=True)
class Choice:
    """Whom to ask.

    Attributes:
        asked: nodes, those to be asked first at the front; as many as were wanted, or all there are.
        heard: those of them that the round must wait for, although they are slow, so that they are heard at all.
        spared: every other candidate, and why.
    """

    asked: tuple[int, ...]
    heard: frozenset[int] = frozenset()
    spared: Mapping[int, Spared] = field(default_factory=dict)


class Selector(Protocol):
    """Chooses devices. Pure: the same candidates and randomness give the same choice."""

    def choose(self, candidates: Sequence[Candidate], wanted: int, rng: random.Random) -> Choice:
        """Return which `wanted` of `candidates` to ask; all of them where there are fewer."""
        ...


@dataclass(frozen=True)
class Random:
    """Asks those whom the strategy drew, and others at random where more are wanted. It knows nothing of devices.

    Attributes:
        hear_every: as all selectors have it; no use here, since chance hears everybody.
    """

    hear_every: int = 0

    def choose(self, candidates: Sequence[Candidate], wanted: int, rng: random.Random) -> Choice:
        """See `Selector.choose`."""
        pool = sorted(_shuffled(candidates, rng), key=lambda it: not it.drawn)
        asked, others = _cut(pool, wanted)
        return Choice(_nodes(asked), spared={it.node: Spared("not-drawn", "others were drawn") for it in others})


@dataclass(frozen=True)
class Ready:
    """Prefers devices that are charged, cool, unmetered and fast, and sees to it that the others are heard as well.

    Each device has points; those with the fewest are asked first.

    | | points |
    |---|---|
    | its battery is not half full, and not charging | 1 |
    | it slows itself down, for heat or for want of power | 1 |
    | its connection costs by the byte | 1 |
    | it takes twice as long as the median device, four times, … | 1, 2, … |
    | it takes half as long as the median device, a quarter, … | −1, −2, … |

    Of devices with equal points those that the strategy drew come first, then chance decides. What is not known of a
    device costs no points, so one that was never tried is taken for a median one.

    Spared are devices with a battery below a fifth that is not charging, and those of 80 °C and more: they come after
    all others, whatever their points, and are asked only where there are too few others.

    A device that has not been heard for `hear_every` rounds is due: it is asked before all others, whatever its points
    and also if it would be spared, and the round waits for it. A tenth of those asked may be due ones. If more are due,
    chance decides and not who is due for longest, or one that always fails would keep its place for ever.

    Attributes:
        hear_every: rounds; 0: no device is ever due.
    """

    hear_every: int = 0

    def choose(self, candidates: Sequence[Candidate], wanted: int, rng: random.Random) -> Choice:
        """See `Selector.choose`."""
        pool = _shuffled(candidates, rng)
        wanted = max(0, min(wanted, len(pool)))
        known = [it.seconds for it in pool if it.seconds is not None]
        usual = statistics.median(known) if known else None
        fitness = {it.node: _Fitness.of(it, usual) for it in pool}
        due = [it for it in pool if 0 < self.hear_every <= it.unheard]
        first = _nodes(due[: min(wanted, max(1, wanted // HEARD_PART))])
        heard = frozenset(first)
        rest = [it for it in pool if it.node not in heard]
        rest.sort(key=lambda it: (fitness[it.node].rank, not it.drawn))
        asked, others = _cut(rest, wanted - len(first))
        last = max((fitness[it.node].rank for it in asked), default=None)
        return Choice(
            asked=(*first, *_nodes(asked)),
            heard=heard,
            spared={it.node: fitness[it.node].why_not(it, last) for it in others},
        )


_Rank = tuple[bool, int]


@dataclass(frozen=True)
class _Fitness:
    """What speaks against asking a device now."""

    grave: tuple[Spared, ...]
    """It is spared for each of these."""
    flaws: tuple[Spared, ...]
    """Each of these is a point."""
    speed: int
    """Its points for speed; see `Ready`."""

    @classmethod
    def of(cls, it: Candidate, usual: float | None) -> _Fitness:
        """Judge a device; `usual` is what the median one takes."""
        condition = it.condition
        grave: list[Spared] = []
        flaws: list[Spared] = []
        level = None if condition.on_mains else condition.battery
        if level is not None and level < CHARGED:
            low = Spared("battery-low", f"its battery is at {100 * level:.0f} % and not charging")
            (grave if level < EMPTY else flaws).append(low)
        if condition.temperature is not None and condition.temperature >= HOT:
            grave.append(Spared("hot", f"it is at {condition.temperature:.0f} °C"))
        if condition.throttled:
            flaws.append(Spared("throttled", "it slows itself down, for heat or for want of power"))
        if condition.metered:
            flaws.append(Spared("metered", "its connection costs by the byte"))
        if it.seconds is None or usual is None:
            return cls(tuple(grave), tuple(flaws), 0)
        ratio = max(it.seconds, _SHORTEST_S) / max(usual, _SHORTEST_S)
        return cls(tuple(grave), tuple(flaws), round(math.log2(ratio)))

    @property
    def rank(self) -> _Rank:
        """The lower, the sooner it is asked."""
        return bool(self.grave), len(self.flaws) + self.speed

    def why_not(self, it: Candidate, last: _Rank | None) -> Spared:
        """Say why it is not asked, where `last` is the rank of the last one that was for its fitness."""
        if last is None or self.rank <= last:
            return Spared("not-drawn", "enough others were asked that are as fit")
        reasons = [*self.grave, *self.flaws]
        if it.seconds is not None and (self.speed > 0 or not reasons):
            reasons.append(Spared("slow", f"it took {it.seconds:.3g} s lately, and others are faster"))
        if not reasons:
            return Spared("not-drawn", "it was never tried, and others are known to be faster")
        return Spared(reasons[0].code, "; ".join(each.why for each in reasons))


def _shuffled(candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
    """Return the candidates, each once, in an order of chance."""
    distinct = list({it.node: it for it in candidates}.values())
    return rng.sample(distinct, len(distinct))


def _cut(ranked: Sequence[Candidate], wanted: int) -> tuple[list[Candidate], list[Candidate]]:
    """Return the first `wanted`, and the others."""
    return list(ranked[: max(0, wanted)]), list(ranked[max(0, wanted) :])


def _nodes(of: Sequence[Candidate]) -> tuple[int, ...]:
    return tuple(it.node for it in of)
