"""`argosy up`: a whole fleet on this machine, to see it work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from argosy_server.cli.configuration import ConfigOption, parse_config
from argosy_server.cli.options import examples

EXAMPLES = examples(
    "argosy up --app examples/har",
    "argosy up --devices 3 --app examples/digits_numpy --rounds 5",
    "argosy up --keep --state-dir ./fleet",
)


def up(
    *,
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=200, help="How many device daemons.")] = 10,
    app: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A Flower app to run; none: only the fleet."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds, instead of the app's own number.")] = None,
    config: ConfigOption = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", show_default="a folder that is removed at the end")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up after the run, until Ctrl-C.")] = False,
    site: Annotated[str, typer.Option(help="The site's name.")] = "demo",
) -> None:
    """Start a coordinator and real device daemons on this machine, train, and stop everything again.

    They talk over TLS on loopback, each device with its own certificate. Ctrl-C stops them all.
    """
    from argosy_server.local_fleet import run_demo  # noqa: PLC0415  (heavy; the other commands start without it)

    run_demo(
        devices=devices,
        app=app,
        rounds=rounds,
        config=parse_config(config or []),
        state_dir=state_dir,
        keep=keep,
        site=site,
    )
