"""`--config key=value`, as `argosy run start` and `argosy up` take it."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="KEY=VALUE", help="A value of the app's run configuration; repeat it."),
]


def parse_config(pairs: list[str]) -> dict[str, str]:
    """Return the overrides; the app's own defaults say later which keys and types there are."""
    config: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"write it as key=value, not {pair!r}", param_hint="--config")
        if key.strip() in config:
            raise typer.BadParameter(f"{key.strip()!r} is given twice", param_hint="--config")
        config[key.strip()] = value.strip()
    return config
