"""What one run of the overhead app was seen to do, on whichever side: rounds from its marks, bytes, memory."""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.memory import Peak
from benchmarks.proxy import Meter

APP = Path(__file__).parent / "apps" / "overhead"
MB = 1_000_000


@dataclass(frozen=True)
class Job:
    """One run of the app: the model in MB (10^6 bytes), rounds, devices, and the longest it may take."""

    model_mb: float
    rounds: int
    timeout_s: float
    devices: int = 3

    def config(self, marks: Path) -> dict[str, float | int | str]:
        """Return the run configuration of the app; it writes its marks to the file `marks`."""
        return {
            "model-mb": float(self.model_mb),
            "devices": self.devices,
            "num-server-rounds": self.rounds,
            "marks": str(marks),
        }


@dataclass(frozen=True)
class Round:
    """One round as the server app timed it; seconds, and monotonic times for `begin`, `turn` and `end`.

    The train phase is begin…turn, aggregation and the evaluate phase are turn…end.
    """

    number: int
    begin: float
    turn: float
    end: float
    aggregate_s: float
    train_compute_s: float
    evaluate_compute_s: float

    @property
    def wall_s(self) -> float:
        """From the moment the strategy prepares training until it has all evaluations."""
        return self.end - self.begin

    @property
    def overhead_s(self) -> float:
        """What is left of the round without the slowest device's arithmetic. Aggregation counts as overhead."""
        return self.wall_s - self.train_compute_s - self.evaluate_compute_s


@dataclass
class Observed:
    """All that one run showed."""

    job: Job
    rounds: list[Round]
    up: Meter
    down: Meter
    memory: dict[str, Peak] = field(default_factory=dict)

    @property
    def steady(self) -> list[Round]:
        """The rounds after the first, which also carries the app and the initial model; the first if it is alone."""
        return self.rounds[1:] or self.rounds

    @property
    def overhead_s(self) -> float:
        """Median overhead of the steady rounds."""
        return statistics.median(r.overhead_s for r in self.steady)

    @property
    def wall_s(self) -> float:
        """Median wall time of the steady rounds."""
        return statistics.median(r.wall_s for r in self.steady)

    def wire_ratio(self, meter: Meter) -> float:
        """Return the bytes of a steady round and device in one direction, in models."""
        moved = meter.between(self.steady[0].begin, self.steady[-1].end)
        return moved / len(self.steady) / self.job.devices / (self.job.model_mb * MB)

    def models_sent(self) -> float:
        """Return how often a steady round sent the model to a device: whole models a phase, added up."""
        sent = 0
        for r in self.steady:
            for begin, end in ((r.begin, r.turn), (r.turn, r.end)):
                sent += round(self.down.between(begin, end) / self.job.devices / (self.job.model_mb * MB))
        return sent / len(self.steady)

    def device_peak(self) -> Peak:
        """Return the memory of the device that took most."""
        return max((peak for group, peak in self.memory.items() if group.startswith("device-")), key=lambda p: p.peak)


def read_rounds(marks: Path) -> list[Round]:
    """Return the complete rounds of a marks file, in order. A file that is not there yet has none.

    Raises:
        ValueError: a device answered with an error, or the devices' models do not change from round to round.
    """
    found: dict[int, dict[str, dict[str, float]]] = {}
    for mark in _marks(marks):
        found.setdefault(int(mark["round"]), {})[str(mark["mark"])] = {
            name: value for name, value in mark.items() if isinstance(value, int | float)
        }
    rounds: list[Round] = []
    means: list[float] = []
    for number, at in sorted(found.items()):
        if number == 0 or "evaluate-ends" not in at:
            continue
        if at["train-ends"]["errors"] or at["evaluate-ends"]["errors"]:
            raise ValueError(f"round {number}: a device answered with an error")
        means.append(at["evaluate-ends"]["mean"])
        rounds.append(
            Round(
                number,
                begin=at["train-begins"]["at"],
                turn=at["train-ends"]["at"],
                end=at["evaluate-ends"]["at"],
                aggregate_s=at["aggregated"]["at"] - at["train-ends"]["at"],
                train_compute_s=at["train-ends"]["compute_s"],
                evaluate_compute_s=at["evaluate-ends"]["compute_s"],
            )
        )
    # Each device's step is in [0.5, 1.5): so far must the mean weight move from one round to the next.
    for before, after in itertools.pairwise(means):
        if not 0.49 < after - before < 1.51:
            raise ValueError(f"the mean weight went from {before:.3f} to {after:.3f}: a model did not arrive")
    return rounds


def has_ended(marks: Path) -> bool:
    """Whether the server app came to its end."""
    return any(mark["mark"] == "ends" for mark in _marks(marks))


def _marks(path: Path) -> list[dict[str, float | str]]:
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]
