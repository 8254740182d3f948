"""One phase of a round (train, evaluate, query) as it goes: who was asked, who answered, what it came to.

Pure: it takes what happened and returns the data of events; it knows no Flower and no channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from argosy_common.errors import ArgosyError

WEIGHT = "num-examples"


@dataclass
class Phase:
    """A phase from its first message to its last answer. Durations in seconds, sizes in bytes."""

    round: int | None
    name: str
    devices: list[str]
    started_at: float
    replied: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    failures: dict[str, ArgosyError] = field(default_factory=dict)
    _metrics: list[Mapping[str, float]] = field(default_factory=list)

    def started(self) -> dict[str, object]:
        """Return the data of `phase-started`."""
        return {"round": self.round, "phase": self.name, "devices": list(self.devices)}

    def add(
        self,
        device: str,
        *,
        seconds: float,
        error: ArgosyError | None,
        facts: Mapping[str, float | str],
        metrics: Mapping[str, float],
    ) -> dict[str, object]:
        """Count one answer; return the data of `device-reply`."""
        self.bytes_down += int(facts.get("bytes_down", 0))
        self.bytes_up += int(facts.get("bytes_up", 0))
        if error is None:
            self.replied += 1
            self._metrics.append(metrics)
        else:
            self.failures[device] = error
        return self._answer(device, seconds, error, facts)

    def late(
        self,
        device: str,
        *,
        seconds: float,
        late_s: float,
        error: ArgosyError | None,
        facts: Mapping[str, float | str],
    ) -> dict[str, object]:
        """Return the data of `device-late`: an answer `late_s` seconds after the phase was over. It is not counted."""
        return {**self._answer(device, seconds, error, facts), "late_s": late_s}

    def _answer(
        self, device: str, seconds: float, error: ArgosyError | None, facts: Mapping[str, float | str]
    ) -> dict[str, object]:
        return {
            "round": self.round,
            "phase": self.name,
            "device": device,
            "seconds": seconds,
            **facts,
            "error": error.to_wire() if error else None,
        }

    def finished(self, now: float) -> dict[str, object]:
        """Return the data of `phase-finished`."""
        return {
            "round": self.round,
            "phase": self.name,
            "seconds": now - self.started_at,
            "sent": len(self.devices),
            "replied": self.replied,
            "failed": len(self.failures),
            "metrics": weighted_mean(self._metrics),
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }

    def causes(self) -> str:
        """Return the failures in one line: `device: message; …`."""
        told = [f"{device}: {error.message.rstrip('.')}" for device, error in sorted(self.failures.items())]
        shown = "; ".join(told[:5])
        return f"{shown}; and {len(told) - 5} more" if len(told) > 5 else shown or "nobody answered"


def weighted_mean(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all devices report, weighted by `num-examples` (1 where it is missing).

    The weights' sum is reported under `num-examples` itself when every device reports it. A device that reports nothing
    at all, as one does that lacks the model and is asked again, is left out.
    """
    rows = [row for row in metrics if row]
    if not rows:
        return {}
    weights = [max(float(row.get(WEIGHT, 1.0)), 0.0) for row in rows]
    total = sum(weights)
    common = set(rows[0]).intersection(*rows[1:])
    means = {
        name: sum(weight * row[name] for weight, row in zip(weights, rows, strict=True)) / total
        for name in sorted(common - {WEIGHT})
        if total > 0
    }
    return {**means, WEIGHT: total} if WEIGHT in common else means
