"""The options of `argosy-coordinator`'s verbs that say which settings hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from argosy_server.paths import DEFAULT_CONFIG

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="ARGOSY_COORDINATOR_CONFIG",
        help="The settings file (TOML).",
        show_default=f"{DEFAULT_CONFIG} if it exists",
    ),
]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Where it keeps its state.", show_default="/var/lib/argosy or XDG")
]
