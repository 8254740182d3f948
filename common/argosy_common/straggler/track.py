"""How long each device took lately, and which are still at work for a round that is over. Kept for one run.

What is learnt from it is robust: a quantile of what devices took, in which one that has not answered counts as slower
than all that have, so that neither the slowest nor those that vanish move it. Times are seconds.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass

MEMORY = 5
"""So many of a device's last times count: a board that cools down, or warms up, is seen as it is within some rounds."""
QUANTILE = 0.8
"""Of the devices' times. One in five may be as slow as it likes."""
MARGIN = 1.5
LEAST_MARGIN_S = 1.0
"""A deadline leaves so much beyond the quantile, for what varies anyhow: half as much again, and at least a second."""
MOST_EXTRA = 0.5
"""Over-selection learnt from the run asks at most half as many devices more."""


@dataclass(frozen=True)
class Overdue:
    """A device that is still at work on what nobody waits for."""

    kind: str
    round: int | None
    since: float
    until: float
    """When it gives up by itself, on the monotonic clock."""


class Track:
    """See the module. `kind` is the sort of work: `train`, `evaluate`. Used by one thread."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, int], deque[float]] = defaultdict(lambda: deque(maxlen=MEMORY))
        self._overdue: dict[int, Overdue] = {}
        self._phases: dict[str, int] = defaultdict(int)
        self._counted: dict[tuple[str, int], int] = {}

    # --- what happens

    def answered(self, node: int, kind: str, seconds: float) -> None:
        """Note how long a device took, be it in time or late."""
        self._times[kind, node].append(seconds)

    def left(self, node: int, overdue: Overdue) -> None:
        """Note that a phase is over without a device, which may still be at work on it."""
        self._overdue[node] = overdue
        self._times[overdue.kind, node].append(math.inf)

    def late(self, node: int, kind: str, seconds: float) -> None:
        """Note that a device that was left behind has answered: it is free, and how long it took is known now."""
        times = self._times[kind, node]
        if self._overdue.pop(node, None) is not None and math.inf in times:
            times.remove(math.inf)  # it stood for this answer
        self.answered(node, kind, seconds)

    def free(self, node: int) -> None:
        """Note that a device that was left behind has nothing of it any more."""
        self._overdue.pop(node, None)

    def settled(self, kind: str, counted: Collection[int]) -> None:
        """Note that a phase is over, and whose answers counted."""
        self._phases[kind] += 1
        self._counted.update(dict.fromkeys(((kind, node) for node in counted), self._phases[kind]))

    # --- what is known

    def busy(self, now: float) -> dict[int, Overdue]:
        """Return the devices that are still at work on what nobody waits for."""
        self._overdue = {node: it for node, it in self._overdue.items() if it.until > now}
        return dict(self._overdue)

    def seconds(self, node: int, kind: str) -> float | None:
        """Return the median of what a device took lately; None if it never answered."""
        known = [each for each in self._times.get((kind, node), ()) if each < math.inf]
        return statistics.median(known) if known else None

    def unheard(self, node: int, kind: str) -> int:
        """Return how many phases ago an answer of a device last counted; all there were, if none did."""
        return self._phases[kind] - self._counted.get((kind, node), 0)

    def deadline(self, kind: str) -> float | None:
        """Return after how many seconds a phase need not wait for more than its quorum; None before the first one."""
        times = self._pool(kind)
        known = [each for each in times if each < math.inf]
        if not known:
            return None
        quantile = times[math.ceil(QUANTILE * len(times)) - 1]
        return with_margin(min(quantile, known[-1]))

    def shortfall(self, kind: str) -> float:
        """Return how many more devices to ask, as a share, so that as many as are wanted answer in time."""
        deadline, times = self.deadline(kind), self._pool(kind)
        if deadline is None:
            return 0.0
        late = sum(each > deadline for each in times) / len(times)
        return min(late / (1 - late), MOST_EXTRA) if late < 1 else MOST_EXTRA

    def _pool(self, kind: str) -> list[float]:
        return sorted(each for (of, _), times in self._times.items() if of == kind for each in times)


def with_margin(seconds: float) -> float:
    """Return what leaves room beyond `seconds` for what varies anyhow."""
    return max(MARGIN * seconds, seconds + LEAST_MARGIN_S)
