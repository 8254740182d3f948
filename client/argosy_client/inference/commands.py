"""`argosy-device models`, `infer` and `backends`: what runs models on this board, and asking one by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from argosy_client.settings import DeviceSettings, load_settings

Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="ARGOSY_DEVICE_CONFIG", help="Settings file; /etc/argosy/device.toml if absent."),
]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where this device keeps its keys and its work.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def backends(root: Annotated[Path, typer.Option(hidden=True)] = Path("/"), as_json: AsJson = False) -> None:
    """Show what could run models on this board, and why the rest cannot."""
    from argosy_client.inference.backend import installed  # noqa: PLC0415  (brings numpy)

    found = [
        {"backend": name, "unavailable": backend.unavailable(root), "tested": backend.tested}
        for name, backend in installed().items()
    ]
    if as_json:
        typer.echo(json.dumps({"backends": found}))
        return
    table = Table(box=None, header_style="dim")
    for column in ("backend", "", "why not"):
        table.add_column(column)
    for each in found:
        untested = "" if each["tested"] else "untested on hardware"
        why = str(each["unavailable"] or untested)
        table.add_row(str(each["backend"]), "–" if each["unavailable"] else "✓", why)
    Console().print(table)


def models(config: Config = None, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show the models that this board serves: what really runs them, and how fast."""
    from argosy_client.inference.client import Client  # noqa: PLC0415  (brings numpy)

    with Client(socket_of(load_settings(config, state_dir=state_dir))) as client:
        found = client.models()
    if as_json:
        typer.echo(json.dumps({"models": found}))
        return
    table = Table(box=None, header_style="dim")
    for column in ("model", "backend", "ran on", "p50 ms", "p95 ms", "requests", "errors", "busy", "late", "drift"):
        table.add_column(column)
    for each in found:
        table.add_row(*_cells(each))
    Console().print(table if found else "No model is served.")


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[
        Path, typer.Option("--input", exists=True, dir_okay=False, help="A .npy file: one input, or several.")
    ],
    config: Config = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model once, and print what it answers."""
    import numpy as np  # noqa: PLC0415  (only for this command)

    from argosy_client.inference.client import Client  # noqa: PLC0415  (brings numpy)

    try:
        array = np.load(inputs, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise typer.BadParameter(f"{inputs} is no .npy file of numbers: {error}", param_hint="--input") from None
    with Client(socket_of(load_settings(config, state_dir=state_dir))) as client:
        outputs = client.infer(model, array)
        label, confidence = client.classify(model, array)
    if as_json:
        typer.echo(json.dumps({"outputs": outputs.tolist(), "label": label, "confidence": confidence}))
        return
    typer.echo(f"{label}  {confidence:.1%}" if len(outputs) == 1 else np.array2string(outputs, precision=4))


def socket_of(settings: DeviceSettings) -> Path:
    """Return where the daemon serves models."""
    return settings.inference.socket or settings.state_dir / "inference.sock"


def _cells(row: dict[str, Any]) -> list[str]:
    def number(key: str) -> str:
        return "–" if row[key] is None else f"{row[key]:.3f}"

    counts = [str(row[key]) for key in ("requests", "errors", "busy", "expired")]
    name = f"{row['model']}:{row['version']}"
    return [name, row["backend"], row["ran_on"], number("p50_ms"), number("p95_ms"), *counts, number("drift")]
