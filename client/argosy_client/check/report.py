"""What comes out of `argosy-device check`: a table or JSON, and an error where something is worse than a hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from argosy_client.check.finding import Finding, Severity
from argosy_common.errors import ArgosyError, CheckFailed, CheckWarned

Findings = Sequence[tuple[str, Finding]]

_MARKS = {
    Severity.OK: ("✓", "green"),
    Severity.HINT: ("·", "cyan"),
    Severity.WARNING: ("!", "yellow"),
    Severity.ERROR: ("✗", "red"),
}


def as_json(findings: Findings) -> str:
    """Return the findings for programs; `code` and `remedy` are empty where a check is content."""
    rows = [
        {
            "check": check,
            "severity": str(found.severity),
            "code": found.code,
            "text": found.text,
            "remedy": found.remedy,
        }
        for check, found in findings
    ]
    return json.dumps({"severity": str(_worst(findings)), "findings": rows}, indent=2, ensure_ascii=False)


def as_table(findings: Findings) -> Table:
    """Return the findings for people, with the remedy and the code under each problem."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check, found in findings:
        mark, colour = _MARKS[found.severity]
        text = Text(found.text, style="" if found.code else "dim")
        if found.code:
            text.append(f"  [{found.code}]", style="dim")
            text.append(f"\n{found.remedy}", style="yellow")
        table.add_row(Text(mark, style=colour), check, text)
    return table


def show(findings: Findings, *, json: bool) -> None:
    """Print the findings; colour on a terminal only."""
    if json:
        sys.stdout.write(f"{as_json(findings)}\n")
    else:
        Console(highlight=False, emoji=False, markup=False).print(as_table(findings))


def verdict(findings: Findings) -> ArgosyError | None:
    """Return the error that the command ends with; None where nothing is worse than a hint."""
    codes = {level: [found.code for _, found in findings if found.severity is level] for level in Severity}
    if codes[Severity.ERROR]:
        return CheckFailed(codes=", ".join(codes[Severity.ERROR] + codes[Severity.WARNING]))
    if codes[Severity.WARNING]:
        return CheckWarned(codes=", ".join(codes[Severity.WARNING]))
    return None


def _worst(findings: Findings) -> Severity:
    return max((found.severity for _, found in findings), default=Severity.OK)
