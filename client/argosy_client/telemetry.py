"""Load, memory and temperature of the board, read from /proc and /sys (under an injectable root, for tests).

What cannot be read on a board, or makes no sense, is None: a heartbeat without a thermometer is still a heartbeat.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
_PLAUSIBLE = (-60.0, 200.0)
"""°C; thermal zones of absent sensors report −273 or huge values."""


@dataclass(frozen=True)
class Vitals:
    """One reading. Memory in bytes, temperature in °C of the hottest zone, load of one minute per core."""

    load: float | None
    memory_used: int | None
    memory_total: int | None
    temperature: float | None
    rss: int | None


@dataclass(frozen=True)
class Telemetry:
    """Reads the board's vital signs under `root`."""

    root: Path = Path("/")

    def read(self) -> Vitals:
        """Take a reading; never raises."""
        total, available = self._meminfo("MemTotal"), self._meminfo("MemAvailable")
        return Vitals(
            load=self._load(),
            memory_used=max(0, total - available) if total is not None and available is not None else None,
            memory_total=total,
            temperature=self._temperature(),
            rss=self._rss(),
        )

    def _text(self, path: str | Path) -> str:
        try:
            return (self.root / path).read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def _load(self) -> float | None:
        words = self._text("proc/loadavg").split()
        load = _number(words[0]) if words else None
        return None if load is None or load < 0 else load / self._cores()

    def _cores(self) -> int:
        """Count the processors that are online; `0-3,6` are five."""
        count = 0
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", self._text("sys/devices/system/cpu/online")):
            count += int(last or first) - int(first) + 1
        return count if count > 0 else os.cpu_count() or 1

    def _meminfo(self, name: str) -> int | None:
        found = re.search(rf"^{name}:\s+(\d+) kB$", self._text("proc/meminfo"), re.MULTILINE)
        return int(found[1]) * KIB if found else None

    def _temperature(self) -> float | None:
        try:
            zones = sorted((self.root / "sys/class/thermal").glob("thermal_zone*/temp"))
        except OSError:
            return None
        readings = [_number(self._text(zone.relative_to(self.root))) for zone in zones]
        celsius = [reading / 1000 for reading in readings if reading is not None]
        return max((each for each in celsius if _PLAUSIBLE[0] < each < _PLAUSIBLE[1]), default=None)

    def _rss(self) -> int | None:
        found = re.search(r"^VmRSS:\s+(\d+) kB$", self._text("proc/self/status"), re.MULTILINE)
        return int(found[1]) * KIB if found else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
