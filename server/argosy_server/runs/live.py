"""One row a device of a run, folded from the run's events: what it does now and what it has cost so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class LiveDevice:
    """A device's part in a run. Seconds and bytes are sums over the run, except `last_seconds`."""

    device: str
    round: int | None = None
    phase: str = ""
    waiting: bool = False
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0
    via: str = ""
    """By which way its last large blob came: `https`, `mqtt`."""
    error: dict[str, Any] | None = None


class LiveRun:
    """The fold. `apply` takes events in their order; anything it does not know changes nothing."""

    def __init__(self) -> None:
        self._devices: dict[str, LiveDevice] = {}

    def apply(self, name: str, data: Mapping[str, Any]) -> None:
        """Take one event in."""
        if name == "phase-started":
            for device in data["devices"]:
                row = self._devices.setdefault(device, LiveDevice(device))
                row.round, row.phase, row.waiting = data["round"], data["phase"], True
        elif name == "device-reply":
            row = self._devices.setdefault(data["device"], LiveDevice(data["device"]))
            row.waiting = False
            row.bytes_up += int(data.get("bytes_up", 0))
            row.bytes_down += int(data.get("bytes_down", 0))
            row.last_seconds = float(data["seconds"])
            row.seconds += row.last_seconds
            row.via = str(data.get("via") or row.via)
            row.error = data["error"]
        elif name in ("run-resumed", "run-finished"):
            for row in self._devices.values():
                row.waiting = False

    def rows(self, name_of: Callable[[str], str], doing: Callable[[str], str]) -> list[dict[str, object]]:
        """Return the rows for the admin API, by name; `doing` tells what a device that owes an answer is at."""
        rows: list[dict[str, object]] = [
            {
                "device": row.device,
                "name": name_of(row.device),
                "doing": f"{row.phase}: {doing(row.device) or 'away'}" if row.waiting else "idle",
                "round": row.round,
                "bytes_up": row.bytes_up,
                "bytes_down": row.bytes_down,
                "seconds": row.seconds,
                "last_seconds": row.last_seconds,
                "via": row.via,
                "error": row.error,
            }
            for row in list(self._devices.values())  # a copy: the run goes on meanwhile
        ]
        return sorted(rows, key=lambda row: str(row["name"]))
