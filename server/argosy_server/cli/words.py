"""Numbers and times as a person reads them, and text from elsewhere made harmless. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB")
_BLOCKS = "▁▂▃▄▅▆▇█"
_DRAWABLE = 1e100
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NONE = "–"


def clean(text: object) -> str:
    """Return text that came from a device or an app on one line and without control characters.

    A terminal obeys escape sequences; a board's name must not be able to give it orders.
    """
    return "".join(char if char.isprintable() else " " for char in str(text))


def clean_log(text: str, *, colour: bool) -> str:
    """Return log text with its line breaks and, if wanted, its colours, but with no other control sequence."""
    kept = _COLOUR.findall(text) if colour else []
    parts = _COLOUR.split(text)
    safe = ["".join(char if char.isprintable() or char in "\n\t" else "" for char in part) for part in parts]
    return "".join(piece + (kept[i] if i < len(kept) else "") for i, piece in enumerate(safe))


def size(count: float | None) -> str:
    """Return bytes in decimal units, three digits: `0 B`, `1.52 MB`, `640 kB`."""
    if count is None:
        return NONE
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    digits = 0 if unit == "B" or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def times(ratio: float) -> str:
    """Return a ratio with two to three digits: `1.02`, `10.9`, `160`."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"


TRUSTED = "no operator's key: coordinator trusted at enrolment"
"""What is said of a secure run without a fleet list (specs/secure-aggregation.md, 2)."""


def secure_text(secure: Mapping[str, object]) -> str:
    """Return who vouches for the devices of a secure run."""
    version = secure.get("fleet")
    listed = TRUSTED if version is None else f"devices listed by the operator, fleet list version {version}"
    return f"Secure aggregation; {listed}."


def straggler_text(settings: Mapping[str, Any]) -> str:
    """Return in a sentence what a run does about slow devices; `settings` are a `StragglerSettings`."""
    if settings["mode"] == "async":
        return f"No rounds: {settings['buffer']} updates make a step, the older the lighter."
    quorum, deadline = settings["quorum"], settings["deadline"]
    who = f"{quorum} devices" if isinstance(quorum, int) else f"{quorum:.0%} of those wanted"
    when = "on time, by what devices of this run take" if deadline == "auto" else f"after {deadline:g} s"
    return f"Rounds end {when}, once {who} have answered."


def codec_text(codec: Mapping[str, object] | None) -> str:
    """Return a run's codecs: `eden:2 up, int8 down`; nothing where there is none."""
    named = [f"{clean(codec[way])} {way}" for way in ("up", "down") if codec and codec.get(way, "none") != "none"]
    arrays = len(tuple(codec.get("arrays") or ())) if codec else 0  # type: ignore[arg-type]  # a list, from JSON
    return ", ".join(named) or ("by array" if arrays else "")


def duration(seconds: float | None) -> str:
    """Return a length of time: `0.42 s`, `12.3 s`, `2:31`, `1:02:03`."""
    if seconds is None:
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def running_time(seconds: float) -> str:
    """Return a time that is still running, in whole seconds, so that it ticks and does not flicker."""
    return f"{int(seconds)} s" if seconds < 60 else duration(int(seconds))


def parse_time(text: object) -> datetime | None:
    """Return the time an API field tells, or None where it tells none."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def age(text: object, now: datetime) -> str:
    """Return how long ago an ISO time was: `now`, `12 s ago`, `5 min ago`, `3 h ago`, `4 d ago`; or `in 3 h`."""
    at = parse_time(text)
    if at is None:
        return NONE
    seconds = (now - at).total_seconds()
    if abs(seconds) < 2:
        return "now"
    span = _span(abs(seconds))
    return f"{span} ago" if seconds > 0 else f"in {span}"


def _span(seconds: float) -> str:
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds // 86400)} d"


def local_time(text: object, *, date: bool = True) -> str:
    """Return an ISO time in the reader's zone: `2026-03-01 14:05:09`."""
    at = parse_time(text)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S") if at else NONE


def number(value: object) -> str:
    """Return a metric so that a column of them lines up: four decimals, or four digits when it is large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return clean(value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the course of `values` in at most `width` small blocks; older values are averaged together."""
    known = [value for value in values if abs(value) < _DRAWABLE]  # not NaN, not infinite, and sums stay finite
    if len(known) < 2:
        return ""
    if len(known) > width:
        edges = [round(i * len(known) / width) for i in range(width + 1)]
        known = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(known), max(known)
    if high == low:
        return _BLOCKS[3] * len(known)
    return "".join(_BLOCKS[min(7, int((value - low) / (high - low) * 8))] for value in known)


def ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers shortly: `1–3, 5`."""
    runs: list[list[int]] = []
    for value in sorted(set(numbers)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def count(amount: int, noun: str) -> str:
    """Return `1 device`, `3 devices`."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
