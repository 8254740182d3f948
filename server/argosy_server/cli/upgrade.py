"""`argosy device upgrade|upgrades|upgrade-…`: versions of the devices' own packages, ring by ring."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from argosy_common.clock import SystemClock
from argosy_common.errors import UpgradeRolledBack
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

LATEST = "argosy-device"
"""By the name of what is upgraded, the API finds the latest one."""

KeyArgument = Annotated[
    str, typer.Argument(help="The upgrade's number.", metavar="[UPGRADE]", show_default="the latest")
]


def add_upgrade_verbs(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "upgrade",
        epilog=examples(
            "argosy device upgrade 0.2.0",
            "argosy device upgrade 0.2.0 --rings 5%,25%,100% --hold 1h --max-errors 1% --watch",
            "argosy device upgrade 0.2.0 --tags canary,lab,field",
            "argosy device upgrade 0.2.0 --rings tag:canary,100% --json | jq .rollout",
        ),
    )(upgrade)
    app.command("upgrades", epilog=examples("argosy device upgrades", "argosy device upgrades --json"))(upgrades)
    app.command(
        "upgrade-status",
        epilog=examples(
            "argosy device upgrade-status",
            "argosy device upgrade-status 7 --watch",
            "argosy device upgrade-status --json",
        ),
    )(status)
    app.command("upgrade-pause", epilog=examples("argosy device upgrade-pause"))(pause)
    app.command("upgrade-resume", epilog=examples("argosy device upgrade-resume --watch"))(resume)
    app.command("upgrade-stop", epilog=examples("argosy device upgrade-stop", "argosy device upgrade-stop 7 --yes"))(
        stop
    )


def upgrade(
    version: Annotated[str, typer.Argument(help="The version of the package argosy-device.", metavar="VERSION")],
    *,
    rings: RingsOption = None,
    tags: TagsOption = None,
    hold: HoldOption = "10m",  # type: ignore[assignment]  # the parser makes it the int
    least_active: LeastActiveOption = "90%",  # type: ignore[assignment]  # likewise
    max_errors: Annotated[
        float, typer.Option(parser=parse_share, metavar="SHARE", help="Of devices: more, and all go back.")
    ] = "2%",  # type: ignore[assignment]  # likewise
    watch: WatchOption = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Have the devices install a version of Argosy, ring by ring. They go back by themselves where it fails.

    It comes from each board's own apt sources, where its administrator allows it: `upgrade.allowed` in its settings.
    """
    common: Data = {"hold_s": hold, "least_active": least_active, "max_errors": max_errors}
    with connect(socket) as api:
        row = api.post("/upgrades", {"version": version, "rings": parse_rings(rings, tags, common)})
        _told(api, row, f"Upgrade {row['rollout']} to {clean(row['version'])} begins.", watch=watch, json=json)


def upgrades(socket: SocketOption = None, json: JsonOption = False) -> None:
    """List the upgrades of the devices, the newest last."""
    with connect(socket) as api:
        rows: list[Data] = api.get("/upgrades")["upgrades"]
    if json:
        print_json(rows)
        return
    if not rows:
        say("There are no upgrades. Start one with `argosy device upgrade VERSION`.")
        return
    now = SystemClock().wall()
    shown = table("upgrade", "version", "state", "ring", "devices", "since", "why", right=["upgrade"], give="why")
    for row in rows:
        shown.add_row(
            Text(str(row["rollout"]), style="bold"),
            clean(row["version"]),
            state_text(row["state"]),
            ring_text(row),
            counts_text(row),
            words.age(row["since"], now),
            clean(row["why"] or row["waits_for"]),
        )
    stdout().print(shown)


def status(
    key: KeyArgument = LATEST, watch: WatchOption = False, socket: SocketOption = None, json: JsonOption = False
) -> None:
    """Show an upgrade of the devices: where it stands, what it waits for, and how each device fares with it."""
    with connect(socket) as api:
        row = _find(api, key)
        if watch:
            _watched(api, row, json=json, back=False)
        elif json:
            print_json(row)
        else:
            _show(row)


def pause(key: KeyArgument = LATEST, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Upgrade no further device for now. Failures still have all go back."""
    with connect(socket) as api:
        row = _verb(api, key, "pause")
        text = f"Upgrade {row['rollout']} pauses; `argosy device upgrade-resume` goes on."
        _told(api, row, text, watch=False, json=json)


def resume(
    key: KeyArgument = LATEST, watch: WatchOption = False, socket: SocketOption = None, json: JsonOption = False
) -> None:
    """Go on with a paused upgrade. Its ring's time begins again."""
    with connect(socket) as api:
        row = _verb(api, key, "resume")
        _told(api, row, f"Upgrade {row['rollout']} goes on.", watch=watch, json=json)


def stop(
    key: KeyArgument = LATEST,
    yes: YesOption = False,
    watch: WatchOption = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Have every device go back to the version that it had before, at once."""
    with connect(socket) as api:
        found = _find(api, key)
        confirm(f"Have every device go back from {clean(found['version'])} to what it had before?", yes=yes)
        row = _verb(api, str(found["rollout"]), "stop")
        _told(api, row, "The devices go back to what they had before.", watch=watch, json=json, back=True)


def _find(api: AdminClient, key: str) -> Data:
    return api.get(f"/upgrades/{quote(key, safe='')}")


def _verb(api: AdminClient, key: str, verb: str) -> Data:
    return api.post(f"/upgrades/{quote(key, safe='')}/{verb}")


def _told(api: AdminClient, row: Data, text: str, *, watch: bool, json: bool, back: bool = False) -> None:
    if watch:
        _watched(api, row, json=json, back=back)
    elif json:
        print_json(row)
    else:
        stdout().print(Text(text))
        say(f"Follow it with `argosy device upgrade-status {row['rollout']} --watch`.")


def _watched(api: AdminClient, row: Data, *, json: bool, back: bool) -> None:
    """Watch it; one that was taken back is an error, unless so wanted."""
    number = str(row["rollout"])
    goes_on = f"Upgrade {number} goes on. Watch it with `argosy device upgrade-status {number} --watch`."
    row = watched(lambda: _find(api, number), row, json=json, goes_on=goes_on)
    if row["state"] == "rolled-back" and not back:
        raise UpgradeRolledBack(version=row["version"], why=clean(row["why"]), rollout=row["rollout"])


def _show(row: Data) -> None:
    facts: list[tuple[str, Text | str | None]] = [
        ("upgrade", Text(str(row["rollout"]), style="bold")),
        ("version", clean(row["version"])),
        ("state", state_text(row["state"])),
        ("rings", ring_text(row)),
        ("devices", counts_text(row)),
        ("since", words.age(row["since"], SystemClock().wall())),
        ("waits for", clean(row["waits_for"])),
        ("why", clean(row["why"])),
    ]
    console = stdout()
    console.print(pairs([(name, value) for name, value in facts if value]))
    if not row["devices"]:
        return
    console.print()
    shown = table("device", "state", "version", "why", give="why")
    for each in row["devices"]:
        shown.add_row(
            clean(each["name"]),
            state_text(each["state"]),
            clean(each.get("running") or words.NONE),
            clean((each["error"] or {}).get("message", "")),
            style=None if each["online"] else "dim",
        )
    console.print(shown)
