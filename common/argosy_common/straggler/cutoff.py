"""When a phase of a round is over. Times are seconds since it began; whoever asks hands them in.

A phase waits for units: a device, or a shard that several devices hold and that one answer completes.

| it is over | how |
|---|---|
| every unit has answered, failed or gone | `all` |
| as many have answered as are enough | `enough` |
| its quorum has answered, and its deadline has passed | `deadline` |
| its bound has passed, whoever has answered | `timeout` |

Devices that must be heard keep `enough` and `deadline` from ending it, for as long as they usually take.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum

from argosy_common.straggler.track import with_margin

Unit = Hashable


class How(Enum):
    """How a phase came to be over; see the module."""

    ALL = "all"
    ENOUGH = "enough"
    DEADLINE = "deadline"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Rule:
    """What a phase waits for.

    Attributes:
        quorum: the fewest answers with which its deadline ends it.
        enough: with so many answers it is over at once.
        deadline: seconds; None: not known yet, so that it follows from when the quorum is there.
        timeout: seconds after which it is over in any case.
        heard_until: seconds for which those that must be heard keep it open.
    """

    quorum: int
    enough: int
    deadline: float | None
    timeout: float
    heard_until: float = 0.0


class Cutoff:
    """The state of one phase: who answered, who may still answer."""

    def __init__(self, rule: Rule, units: Mapping[int, Unit], heard: Collection[int] = ()) -> None:
        """Begin a phase with all `units`, by node; `heard` are nodes that must be heard."""
        self.rule = rule
        self.counted: dict[int, float] = {}
        """When each node whose answer counts answered."""
        self.deadline = rule.deadline
        self._units = dict(units)
        self._heard = set(heard)
        self._open = set(units)
        self._complete: set[Unit] = set()
        self._holders: dict[Unit, set[int]] = {}
        for node, unit in units.items():
            self._holders.setdefault(unit, set()).add(node)

    def is_counted(self, node: int) -> bool:
        """Tell whether what `node` could bring is here already, from it or from another."""
        return self._units[node] in self._complete

    def counted_by(self, node: int) -> int | None:
        """Return the node whose answer brought what `node` could bring; None if none has."""
        return next((other for other in self._holders[self._units[node]] if other in self.counted), None)

    def count(self, node: int, seconds: float) -> None:
        """Count the answer of `node`; it must bring something new."""
        if self.is_counted(node):
            raise ValueError("its unit was counted before")
        unit = self._units[node]
        self.counted[node] = seconds
        self._complete.add(unit)
        self._open -= self._holders[unit]
        if self.deadline is None and len(self._complete) >= self.rule.quorum:
            self.deadline = with_margin(seconds)

    def give_up(self, node: int) -> None:
        """Wait no longer for `node`: it failed or went away. Should it answer after all, that may still be counted."""
        self._open.discard(node)

    @property
    def open(self) -> set[int]:
        """The nodes that are waited for: those that may bring something new."""
        return set(self._open)

    @property
    def answers(self) -> int:
        """How many units have answered."""
        return len(self._complete)

    def verdict(self, elapsed: float) -> How | None:
        """Return how the phase is over after `elapsed` seconds; None while it is not."""
        if not self._open:
            return How.ALL
        if elapsed >= self.rule.timeout:
            return How.TIMEOUT
        if self._heard & self._open and elapsed < self.rule.heard_until:
            return None
        if self.answers >= self.rule.enough:
            return How.ENOUGH
        if self.answers >= self.rule.quorum and elapsed >= (math.inf if self.deadline is None else self.deadline):
            return How.DEADLINE
        return None

    def due(self, elapsed: float) -> float:
        """Return in how many seconds the verdict may change although nobody answers."""
        moments = [self.rule.timeout, self.rule.heard_until, math.inf if self.deadline is None else self.deadline]
        return max(0.0, min(moment for moment in moments if moment > elapsed or moment == self.rule.timeout) - elapsed)
