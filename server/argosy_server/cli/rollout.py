"""`argosy model rollout|rollouts|status|pause|resume|stop|rollback`: versions of models on their way to the boards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from argosy_common.clock import SystemClock
from argosy_common.errors import ArgosyError, RolloutRolledBack
from argosy_server.cli import words
from argosy_server.cli.client import AdminClient, Data
from argosy_server.cli.options import JsonOption, SocketOption, connect, examples
from argosy_server.cli.rings import (
    HoldOption,
    LeastActiveOption,
    RingsOption,
    TagsOption,
    WatchOption,
    confirm,
    counts_text,
    parse_rings,
    parse_share,
    ring_text,
    state_text,
    watched,
)
from argosy_server.cli.terminal import pairs, print_json, say, stdout, table
from argosy_server.cli.verbs import YesOption
from argosy_server.cli.words import clean
from argosy_server.paths import find_socket


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


def rollout(
    model: Annotated[str, typer.Argument(help="The version, or a name for its newest one.", metavar="NAME:VERSION")],
    *,
    rings: RingsOption = None,
    tags: TagsOption = None,
    hold: HoldOption = "10m",  # type: ignore[assignment]  # the parser makes it the int
    least_active: LeastActiveOption = "90%",  # type: ignore[assignment]  # likewise
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
    common: Data = {"hold_s": hold, "least_active": least_active, "max_errors": max_errors, "max_p95_ms": max_p95}
    body = {"model": model, "rings": parse_rings(rings, tags, common)}
    with connect(socket) as api:
        row = api.post("/rollouts", body)
        _told(api, row, f"Rollout {row['rollout']} of {clean(row['model'])} begins.", watch=watch, json=json)


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
            state_text(row["state"]),
            ring_text(row),
            counts_text(row),
            words.age(row["since"], now),
            clean(row["why"] or row["waits_for"]),
        )
    stdout().print(shown)


def status(key: KeyArgument, watch: WatchOption = False, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show a rollout: where it stands, what it waits for, and how each device fares with it."""
    with connect(socket) as api:
        row = api.get(f"/rollouts/{quote(key, safe='')}")
        if watch:
            _watched(api, row, json=json, back=False)
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
        confirm(f"Have every board go back from {clean(found['model'])} to {before}?", yes=yes)
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
        confirm(f"Have every board go back: {clean(model)}?", yes=yes)
        row = api.post("/rollouts/rollback", {"model": model})
        _told(api, row, f"Rollout {row['rollout']} takes the boards back.", watch=watch, json=json, back=True)


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


def _watched(api: AdminClient, row: Data, *, json: bool, back: bool) -> None:
    """Watch it; one that was rolled back is an error, unless so wanted."""
    goes_on = f"Rollout {row['rollout']} goes on. Watch it with `argosy model status {row['rollout']} --watch`."
    row = watched(lambda: api.get(f"/rollouts/{row['rollout']}"), row, json=json, goes_on=goes_on)
    if row["state"] == "rolled-back" and not back:
        raise RolloutRolledBack(model=row["model"], why=clean(row["why"]), rollout=row["rollout"])


def _show(row: Data) -> None:
    now = SystemClock().wall()
    facts: list[tuple[str, Text | str | None]] = [
        ("rollout", Text(str(row["rollout"]), style="bold")),
        ("model", clean(row["model"])),
        ("before", "no model" if row["previous"] is None else f"version {row['previous']}"),
        ("state", state_text(row["state"])),
        ("rings", ring_text(row)),
        ("devices", counts_text(row)),
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
            state_text(each["state"]),
            str(each.get("in_force") or words.NONE),
            " ".join(clean(each.get(name) or "") for name in ("backend", "ran_on")).strip() or words.NONE,
            words.NONE if each.get("p95_ms") is None else f"{each['p95_ms']:.2f}",
            str(each.get("requests") or 0),
            str(each.get("errors") or 0),
            clean(error.get("message", "")),
            style=None if each["online"] else "dim",
        )
    console.print(shown)
