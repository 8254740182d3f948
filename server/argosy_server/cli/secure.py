"""`--secure`, as `argosy run start` and `argosy up` take it: judged before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from argosy_common.run_settings import CodecSettings, SecureSettings
from argosy_server.cli.client import Data

SecureOption = Annotated[
    bool | None,
    typer.Option(
        "--secure/--no-secure",
        help="Sum updates under masks, so that the coordinator sees no single one. At least four devices.",
        show_default="the app's, else --no-secure",
    ),
]


def secure_request(table: Data, codecs: Mapping[str, Any], *, secure: bool | None) -> SecureSettings:
    """Return whether and how a run is secure; `table` is the app's `[tool.argosy]`, which the flag overrides.

    Raises:
        RunConfigInvalid: the app's table is not well formed.
        SecureUnsuitable: a codec is named that does not go with it.
    """
    settings = SecureSettings.from_table(table).overridden(secure)
    given = CodecSettings.from_table(table).overridden(
        up=codecs.get("up"), down=codecs.get("down"), arrays=[(pattern, name) for pattern, name in codecs["arrays"]]
    )
    settings.require_alone(given)
    return settings
