"""`argosy device`: the fleet, and one board of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from argosy_common.clock import SystemClock
from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.inventory import inventory_rows
from argosy_server.cli.options import DeviceArgument, JsonOption, SocketOption, connect, examples
from argosy_server.cli.terminal import pairs, print_json, say, stdout, table
from argosy_server.cli.upgrade import add_upgrade_verbs
from argosy_server.cli.verbs import add_verbs
from argosy_server.cli.words import clean

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="See the devices, let them in, shut them out.")


@app.command(
    "list",
    epilog=examples(
        "argosy device list",
        "argosy device list --online",
        "argosy device list --drifting",
        "argosy device list --json | jq '.[].name'",
    ),
)
def list_devices(
    online: Annotated[bool, typer.Option("--online", help="Only those that are online.")] = False,
    site: Annotated[str | None, typer.Option(help="Only those of this site.")] = None,
    drifting: Annotated[
        bool, typer.Option("--drifting", help="Only those whose models see other data than they were trained on.")
    ] = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """List the devices: who is online, what each is doing, how it is."""
    with connect(socket) as api:
        rows: list[Data] = api.get("/devices")["devices"]
    rows = [row for row in rows if (row["presence"]["online"] or not online) and site in {None, row["site"]}]
    rows = [row for row in rows if row["drifting"] or not drifting]
    if json:
        print_json(rows)
        return
    if not rows:
        none_yet = "No device has joined. Start with `argosy token create`."
        say("There are no such devices." if online or site or drifting else none_yet)
        return
    if drifting:
        stdout().print(drift_table(rows, SystemClock().wall()))
        return
    stdout().print(device_table(rows, SystemClock().wall()))
    up = sum(bool(row["presence"]["online"]) for row in rows)
    say(f"{up} of {words.count(len(rows), 'device')} online")


def device_table(rows: list[Data], now: datetime) -> Table:
    """Return the fleet as a table; the columns of site and condition only where there is something to tell.

    A column of conditions takes the place of that of versions where these are all the same: there is no room for both.
    """
    sites = len({row["site"] for row in rows}) > 1
    told = {row["device"]: condition_text(_condition(row)) for row in rows if row["presence"].get("online")}
    some = any(told.values())
    versions = not some or len({row["version"] for row in rows}) > 1
    names = ["device", "id", *(["site"] if sites else []), "", *(["condition"] if some else [])]
    names += ["load", "memory", "°C", *(["version"] if versions else []), "seen"]
    shown = table(*names, right=["load", "memory", "°C"])
    for column in shown.columns:
        if column.header == "condition":  # on a narrow terminal a board with much to tell takes several lines
            column.no_wrap, column.overflow, column.min_width = False, "fold", _LEAST_CONDITION
    for row in sorted(rows, key=lambda row: str(row["name"])):
        presence = row["presence"]
        online = bool(presence.get("online"))
        beat = presence.get("heartbeat") or {} if online else {}
        shown.add_row(
            clean(row["name"]),
            Text(row["device"], style="dim"),
            *([row["site"]] if sites else []),
            state_text(row),
            *([told.get(row["device"], Text())] if some else []),
            _fraction(beat.get("load")),
            _fraction(_ratio(beat.get("memory_used"), beat.get("memory_total"))),
            _whole(beat.get("temperature")),
            *([clean(row["version"] or words.NONE)] if versions else []),
            "now" if online else words.age(row["last_seen_at"], now),
            style=None if online else "dim",
        )
    return shown


def drift_table(rows: list[Data], now: datetime) -> Table:
    """Return what drifts where, the farthest first: a line a model of a device."""
    shown = table("device", "id", "model", "drift", "seen", right=["drift"])
    told = [(distance, model, row) for row in rows for model, distance in row["drift"].items()]
    for distance, model, row in sorted(told, key=lambda each: (-each[0], each[1], str(each[2]["name"]))):
        online = bool(row["presence"].get("online"))
        seen = "now" if online else words.age(row["last_seen_at"], now)
        shown.add_row(clean(row["name"]), Text(row["device"], style="dim"), clean(model), _distance(distance), seen)
    return shown


def _distance(distance: float) -> Text:
    """Return the distance of what a model sees from what it was trained on."""
    return Text(f"{distance:.2f}", style="yellow" if distance >= _MUCH else "")


_MUCH = 0.25
"""`argosy_common.artefact.sketch.DRIFTING`, which would bring too much along."""


def state_text(row: Data) -> Text:
    """Return a device's state in a word or two, with a dot for the eye."""
    presence = row["presence"]
    if row["state"] in ("pending", "approved"):
        return Text(f"… {clean(row['state'])}", style="yellow")
    if row["state"] != "enrolled":
        return Text(f"✗ {clean(row['state'])}", style="red")
    if not presence.get("online"):
        return Text("○ offline", style="dim")
    yielding = (presence.get("heartbeat") or {}).get("yielding")
    gives_way = (f" ({clean(yielding)})", "yellow") if yielding else ""
    return Text.assemble(("●", "green"), " ", clean(presence.get("doing") or "idle"), gives_way)


_LEAST_CONDITION = len("throttled")
"""Columns; its longest word is not broken, but for a name."""


def condition_text(condition: Mapping[str, object]) -> Text:
    """Return shortly what bears on whether a device is given work, but for its temperature: `87 % ⚡ throttled hall/3`.

    What is not known, and what is as it should be, is left out; nothing may be left.
    """
    parts: list[tuple[str, str]] = []
    battery, mains = condition.get("battery"), condition.get("on_mains")
    if isinstance(battery, int | float):
        parts.append((f"{100 * battery:.0f}\N{NO-BREAK SPACE}%{' ⚡' if mains else ''}", ""))
    elif mains is False:
        parts.append(("no mains", "yellow"))
    parts += [(name, "yellow") for name in ("throttled", "metered") if condition.get(name) is True]
    parts += [("/".join(clean(condition[name]) for name in ("site", "shard") if condition.get(name)), "")]
    return Text(" ").join(Text(text, style=style) for text, style in parts if text)


def _condition(row: Data) -> Mapping[str, object]:
    return row["presence"].get("condition") or {}


@app.command("show", epilog=examples("argosy device show har-03", "argosy device show 9f3a --json"))
def show(device: DeviceArgument, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show one device: its identity, its state and its hardware."""
    with connect(socket) as api:
        row = api.get(f"/devices/{quote(device, safe='')}")
    if json:
        print_json(row)
        return
    stdout().print(device_card(row, SystemClock().wall()))


def device_card(row: Data, now: datetime) -> Table:
    """Return everything about one device, one fact a line."""
    presence = row["presence"]
    beat: Data = presence.get("heartbeat") or {}
    condition = _condition(row)
    since = words.age(presence["since"], now) if presence.get("since") else None
    state = state_text(row)
    facts: list[tuple[str, Text | str | None]] = [
        ("device", Text(clean(row["name"]), style="bold")),
        ("id", row["device"]),
        ("site", row["site"]),
        ("tags", " ".join(clean(tag) for tag in row["tags"])),
        ("state", Text.assemble(state, (f"  since {since}", "dim") if since else "")),
        ("seen", words.local_time(row["last_seen_at"])),
        ("enrolled", words.local_time(row["enrolled_at"])),
        ("certificate", _ends(row["certificate_ends_at"], now) if row["certificate_ends_at"] else None),
        ("request", _ends(row["request_ends_at"], now) if row["request_ends_at"] else None),
        ("machine", clean(row["machine"] or "")),
        ("version", clean(row["version"] or "")),
        ("load", _fraction(beat.get("load"))),
        ("memory", _memory(beat)),
        ("worker", words.size(beat["worker_rss"]) if "worker_rss" in beat else None),
        ("daemon", words.size(beat["daemon_rss"]) if "daemon_rss" in beat else None),
        ("training", f"{clean(beat['yielding'])}: its models answer too slowly" if beat.get("yielding") else None),
        ("temperature", f"{beat['temperature']:.1f} °C" if "temperature" in beat else None),
        ("power", _power(condition)),
        ("throttled", _yes(condition.get("throttled"))),
        ("metered", _yes(condition.get("metered"))),
        ("data", _data(condition)),
        *(("drift", Text.assemble(clean(model), " ", _distance(each))) for model, each in row["drift"].items()),
        *inventory_rows(row["inventory"] or {}),
    ]
    return pairs([(name, value) for name, value in facts if value and value != words.NONE])


def _ends(at: object, now: datetime) -> str:
    """Say when a certificate, or a request, ends or ended."""
    end = words.parse_time(at)
    past = end is not None and end < now
    return f"{'ended' if past else 'ends'} {words.age(at, now)}, {words.local_time(at)}"


def _memory(beat: Data) -> str | None:
    if "memory_used" not in beat:
        return None
    of = f" of {words.size(beat['memory_total'])}" if beat.get("memory_total") else ""
    return f"{words.size(beat['memory_used'])}{of}"


def _power(condition: Mapping[str, object]) -> str | None:
    battery, mains = condition.get("battery"), condition.get("on_mains")
    level = f"battery {100 * battery:.0f} %" if isinstance(battery, int | float) else None
    outer = None if mains is None else "on the mains" if mains else "not on the mains"
    return ", ".join(each for each in (level, outer) if each) or None


def _data(condition: Mapping[str, object]) -> str | None:
    """Say what data it holds, as far as others may hold the same."""
    site, shard = (clean(condition.get(name) or "") for name in ("site", "shard"))
    return f"shard {shard} of site {site}" if shard else f"site {site}" if site else None


def _yes(value: object) -> str | None:
    return None if value is None else "yes" if value else "no"


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _fraction(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.0%}"


def _whole(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.0f}"


add_verbs(app)
add_upgrade_verbs(app)
