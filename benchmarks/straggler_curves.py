"""The pure part of benchmarks/straggler: curves from marks, time to a target, and what a lost device cost a round."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.apps.boards.boards_app.delays import Slow

MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Mark:
    """One model's test: seconds since the run's first mark, the round, the share of windows recognised."""

    seconds: float
    round: int
    accuracy: float


@dataclass(frozen=True)
class Curve:
    """What one run reached, and when; `why` it ended before the target, where it did."""

    marks: tuple[Mark, ...]
    why: str = ""

    def reaching(self, target: float) -> Mark | None:
        """Return the first mark at or above the target."""
        return next((mark for mark in self.marks if mark.accuracy >= target), None)

    @property
    def best(self) -> float:
        """The highest accuracy; 0 where no model was tested."""
        return max((mark.accuracy for mark in self.marks), default=0.0)

    @property
    def rounds(self) -> int:
        """Rounds that were completed."""
        return max((mark.round for mark in self.marks), default=0)

    @property
    def round_s(self) -> float | None:
        """Mean seconds of a round; None where not one was completed."""
        return self.marks[-1].seconds / self.rounds if self.rounds else None


@dataclass(frozen=True)
class Outcome:
    """Runs of one way under one delay, one a seed. All that reached the target count, or nothing is told of it."""

    curves: tuple[Curve, ...]
    target: float

    @property
    def reached(self) -> list[Mark]:
        """Where each run reached the target; empty where one of them did not."""
        found = [curve.reaching(self.target) for curve in self.curves]
        return [] if None in found else [mark for mark in found if mark is not None]

    @property
    def seconds(self) -> float | None:
        """Mean seconds to the target."""
        return fmean(mark.seconds for mark in self.reached) if self.reached else None

    @property
    def rounds(self) -> float | None:
        """Mean rounds to the target."""
        return fmean(mark.round for mark in self.reached) if self.reached else None

    @property
    def slowest(self) -> float | None:
        """Seconds of the slowest seed."""
        return max((mark.seconds for mark in self.reached), default=None)


def times_faster(way: Outcome, peer: Outcome) -> float | None:
    """Return how many times sooner than its peer a way reaches the target; None where either does not."""
    return peer.seconds / way.seconds if way.seconds and peer.seconds else None


def read_curve(path: Path, why: str = "") -> Curve:
    """Return the curve that the app's marks draw; a file that is not there yet has none, a line half written waits."""
    if not path.exists():
        return Curve((), why)
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = [json.loads(line) for line in lines]
    return Curve(tuple(Mark(row["at"] - rows[0]["at"], int(row["round"]), row["accuracy"]) for row in rows), why)


@dataclass(frozen=True)
class Settled:
    """A training phase that a device was lost in.

    Attributes:
        seconds: that it took.
        deadline_s: its deadline, None where there was none.
        quorum_s: when as many had answered as the rule asks for; of all that did answer, where fewer did.
    """

    seconds: float
    deadline_s: float | None
    quorum_s: float

    @property
    def beyond_s(self) -> float:
        """Seconds beyond what the rule allows: the deadline, or the answer that completes the quorum if it is later."""
        return self.seconds - max(self.deadline_s or 0.0, self.quorum_s)


def settled(events: Sequence[Mapping[str, Any]], server_round: int, quorum: float) -> Settled | None:
    """Return how the training of a round was settled, from a run's events; None where it was not yet.

    `quorum` is the share of those asked whose answers complete it.
    """
    mine = [
        (event["name"], event["data"])
        for event in events
        if event["data"].get("round") == server_round and event["data"].get("phase") == "train"
    ]
    asked = next((len(data["devices"]) for name, data in mine if name == "phase-started"), 0)
    ends = {name: data for name, data in mine if name in ("phase-settled", "phase-finished")}
    if "phase-finished" not in ends or not asked:
        return None
    answers = sorted(data["seconds"] for name, data in mine if name == "device-reply" and not data["error"])
    needed = min(math.ceil(quorum * asked), len(answers))
    rule = ends.get("phase-settled", ends["phase-finished"])
    return Settled(rule["seconds"], rule.get("deadline_s"), answers[needed - 1] if needed else 0.0)


def board_seeds(boards: int, delay: Slow) -> list[int]:
    """Return seeds under which exactly the delay's share of the boards is slow, the first such in a row.

    Raises:
        ValueError: there is no whole number of such boards, or none was found.
    """
    slow = delay.share * boards
    if not math.isclose(slow, round(slow)):
        raise ValueError(f"{delay.share:g} of {boards} boards is no whole number")
    for first in range(MOST_SEEDS):
        seeds = list(range(first, first + boards))
        if sum(map(delay.is_slow, seeds)) == round(slow):
            return seeds
    raise ValueError(f"no {boards} seeds in a row make {round(slow)} boards slow")
