"""Which devices a round asks: the form of a selector."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from argosy_common.straggler.conditions import UNKNOWN, Condition


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
