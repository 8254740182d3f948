"""What the commands for rollouts of models and of the devices' packages share: rings, their options, watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from argosy_common.errors import CoordinatorUnreachable
from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.terminal import print_json_line, say, stdout
from argosy_server.cli.token import parse_ttl
from argosy_server.cli.words import clean

STYLE = {
    "running": "cyan",
    "paused": "yellow",
    "finished": "green",
    "rolling-back": "yellow",
    "rolled-back": "red",
    "active": "green",
    "refused": "red",
}
OVER = ("finished", "rolled-back")
POLL_S = 0.5
PATIENCE_S = 60.0
"""How long a watched coordinator may be away."""


def parse_share(text: str | float) -> float:
    """Return the share that `5%` or `0.05` names."""
    try:
        value = float(str(text).removesuffix("%")) / (100 if str(text).endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"'{text}' is no share: write it as 5% or 0.05")
    return value


RingsOption = Annotated[
    str | None,
    typer.Option(help="Shares of the fleet, or tag:NAME, one after the other.", show_default="5%,25%,100%"),
]
TagsOption = Annotated[str | None, typer.Option(help="Tags, one after the other, instead of shares.")]
HoldOption = Annotated[
    int, typer.Option(parser=parse_ttl, metavar="TIME", help="The least time in each ring: 90s, 10m, 1h.")
]
LeastActiveOption = Annotated[
    float, typer.Option(parser=parse_share, metavar="SHARE", help="Of a ring's reachable devices, to go on.")
]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Watch it; Ctrl-C leaves it going.")]


def parse_rings(rings: str | None, tags: str | None, common: Data) -> list[Data]:
    """Return the rings as the API takes them, each with what is `common` to all."""
    if rings and tags:
        raise typer.BadParameter("name rings or tags, not both; a ring may be tag:NAME")
    named = [f"tag:{each}" for each in tags.split(",")] if tags else (rings or "5%,25%,100%").split(",")
    return [{**_ring(each.strip()), **common} for each in named]


def _ring(text: str) -> Data:
    if text.startswith("tag:") and len(text) > 4:
        return {"tag": text.removeprefix("tag:")}
    return {"share": parse_share(text)}


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person; a script has meant it."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)


def watched(again: Callable[[], Data], row: Data, *, json: bool, goes_on: str) -> Data:
    """Print a line at each change until it is over; return how it ended. Ctrl-C ends the watching, and says `goes_on`.

    A coordinator that restarts meanwhile is waited for.
    """
    try:
        return _watch(again, row, json=json)
    except KeyboardInterrupt:
        say(goes_on)
        return row


def _watch(again: Callable[[], Data], row: Data, *, json: bool) -> Data:
    last, heard_at = "", time.monotonic()
    while True:
        line = _line(row)
        if json and line != last:
            print_json_line(row)
        elif line != last:
            stdout().print(Text.assemble((words.local_time(row["since"], date=False), "dim"), "  ", line))
        last = line
        if row["state"] in OVER:
            return row
        time.sleep(POLL_S)
        try:
            row, heard_at = again(), time.monotonic()
        except CoordinatorUnreachable:
            if time.monotonic() - heard_at > PATIENCE_S:
                raise


def _line(row: Data) -> str:
    about = clean(row["why"]) if row["state"].startswith("roll") else ""
    return "  ".join(each for each in (row["state"], f"ring {ring_text(row)}", counts_text(row), about) if each)


def state_text(state: str) -> Text:
    """Return the state of a rollout, or of a device in it."""
    return Text(state, style=STYLE.get(state, ""))


def ring_text(row: Data) -> str:
    """Return the rings with the present one in brackets: `5% [25%] 100%`."""
    over = row["state"] == "finished"
    names = [clean(ring["text"]) for ring in row["rings"]]
    return " ".join(f"[{name}]" if place == row["ring"] and not over else name for place, name in enumerate(names))


def counts_text(row: Data) -> str:
    """Return what became of how many devices, of those that the rings so far allow: `2 active, 1 refused of 4`."""
    told = ", ".join(f"{count} {state}" for state, count in row["counts"].items())
    return f"{told or 'none yet'} of {row['allowed']}"
