"""Local, split or remote: the decision, apart from all measuring. Pure.

A way over the network must be faster than this board by a margin, since what was measured in a good minute must still
hold in a worse one; and where nobody waits for nobody, it is simply not considered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MARGIN = 0.10
"""The share of the local time that a way over the network must save."""

Kind = Literal["local", "split", "remote"]


@dataclass(frozen=True)
class Way:
    """One way of answering one input, and what it takes. Times are milliseconds."""

    kind: Kind
    tensor: str = ""
    """What crosses to the coordinator; empty: nothing does."""
    head_ms: float = 0.0
    """On this board, before that."""
    bytes_up: int = 0
    transfer_ms: float | None = 0.0
    """There and back; None: not known."""
    tail_ms: float | None = 0.0
    """At the coordinator; None: not known."""
    fallback_ms: float = 0.0
    """What this board would take in the coordinator's place."""
    share: float = 1.0
    """Of inputs, how many go on to the coordinator: those that no early exit answers before."""
    refused: str = ""
    """Why it cannot be taken, whatever its figures."""

    @property
    def away_ms(self) -> float | None:
        """From the moment that something is sent until the answer is here."""
        return None if self.transfer_ms is None or self.tail_ms is None else self.transfer_ms + self.tail_ms

    @property
    def total_ms(self) -> float | None:
        """On average; None where a part is not known."""
        return None if self.away_ms is None else self.head_ms + self.share * self.away_ms

    @property
    def worst_ms(self) -> float | None:
        """Where the coordinator is waited for in vain, as long as it usually takes, and this board does the rest."""
        return None if self.away_ms is None else self.head_ms + self.away_ms + self.fallback_ms


@dataclass(frozen=True)
class Decision:
    """The way that is taken, and why, in a sentence."""

    way: Way
    reason: str


def decide(
    local: Way,
    others: Sequence[Way],
    *,
    unreachable: str = "",
    deadline_ms: float | None = None,
    margin: float = MARGIN,
) -> Decision:
    """Return the way to take.

    Args:
        others: the ways over the network.
        unreachable: why there can be none of them; empty where there can.
        deadline_ms: what an answer may take. A way over the network must keep it also when the coordinator lets this
            board down in the middle.
    """
    ours = local.total_ms or 0.0
    if unreachable:
        return Decision(local, f"the coordinator cannot be used: {unreachable}")
    usable = [way for way in others if not way.refused and way.total_ms is not None]
    if not usable:
        return Decision(
            local, "the model can neither be cut nor sent away with a gain" if others else "nothing else is"
        )
    timely = [way for way in usable if deadline_ms is None or (way.worst_ms or 0.0) <= deadline_ms]
    if not timely:
        return Decision(local, f"no other way is sure to keep {deadline_ms:g} ms, should the coordinator not answer")
    best = min(timely, key=lambda way: (way.total_ms or 0.0, way.bytes_up, way.tensor))
    theirs = best.total_ms or 0.0
    named = "the whole model on the coordinator" if best.kind == "remote" else f"a cut at {best.tensor}"
    if theirs > ours * (1.0 - margin):
        saved = f"takes {theirs:.3g} ms against {ours:.3g} here: not {margin:.0%} less"
        return Decision(local, f"the fastest other way, {named}, {saved}")
    return Decision(best, f"{named} takes {theirs:.3g} ms against {ours:.3g} here")
