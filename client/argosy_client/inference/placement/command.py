"""`argosy-device plan`: where a model should run, measured on this board and against this coordinator."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from argosy_client.inference.commands import AsJson, Config, StateDir
from argosy_client.settings import DeviceSettings, load_settings
from argosy_common.blobs.store import storage_errors

if TYPE_CHECKING:
    from argosy_client.inference.folder import Version
    from argosy_client.inference.placement.decision import Decision, Way
    from argosy_client.inference.placement.plan import Plan
    from argosy_client.inference.placement.profile import Profile

MODELS = "models"
LEAST_TIMEOUT_MS, PATIENCE = 20.0, 3.0
"""The coordinator is waited for so many times as long as it took when it was measured, and at least so long."""
MOST_TIMEOUT_MS = 60_000.0


def plan(  # noqa: PLR0917  (typer declares a command's options as its parameters)
    model: Annotated[str, typer.Argument(help="The model's name.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Have what serves models follow the choice, within seconds.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Measure nothing, and have all of it run here again.")
    ] = False,
    deadline_ms: Annotated[
        float | None,
        typer.Option(min=0.1, max=60_000, help="What an answer may take, also where the coordinator does not answer."),
    ] = None,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether a model runs best on this board, partly on the coordinator, or wholly there; and say why.

    The coordinator takes part if `inference.enabled` is set in its settings. Cutting a model needs the package onnx,
    here and there.
    """
    if apply and forget:
        raise typer.BadParameter("it is either --apply or --forget", param_hint="--forget")
    settings = load_settings(config, state_dir=state_dir)
    if forget:
        _forget(settings, model, as_json=as_json)
        return
    found, profile, decision = measured(settings, model, deadline_ms)
    choice = to_plan(found, profile, decision, deadline_ms)
    if apply:
        from argosy_client.inference.placement.plan import write_plan  # noqa: PLC0415  (brings numpy)

        with storage_errors(found.path):
            write_plan(found, choice)
    if as_json:
        typer.echo(json.dumps(as_data(found, profile, decision, applied=apply)))
    else:
        _show(found, profile, decision, applied=apply)


def measured(settings: DeviceSettings, model: str, deadline_ms: float | None) -> tuple[Version, Profile, Decision]:
    """Measure a model that is in force, and decide."""
    from argosy_client.inference.backend import Material, installed  # noqa: PLC0415  (brings numpy)
    from argosy_client.inference.choose import choose  # noqa: PLC0415
    from argosy_client.inference.folder import in_force  # noqa: PLC0415
    from argosy_client.inference.placement.decision import decide  # noqa: PLC0415
    from argosy_client.inference.placement.line import Line, to_coordinator  # noqa: PLC0415
    from argosy_client.inference.placement.profile import profile  # noqa: PLC0415
    from argosy_client.inference.trial import tried  # noqa: PLC0415

    wanted = settings.inference
    version = in_force(settings.state_dir / MODELS, model)
    choice = choose(version, threads=wanted.threads, budget_mb=wanted.budget_mb)
    figures = choice.figures
    if choice.remembered:  # of another day, or another version of the same structure
        anew = tried(choice.backend, version, threads=wanted.threads)
        figures = figures if anew.refused else anew
    form = version.form(choice.backend)
    material = Material(version.onnx, version.manifest, version.samples, version.work, wanted.threads, form)
    session = installed()[choice.backend].open(material)
    line = Line(to_coordinator(settings.state_dir))
    try:
        found = profile(version, session, line, whole_ms=figures.p50_ms, threads=wanted.threads)
    finally:
        line.close()
        session.close()
    after = tried(choice.backend, version, threads=wanted.threads)
    if not after.refused and not found.exits:  # a board is never quite idle, and may only be wronged to its favour
        least_ms = min(found.whole_ms, after.p50_ms)
        found = replace(found, local=replace(found.local, head_ms=least_ms), whole_ms=least_ms)
    decision = decide(found.local, found.others, unreachable=found.unreachable, deadline_ms=deadline_ms)
    return version, found, decision


def to_plan(version: Version, profile: Profile, decision: Decision, deadline_ms: float | None) -> Plan:
    """Return what is written down of a decision."""
    from argosy_client.inference.placement.plan import Plan  # noqa: PLC0415  (brings numpy)

    way = decision.way
    away_ms = way.away_ms or 0.0
    timeout_ms = max(LEAST_TIMEOUT_MS, PATIENCE * away_ms)
    if deadline_ms is not None:
        timeout_ms = max(0.1, deadline_ms - way.head_ms - way.fallback_ms)
    return Plan(
        model=version.manifest.reference,
        onnx=version.manifest.onnx.digest,
        way=way.kind,
        tensor=way.tensor,
        timeout_ms=min(timeout_ms, MOST_TIMEOUT_MS),
        expected_ms=away_ms,
        fallback_ms=way.fallback_ms,
        local_ms=profile.local.total_ms or 0.0,
        total_ms=way.total_ms or 0.0,
        reason=decision.reason,
    )


def as_data(version: Version, profile: Profile, decision: Decision, *, applied: bool) -> dict[str, Any]:
    """Return all that was found out, as plain data."""
    return {
        "model": version.manifest.reference,
        "ways": [
            {**asdict(way), "total_ms": way.total_ms, "chosen": way == decision.way}
            for way in (profile.local, *profile.others)
        ],
        "wire": asdict(profile.wire) if profile.wire else None,
        "unreachable": profile.unreachable,
        "exits": profile.exits,
        "whole_ms": profile.whole_ms,
        "choice": decision.way.kind,
        "tensor": decision.way.tensor,
        "reason": decision.reason,
        "applied": applied,
    }


def _forget(settings: DeviceSettings, model: str, *, as_json: bool) -> None:
    from argosy_client.inference.folder import in_force  # noqa: PLC0415  (brings numpy)
    from argosy_client.inference.placement.plan import forget_plan  # noqa: PLC0415

    version = in_force(settings.state_dir / MODELS, model)
    with storage_errors(version.path):
        there = forget_plan(version)
    if as_json:
        typer.echo(json.dumps({"model": version.manifest.reference, "forgotten": there}))
    else:
        typer.echo(f"{version.manifest.reference} runs on this board." if there else "There was no plan.")


def _show(version: Version, profile: Profile, decision: Decision, *, applied: bool) -> None:
    table = Table(box=None, header_style="dim")
    for column in ("", "way", "cut at", "head ms", "kB up", "transfer ms", "tail ms", "total ms", "why not"):
        table.add_column(column, justify="left" if column in {"", "way", "cut at", "why not"} else "right")
    for way in (profile.local, *profile.others):
        table.add_row("✓" if way == decision.way else "", *_cells(way))
    console = Console()
    console.print(table)
    wire = profile.wire
    if wire is not None:
        console.print(f"To the coordinator: {wire.rtt_ms:.2f} ms there and back, {wire.uplink / 1e6:.3g} MB/s up.")
    if profile.exits:
        shares = ", ".join(f"{share:.0%} at {name}" for name, share in profile.exits.items())
        console.print(f"Exits: {shares}; {profile.whole_ms:.3f} ms without them.", highlight=False)
    named = {"local": "on this board", "split": "in two parts", "remote": "on the coordinator"}[decision.way.kind]
    console.print(f"[bold]{version.manifest.reference}: {named}[/bold], since {decision.reason}.", highlight=False)
    if applied:
        console.print("What serves models follows this within seconds: `argosy-device models`.")


def _cells(way: Way) -> list[str]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    if way.kind == "local":
        return ["local", "", number(way.head_ms), "", "", "", number(way.total_ms), ""]
    figures = [number(each) for each in (way.transfer_ms, way.tail_ms, way.total_ms)]
    return [way.kind, way.tensor, number(way.head_ms), f"{way.bytes_up / 1000:.1f}", *figures, way.refused]
