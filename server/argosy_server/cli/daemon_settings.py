"""The options of `argosy-coordinator`'s verbs that say which settings hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from argosy_server.settings import CoordinatorSettings

DEFAULT_CONFIG = Path("/etc/argosy/coordinator.toml")

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


def load_settings(config: Path | None, state_dir: Path | None, log_level: str | None = None) -> CoordinatorSettings:
    """Read the settings; a flag that is None was not given.

    Raises:
        SettingsInvalid: a file, a variable or a flag cannot be used.
    """
    file = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return CoordinatorSettings.load(file, state_dir=state_dir, log_level=log_level)
