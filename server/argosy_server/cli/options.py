"""Options that many commands share, and the completion of run numbers and device names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from argosy_common.errors import ArgosyError
from argosy_server.cli.client import AdminClient, Data
from argosy_server.cli.words import clean
from argosy_server.paths import find_socket

_COMPLETION_TIMEOUT_S = 1.0


def connect(socket: Path | None) -> AdminClient:
    """Return a client for the socket that was named, else for this machine's coordinator."""
    return AdminClient(socket or find_socket())


def complete_runs(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer run numbers, the latest first."""
    runs = _ask(ctx, "/runs").get("runs", [])
    return [
        (str(run["run"]), f"{clean(run['app'])}, {run['status']}")
        for run in reversed(runs)
        if str(run["run"]).startswith(incomplete)
    ]


def complete_devices(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer device names."""
    devices = _ask(ctx, "/devices").get("devices", [])
    return [
        (clean(row["name"]), "online" if row["presence"].get("online") else "offline")
        for row in devices
        if clean(row["name"]).startswith(incomplete)
    ]


def _ask(ctx: typer.Context, path: str) -> Data:
    """Ask quickly; a coordinator that is not there offers nothing, since a completion has no place for a message."""
    socket = ctx.params.get("socket")  # text still, when it came from the environment
    try:
        with AdminClient(Path(socket) if socket else find_socket(), timeout_s=_COMPLETION_TIMEOUT_S) as api:
            return api.get(path)
    except ArgosyError:
        return {}


def examples(*lines: str) -> str:
    """Return an epilog that shows how a command is used."""
    return "\n\n".join(["[dim]Examples[/dim]", *lines])


SocketOption = Annotated[
    Path | None,
    typer.Option("--socket", envvar="ARGOSY_SOCKET", help="The coordinator's admin socket.", show_default="found"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[int, typer.Argument(help="The run's number.", min=1, autocompletion=complete_runs)]
LatestRunArgument = Annotated[
    int | None,
    typer.Argument(
        help="The run's number.", min=1, autocompletion=complete_runs, show_default="the latest run", metavar="[RUN]"
    ),
]
DeviceArgument = Annotated[
    str,
    typer.Argument(
        help="The device's name, id, or the beginning of its id.", autocompletion=complete_devices, metavar="DEVICE"
    ),
]
