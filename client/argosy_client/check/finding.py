"""What a check says: a problem is declared once, with its code, severity, sentence and remedy; a finding is one met."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How much it matters, rising."""

    OK = 0
    HINT = 1
    """Good to know; the board takes part all the same."""
    WARNING = 2
    """Something does not work, or will soon stop."""
    ERROR = 3
    """The board cannot take part, or not safely."""

    def __str__(self) -> str:
        """Return its name as it is printed."""
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """What one check found. Without a problem there is no code and no remedy."""

    severity: Severity
    text: str
    code: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that may be wrong. `text` and `remedy` have {fields}; the code is stable and never reused."""

    code: str
    severity: Severity
    text: str
    remedy: str

    def found(self, **facts: object) -> Finding:
        """Return the finding of this problem with these facts."""
        return Finding(self.severity, self.text.format_map(facts), self.code, self.remedy.format_map(facts))


def good(text: str) -> Finding:
    """Return what a check says when nothing is wrong."""
    return Finding(Severity.OK, text)
