"""Lines of an inertial sensor as samples. Pure: bytes in, samples out, whatever the cable does to them.

A line is six numbers and a line feed, `ax,ay,az,gx,gy,gz`: acceleration in g, gravity included, and rotation in rad/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

AXES = 6
LONGEST_LINE = 256
"""Bytes; what is longer is noise, and is skipped up to the next line feed."""
_MOST = (16.0, 16.0, 16.0, 40.0, 40.0, 40.0)
"""No sensor for people measures more; a digit that the cable made does."""

Sample = tuple[float, ...]


@dataclass
class LineReader:
    """Puts lines together and reads them. What makes no sense is counted and left out."""

    good: int = 0
    bad: int = 0
    _rest: bytearray = field(default_factory=bytearray)
    _skipping: bool = True
    """Up to the next line feed: the first line was probably begun before we came."""

    def feed(self, data: bytes) -> list[Sample]:
        """Take bytes as they come; return the samples that are whole."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        found = [sample for line in lines if (sample := self._line(bytes(line))) is not None]
        self._rest = rest
        if len(rest) > LONGEST_LINE:
            self._rest, self._skipping = bytearray(), True
            self.bad += 1
        return found

    def reset(self) -> None:
        """Begin anew, as after the cable was out."""
        self._rest, self._skipping = bytearray(), True

    def _line(self, line: bytes) -> Sample | None:
        if self._skipping:
            self._skipping = False
            return None
        sample = parse(line)
        self.good += sample is not None
        self.bad += sample is None
        return sample


def parse(line: bytes) -> Sample | None:
    """Return the sample of a line; None where it is none."""
    try:
        numbers = tuple(float(word) for word in line.strip().split(b","))
    except ValueError:
        return None
    if len(numbers) != AXES or not all(math.isfinite(each) for each in numbers):
        return None
    return numbers if all(abs(each) <= most for each, most in zip(numbers, _MOST, strict=True)) else None
