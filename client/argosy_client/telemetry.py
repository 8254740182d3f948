"""Load, memory, heat and power of the board, read from /proc and /sys (under an injectable root, for tests).

What cannot be read on a board, or makes no sense, is None: a heartbeat without a thermometer is still a heartbeat.
"""

from __future__ import annotations

import math
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
_PLAUSIBLE = (-60.0, 200.0)
"""°C; thermal zones of absent sensors report −273 or huge values."""
_THROTTLED_NOW = 0x1 | 0x2 | 0x4 | 0x8
"""Of a Raspberry Pi's firmware: under-voltage, frequency capped, throttled, soft limit of temperature. The bits from
0x10000 on tell the same of the time since it booted, which is no reason to spare it now."""


@dataclass(frozen=True)
class Vitals:
    """One reading. Memory in bytes, temperature in °C of the hottest zone, load of one minute per core.

    `battery` is how full it is, 0 to 1, the mean where there are several. `on_mains` tells whether there is power from
    outside, `throttled` whether the board slows itself down, for heat or for want of power.
    """

    load: float | None
    memory_used: int | None
    memory_total: int | None
    temperature: float | None
    rss: int | None
    battery: float | None
    on_mains: bool | None
    throttled: bool | None


@dataclass(frozen=True)
class Telemetry:
    """Reads the board's vital signs under `root`."""

    root: Path = Path("/")

    def read(self) -> Vitals:
        """Take a reading; never raises."""
        total, available = self._meminfo("MemTotal"), self._meminfo("MemAvailable")
        supplies = self._supplies()
        return Vitals(
            load=self._load(),
            memory_used=max(0, total - available) if total is not None and available is not None else None,
            memory_total=total,
            temperature=self._temperature(),
            rss=self._rss(),
            battery=_battery(supplies),
            on_mains=_on_mains(supplies),
            throttled=self._throttled(),
        )

    def _text(self, path: str | Path) -> str:
        try:
            return (self.root / path).read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def _found(self, folder: str, pattern: str) -> list[Path]:
        """Return the paths below `folder` that fit, from the root on, sorted."""
        try:
            return sorted(path.relative_to(self.root) for path in (self.root / folder).glob(pattern))
        except OSError:
            return []

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
        readings = [_number(self._text(zone)) for zone in self._found("sys/class/thermal", "thermal_zone*/temp")]
        celsius = [reading / 1000 for reading in readings if reading is not None]
        return max((each for each in celsius if _PLAUSIBLE[0] < each < _PLAUSIBLE[1]), default=None)

    def _rss(self) -> int | None:
        found = re.search(r"^VmRSS:\s+(\d+) kB$", self._text("proc/self/status"), re.MULTILINE)
        return int(found[1]) * KIB if found else None

    def _supplies(self) -> list[_Supply]:
        """Return what the board may be powered by; the battery of a mouse or a keyboard is none of it."""
        supplies = []
        for folder in self._found("sys/class/power_supply", "*"):
            words = {
                name: self._text(folder / name).strip() for name in ("type", "scope", "capacity", "online", "status")
            }
            if words["scope"] != "Device":
                supplies.append(_Supply(words["type"], words["capacity"], words["online"], words["status"]))
        return supplies

    def _throttled(self) -> bool | None:
        firmware = self._text("sys/devices/platform/soc/soc:firmware/get_throttled").strip()
        if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", firmware):
            return bool(int(firmware, 16) & _THROTTLED_NOW)
        capped = []
        for policy in self._found("sys/devices/system/cpu/cpufreq", "policy*"):
            allowed, able = (_number(self._text(policy / f"{name}_max_freq")) for name in ("scaling", "cpuinfo"))
            if allowed is not None and able is not None:
                capped.append(allowed < able)
        return any(capped) if capped else None


@dataclass(frozen=True)
class _Supply:
    """One entry of /sys/class/power_supply, as it stands there; what it does not have is empty."""

    type: str
    capacity: str
    online: str
    status: str


def _battery(supplies: Sequence[_Supply]) -> float | None:
    readings = [_number(supply.capacity) for supply in supplies if supply.type == "Battery"]
    levels = [reading / 100 for reading in readings if reading is not None and 0 <= reading <= 100]
    return statistics.fmean(levels) if levels else None


def _on_mains(supplies: Sequence[_Supply]) -> bool | None:
    """Tell whether there is power from outside; None where no supply says so or the contrary."""
    outer = [supply.online for supply in supplies if supply.type == "Mains" or supply.type.startswith("USB")]
    inner = [supply.status for supply in supplies if supply.type == "Battery"]
    if {"1", "2"} & set(outer) or {"Charging", "Full"} & set(inner):  # 2: online, and its voltage can be set
        return True
    return False if "0" in outer or "Discharging" in inner else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
