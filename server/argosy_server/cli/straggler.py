"""`--straggler` and what goes with it, for `argosy run start` and `argosy up`: judged before anything is sent."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from argosy_common.run_settings import SecureSettings, StragglerSettings
from argosy_server.cli.client import Data

_PANEL = "Slow and missing devices"

StragglerOption = Annotated[
    bool | None,
    typer.Option(
        "--straggler/--no-straggler",
        help="End rounds on time, by what the devices of this run usually take; nothing else need be set.",
        show_default="the app's, else --no-straggler",
        rich_help_panel=_PANEL,
    ),
]
QuorumOption = Annotated[
    str | None,
    typer.Option(
        "--quorum",
        metavar="SHARE|N",
        help="Answers that a round needs before its deadline ends it: 0.8 of those wanted, or 16 devices.",
        show_default="0.8",
        rich_help_panel=_PANEL,
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="How long a phase waits once its quorum is there.",
        show_default="auto: learnt",
        rich_help_panel=_PANEL,
    ),
]
OverSelectOption = Annotated[
    str | None,
    typer.Option(
        "--over-select",
        metavar="SHARE",
        help="How many more devices to ask than the strategy wants; the first that answer count.",
        show_default="auto: as many as lately were late",
        rich_help_panel=_PANEL,
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector",
        metavar="NAME",
        help="Which devices are asked: random, or ready (charged, cool, unmetered, fast; slow ones now and then).",
        show_default="random",
        rich_help_panel=_PANEL,
    ),
]
AsyncOption = Annotated[
    bool | None,
    typer.Option(
        "--async/--no-async",
        help="No rounds: updates are taken as they come (FedBuff); not with --secure.",
        show_default="the app's, else --no-async",
        rich_help_panel=_PANEL,
    ),
]


def straggler_request(
    table: Data,
    *,
    straggler: bool | None,
    quorum: str | None,
    deadline: str | None,
    over_select: str | None,
    selector: str | None,
    asynchronous: bool | None,
    secure: SecureSettings,
) -> dict[str, Any]:
    """Return what a command says of stragglers; `table` is the app's `[tool.argosy]`, which it overrides.

    Raises:
        RunConfigInvalid: the app's table, or an option, is not well formed.
        AsyncUnsuitable: it does not go with what else the run is to be.
        SelectorUnknown: there is no such selector.
    """
    said: dict[str, Any] = {
        "enabled": straggler,
        "mode": None if asynchronous is None else "async" if asynchronous else "rounds",
        "quorum": _number(quorum),
        "deadline": _number(deadline),
        "over_select": _number(over_select),
        "selector": selector,
    }
    given = {name: value for name, value in said.items() if value is not None}
    if asynchronous is False and len(given) == 1:
        given["enabled"] = StragglerSettings.from_table(table).enabled  # "no async" alone switches nothing on
    settings = StragglerSettings.from_table(table).overridden(given)
    settings.require_goes_with(secure)
    if settings.enabled:
        from argosy_common.straggler.selectors import get_selector  # noqa: PLC0415  (only where it is used)

        get_selector(settings.selector, hear_every=settings.hear_every)
    return given


def _number(text: str | None) -> object:
    """Return a number as the settings have it: a whole one without a point, else one with; other text as it is."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
