"""`argosy model rollout|rollouts|status|pause|resume|stop|rollback`: versions of models on their way to the boards."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from argosy_common.clock import SystemClock
from argosy_common.errors import ArgosyError, CoordinatorUnreachable, RolloutRolledBack
from argosy_server.cli import words
from argosy_server.cli.client import AdminClient, Data
from argosy_server.cli.options import JsonOption, SocketOption, connect, examples
from argosy_server.cli.terminal import pairs, print_json, print_json_line, say, stdout, table
from argosy_server.cli.token import parse_ttl
from argosy_server.cli.verbs import YesOption
from argosy_server.cli.words import clean
from argosy_server.paths import find_socket

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


def add_rollout_verbs(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "rollout",
        epilog=examples(
            "argosy model rollout har:3",
            "argosy model rollout har:3 --rings 5%,25%,100% --hold 1h --max-errors 1% --watch",
            "argosy model rollout har:3 --tags canary,lab,field --hold 30m --max-p95 20",
            "argosy model rollout har:3 --rings tag:canary,50%,100% --json | jq .rollout",
        ),
    )(rollout)
    app.command("rollouts", epilog=examples("argosy model rollouts", "argosy model rollouts --json"))(rollouts)
    app.command(
        "status",
        epilog=examples("argosy model status har", "argosy model status 7 --watch", "argosy model status 7 --json"),
    )(status)
    app.command("pause", epilog=examples("argosy model pause har"))(pause)
    app.command("resume", epilog=examples("argosy model resume har", "argosy model resume 7 --watch"))(resume)
    app.command("stop", epilog=examples("argosy model stop har", "argosy model stop 7 --yes"))(stop)
    app.command("rollback", epilog=examples("argosy model rollback har", "argosy model rollback har:1 --yes"))(rollback)


def parse_share(text: str | float) -> float:
    """Return the share that `5%` or `0.05` names."""
    try:
        value = float(str(text).removesuffix("%")) / (100 if str(text).endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"'{text}' is no share: write it as 5% or 0.05")
    return value


def complete_rollouts(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the numbers of rollouts, the latest first, and the names of their models."""
    socket = ctx.params.get("socket")
    try:
        with AdminClient(Path(socket) if socket else find_socket(), timeout_s=1.0) as api:
            rows: list[Data] = api.get("/rollouts")["rollouts"]
    except ArgosyError:
        return []
    names = {clean(row["name"]): f"its latest rollout is {row['state']}" for row in rows}
    numbers = [(str(row["rollout"]), f"{clean(row['model'])}, {row['state']}") for row in reversed(rows)]
    return [pair for pair in [*names.items(), *numbers] if pair[0].startswith(incomplete)]


KeyArgument = Annotated[
    str,
    typer.Argument(
        help="The rollout's number, or the model's name for its latest one.",
        autocompletion=complete_rollouts,
        metavar="ROLLOUT",
    ),
]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Watch it; Ctrl-C leaves it going.")]


def rollout(
    model: Annotated[str, typer.Argument(help="The version, or a name for its newest one.", metavar="NAME:VERSION")],
    *,
    rings: Annotated[
        str | None,
        typer.Option(help="Shares of the fleet, or tag:NAME, one after the other.", show_default="5%,25%,100%"),
    ] = None,
    tags: Annotated[str | None, typer.Option(help="Tags, one after the other, instead of shares.")] = None,
    hold: Annotated[
        int, typer.Option(parser=parse_ttl, metavar="TIME", help="The least time in each ring: 90s, 10m, 1h.")
    ] = "10m",  # type: ignore[assignment]  # the parser makes it the int
    least_active: Annotated[
        float, typer.Option(parser=parse_share, metavar="SHARE", help="Of a ring's reachable devices, to go on.")
    ] = "90%",  # type: ignore[assignment]  # likewise
    max_errors: Annotated[
        float,
        typer.Option(parser=parse_share, metavar="SHARE", help="Of devices, or of requests: more, and it goes back."),
    ] = "2%",  # type: ignore[assignment]  # likewise
    max_p95: Annotated[float | None, typer.Option(help="Milliseconds; a device above it counts as failed.")] = None,
    watch: WatchOption = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Roll a version out, ring by ring. It goes back by itself where it fails."""
    if rings and tags:
        raise typer.BadParameter("name rings or tags, not both; a ring may be tag:NAME")
    named = [f"tag:{each}" for each in tags.split(",")] if tags else (rings or "5%,25%,100%").split(",")
    common: Data = {"hold_s": hold, "least_active": least_active, "max_errors": max_errors, "max_p95_ms": max_p95}
    body = {"model": model, "rings": [{**_ring(each.strip()), **common} for each in named]}
    with connect(socket) as api:
        row = api.post("/rollouts", body)
        _told(api, row, f"Rollout {row['rollout']} of {clean(row['model'])} begins.", watch=watch, json=json)


def _ring(text: str) -> Data:
    if text.startswith("tag:") and len(text) > 4:
        return {"tag": text.removeprefix("tag:")}
    return {"share": parse_share(text)}


def rollouts(socket: SocketOption = None, json: JsonOption = False) -> None:
    """List the rollouts, the newest last."""
    with connect(socket) as api:
        rows: list[Data] = api.get("/rollouts")["rollouts"]
    if json:
        print_json(rows)
        return
    if not rows:
        say("There are no rollouts. Start one with `argosy model rollout NAME:VERSION`.")
        return
    now = SystemClock().wall()
    shown = table("rollout", "model", "state", "ring", "devices", "since", "why", right=["rollout"], give="why")
    for row in rows:
        shown.add_row(
            Text(str(row["rollout"]), style="bold"),
            clean(row["model"]),
            _state(row["state"]),
            _ring_text(row),
            _counts(row),
            words.age(row["since"], now),
            clean(row["why"] or row["waits_for"]),
        )
    stdout().print(shown)


def status(key: KeyArgument, watch: WatchOption = False, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show a rollout: where it stands, what it waits for, and how each device fares with it."""
    with connect(socket) as api:
        row = api.get(f"/rollouts/{quote(key, safe='')}")
        if watch:
            _watched(api, row, json=json)
        elif json:
            print_json(row)
        else:
            _show(row)


def pause(key: KeyArgument, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Admit no more devices, and send nothing. Failures still take the version back."""
    with connect(socket) as api:
        row = _verb(api, key, "pause")
        _told(api, row, f"Rollout {row['rollout']} pauses; `argosy model resume` goes on.", watch=False, json=json)


def resume(key: KeyArgument, watch: WatchOption = False, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Go on with a paused rollout. Its ring's time begins again."""
    with connect(socket) as api:
        row = _verb(api, key, "resume")
        _told(api, row, f"Rollout {row['rollout']} goes on.", watch=watch, json=json)


def stop(
    key: KeyArgument,
    yes: YesOption = False,
    watch: WatchOption = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Take the version back everywhere, at once: each board returns to the version before."""
    with connect(socket) as api:
        found = api.get(f"/rollouts/{quote(key, safe='')}")
        before = "no model at all" if found["previous"] is None else f"version {found['previous']}"
        _confirm(f"Have every board go back from {clean(found['model'])} to {before}?", yes=yes)
        row = _verb(api, str(found["rollout"]), "stop")
        _told(api, row, f"The boards go back to {before}.", watch=watch, json=json, back=True)


def rollback(
    model: Annotated[
        str,
        typer.Argument(help="The model, to go to the version before; or a lower version.", metavar="NAME[:VERSION]"),
    ],
    yes: YesOption = False,
    watch: WatchOption = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Have all boards go back, to the version before or to a lower one. Boards do so for a signed rollback only."""
    with connect(socket) as api:
        _confirm(f"Have every board go back: {clean(model)}?", yes=yes)
        row = api.post("/rollouts/rollback", {"model": model})
        _told(api, row, f"Rollout {row['rollout']} takes the boards back.", watch=watch, json=json, back=True)


def _confirm(question: str, *, yes: bool) -> None:
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)


def _verb(api: AdminClient, key: str, verb: str) -> Data:
    return api.post(f"/rollouts/{quote(key, safe='')}/{verb}")


def _told(api: AdminClient, row: Data, text: str, *, watch: bool, json: bool, back: bool = False) -> None:
    if watch:
        _watched(api, row, json=json, back=back)
    elif json:
        print_json(row)
    else:
        stdout().print(Text(text))
        say(f"Follow it with `argosy model status {row['rollout']} --watch`.")


def _watched(api: AdminClient, row: Data, *, json: bool, back: bool = False) -> None:
    """Watch it; Ctrl-C ends the watching, and not the rollout."""
    try:
        _watch(api, row, json=json, back=back)
    except KeyboardInterrupt:
        say(f"Rollout {row['rollout']} goes on. Watch it with `argosy model status {row['rollout']} --watch`.")


def _watch(api: AdminClient, row: Data, *, json: bool, back: bool = False) -> None:
    """Print a line at each change until the rollout is over; one that was rolled back is an error, unless so wanted.

    A coordinator that restarts meanwhile is waited for.
    """
    last, heard_at = "", time.monotonic()
    while True:
        line = _line(row)
        if json and line != last:
            print_json_line(row)
        elif line != last:
            stdout().print(Text.assemble((words.local_time(row["since"], date=False), "dim"), "  ", line))
        last = line
        if row["state"] in OVER:
            break
        time.sleep(POLL_S)
        try:
            row, heard_at = api.get(f"/rollouts/{row['rollout']}"), time.monotonic()
        except CoordinatorUnreachable:
            if time.monotonic() - heard_at > PATIENCE_S:
                raise
    if row["state"] == "rolled-back" and not back:
        raise RolloutRolledBack(model=row["model"], why=clean(row["why"]), rollout=row["rollout"])


def _line(row: Data) -> str:
    about = clean(row["why"]) if row["state"].startswith("roll") else ""
    return "  ".join(each for each in (row["state"], f"ring {_ring_text(row)}", _counts(row), about) if each)


def _show(row: Data) -> None:
    now = SystemClock().wall()
    facts: list[tuple[str, Text | str | None]] = [
        ("rollout", Text(str(row["rollout"]), style="bold")),
        ("model", clean(row["model"])),
        ("before", "no model" if row["previous"] is None else f"version {row['previous']}"),
        ("state", _state(row["state"])),
        ("rings", _ring_text(row)),
        ("devices", _counts(row)),
        ("since", words.age(row["since"], now)),
        ("waits for", clean(row["waits_for"])),
        ("why", clean(row["why"])),
    ]
    console = stdout()
    console.print(pairs([(name, value) for name, value in facts if value]))
    if not row["devices"]:
        return
    console.print()
    right = ["in force", "p95 ms", "requests", "errors"]
    shown = table(
        "device", "state", "in force", "backend", "p95 ms", "requests", "errors", "why", right=right, give="why"
    )
    for each in row["devices"]:
        error = each["error"] or {}
        shown.add_row(
            clean(each["name"]),
            _state(each["state"]),
            str(each.get("in_force") or words.NONE),
            " ".join(clean(each.get(name) or "") for name in ("backend", "ran_on")).strip() or words.NONE,
            words.NONE if each.get("p95_ms") is None else f"{each['p95_ms']:.2f}",
            str(each.get("requests") or 0),
            str(each.get("errors") or 0),
            clean(error.get("message", "")),
            style=None if each["online"] else "dim",
        )
    console.print(shown)


def _state(state: str) -> Text:
    return Text(state, style=STYLE.get(state, ""))


def _ring_text(row: Data) -> str:
    """Return the rings with the present one in brackets: `5% [25%] 100%`."""
    over = row["state"] == "finished"
    names = [clean(ring["text"]) for ring in row["rings"]]
    return " ".join(f"[{name}]" if place == row["ring"] and not over else name for place, name in enumerate(names))


def _counts(row: Data) -> str:
    """Return what became of how many devices, of those that the rings so far allow: `2 active, 1 refused of 4`."""
    told = ", ".join(f"{count} {state}" for state, count in row["counts"].items())
    return f"{told or 'none yet'} of {row['allowed']}"
