"""What an operator does with a device: `argosy device approve|reject|revoke|rename|tag`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from argosy_server.cli.client import Data
from argosy_server.cli.options import DeviceArgument, JsonOption, SocketOption, connect, examples
from argosy_server.cli.terminal import print_json, say
from argosy_server.cli.words import clean

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add_verbs(app: typer.Typer) -> None:
    """Register the commands, in the order in which a device meets them."""
    app.command("approve", epilog=examples("argosy device approve 9f3a", "argosy device approve har-03 --json"))(
        approve
    )
    app.command("reject", epilog=examples("argosy device reject 9f3a"))(reject)
    app.command("revoke", epilog=examples("argosy device revoke har-03", "argosy device revoke 9f3a --yes"))(revoke)
    app.command("rename", epilog=examples("argosy device rename 9f3a greenhouse-1"))(rename)
    app.command(
        "tag", epilog=examples("argosy device tag har-03 camera north", "argosy device tag har-03 --remove north")
    )(tag)


def approve(device: DeviceArgument, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Let a device in that waits, or one that was rejected or revoked."""
    row = _post(socket, device, "approve")
    _tell(row, f"{_called(row)} may join: its `argosy-device join` goes on by itself, or when it is run again.", json)


def reject(device: DeviceArgument, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Turn a device away that waits. Nothing was issued to it."""
    row = _post(socket, device, "reject")
    _tell(row, f"{_called(row)} was turned away.", json)


def revoke(
    device: DeviceArgument, yes: YesOption = False, socket: SocketOption = None, json: JsonOption = False
) -> None:
    """Shut a device out, at once: its session ends, its certificates are worth nothing, what it owes counts as lost.

    The same command again ends its session again.
    """
    if not yes and sys.stdin.isatty():
        with connect(socket) as api:
            found = api.get(f"/devices/{quote(device, safe='')}")
        typer.confirm(f"Shut {_called(found)} out?", abort=True, err=True)
    row = _post(socket, device, "revoke")
    _tell(row, f"{_called(row)} is shut out.", json)
    if not json and not row["session_ended"]:
        say("The broker did not let its session be ended. It is refused everything all the same; see `argosy doctor`.")
    if not json and row["broker"] == "external":
        say("Give your broker the new ca/devices.crl, and deny the device in its access list: docs/operating.md.")


def rename(
    device: DeviceArgument,
    name: Annotated[str, typer.Argument(help="Its new name.")],
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Give a device a name that stays, whatever the device calls itself."""
    row = _post(socket, device, "rename", {"name": name})
    _tell(row, f"The device {row['device']} is called {clean(row['name'])}.", json)


def tag(
    device: DeviceArgument,
    tags: Annotated[list[str] | None, typer.Argument(help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to take away; repeat it.")] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Add tags to a device, and take others away."""
    if not tags and not remove:
        raise typer.BadParameter("name at least one tag, or one to --remove")
    row = _post(socket, device, "tag", {"add": tags or [], "remove": remove or []})
    shown = " ".join(clean(each) for each in row["tags"]) or "no tags"
    _tell(row, f"{_called(row)}: {shown}", json)


def _post(socket: Path | None, device: str, verb: str, body: Data | None = None) -> Data:
    with connect(socket) as api:
        return api.post(f"/devices/{quote(device, safe='')}/{verb}", body)


def _called(row: Data) -> str:
    return f"{clean(row['name'])} ({row['device']})"


def _tell(row: Data, text: str, json: bool) -> None:
    if json:
        print_json(row)
    else:
        say(text)
