"""What a person at a station sees: results, the bench's table, errors. What a board told is made harmless first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from argosy_common import x509
from argosy_common.errors import ArgosyError
from argosy_provisioning.batch import Place

COMPARE = "Compare it with what the board shows, on its console or in its log (serial.enrolled)."


def clean(text: object) -> str:
    """Return text from elsewhere on one line and without control characters: a terminal obeys escape sequences."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def stderr() -> Console:
    """Return the console for what is said about the data."""
    return Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Say something to the person, beside the data."""
    stderr().print(Text(text, style="dim"))


def print_json(data: object) -> None:
    """Print data as indented JSON."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def print_error(error: ArgosyError) -> None:
    """Print what happened, and what to do."""
    text = Text("✗ ", style="red").append(clean(error.message), style="bold not red")
    text.append(f"\n  {clean(error.remedy_text)}", style="not red").append(f"  [{error.code}]", style="dim not red")
    stderr().print(text)


def result(place: Place) -> dict[str, object]:
    """Return what became of a port, as plain data."""
    if place.error is not None:
        return {"port": place.port, "step": place.step, "error": place.error.to_wire()}
    board = place.enrolled
    if board is None:
        return {"port": place.port, "step": place.step}
    return {
        "port": place.port,
        "device": board.device,
        "fingerprint": x509.in_groups(board.device),
        "name": board.name,
        "site": board.site,
        "model": board.model,
        "operator": board.operator,
        "already": board.already,
        "labels": place.labels,
    }


def bench(places: Iterable[Place]) -> Table:
    """Return the bench as it stands."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("port", "board", "step", "result"):
        table.add_column(column, no_wrap=column == "port", overflow="fold")
    for place in places:
        table.add_row(clean(place.port), clean(place.board) or "–", place.step, _outcome(place))
    return table


def _outcome(place: Place) -> Text:
    if place.error is not None:
        return Text(f"✗ {clean(place.error.message)}", style="red")
    if place.enrolled is None:
        return Text("…", style="dim")
    fingerprint, name = x509.in_groups(place.enrolled.device), clean(place.enrolled.name)
    return Text(f"✓ {fingerprint}  {name}{' (already)' if place.enrolled.already else ''}", style="green")
