"""Where and how things are printed: consoles, tables, JSON, errors. Colour on a terminal only, never with NO_COLOR."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from argosy_common.errors import ArgosyError, Fault
from argosy_server.cli.words import clean

_PIPED_WIDTH = 240
"""Columns for what is not a terminal: a table in a pipe must not be cut at eighty."""
_GAP = 3
"""Columns between those of a table."""


def stdout() -> Console:
    """Return the console for data."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, emoji=False, markup=False, width=_PIPED_WIDTH if piped else None)


def stderr() -> Console:
    """Return the console for what is said about the data."""
    return Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Say something to the person, beside the data."""
    stderr().print(Text(text, style="dim"))


def print_json(data: object) -> None:
    """Print data as indented JSON, coloured on a terminal."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if sys.stdout.isatty():
        Console(emoji=False).print_json(text, ensure_ascii=False)
    else:
        sys.stdout.write(f"{text}\n")


def print_json_line(data: object) -> None:
    """Print data as one line of JSON, at once: a program reads it as it comes."""
    sys.stdout.write(f"{json.dumps(data, ensure_ascii=False)}\n")
    sys.stdout.flush()


def table(*columns: str, right: Sequence[str] = (), give: str | None = None) -> Table:
    """Return a quiet table: no lines, grey heads.

    Numbers in the columns `right` are right-aligned; `give` is the column that gives way when it gets narrow.
    """
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if name == give else None,
            min_width=None if name == give else len(name),
        )
    return made


def firm(made: Table, *, give: str, width: int) -> Table:
    """Return the table with every column as wide as its widest cell but `give`, which gets what is left of `width`."""
    left = width
    for column in made.columns:
        if column.header != give:
            cells = [cell.plain if isinstance(cell, Text) else str(cell) for cell in (column.header, *column.cells)]
            column.min_width = max(cell_len(cell) for cell in cells)
            left -= column.min_width + _GAP
    for column in made.columns:
        if column.header == give:  # wider, and rich would take the room from all columns alike
            column.max_width = max(len(give), left)
    return made


def pairs(rows: Sequence[tuple[str, Text | str]]) -> Table:
    """Return named values, one a line."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    return grid


def error_text(error: ArgosyError) -> Text:
    """Return an error as a person should meet it: what happened, and what to do."""
    text = Text()
    text.append("✗ ", style="red")
    text.append(clean(error.message), style="bold")
    text.append(f"\n  {clean(error.remedy_text)}")
    text.append(f"  [{error.code}]", style="dim")
    return text


def print_error(error: ArgosyError) -> None:
    """Print an error on stderr; for a bug of ours, the traceback before it, since it goes into the report."""
    if error.fault is Fault.BUG and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    stderr().print(error_text(error))
