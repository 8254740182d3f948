"""`argosy run explain`: what each device did in a round, and why it did not count if it did not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from argosy_common.errors import RoundNotFound
from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.options import JsonOption, SocketOption, complete_devices, complete_runs, connect, examples
from argosy_server.cli.terminal import firm, print_json, stdout, table
from argosy_server.cli.watch import reasons
from argosy_server.cli.watch.explanation import (
    ABSENT,
    COUNTED,
    FAILED,
    LATE,
    LEFT_OUT,
    LOST,
    NOT_ASKED,
    NOT_NEEDED,
    UNDER_WAY,
    WAITING,
    Explanation,
    Part,
    PhaseStory,
    RoundStory,
    Step,
)
from argosy_server.cli.watch.follow import all_events, latest
from argosy_server.cli.watch.progress import OVER
from argosy_server.cli.watch.secure import outcome as sum_outcome
from argosy_server.cli.watch.session import device_names
from argosy_server.cli.watch.view import natural_width
from argosy_server.cli.words import clean, duration, size

EXPLAIN_EXAMPLES = examples(
    "argosy run explain 3",
    "argosy run explain 7 3",
    "argosy run explain 7 3 --phase train --device har-03",
    "argosy run explain 7 3 --json | jq '.phases[].devices[] | select(.counted | not)'",
)
MOST_NAMES = 12
"""Names in one line of those that were not asked; --json has all."""
_SHORT = {UNDER_WAY: "under way", NOT_NEEDED: "not needed", LEFT_OUT: "left out", LOST: "away"}
_STYLE = {UNDER_WAY: "cyan", WAITING: "cyan", LATE: "yellow", NOT_NEEDED: "dim", FAILED: "red", LOST: "red"}
_STYLE |= {LEFT_OUT: "red"}

Names = Mapping[str, str]


def _complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer runs for the first number; a round has no list to choose from."""
    return [] if ctx.params.get("numbers") else complete_runs(ctx, incomplete)


def explain(
    numbers: Annotated[
        list[int],
        typer.Argument(
            metavar="[RUN] ROUND",
            min=0,
            help="The round's number, before it the run's; without that, the latest run.",
            autocompletion=_complete,
        ),
    ],
    *,
    phase: Annotated[
        str | None, typer.Option("--phase", metavar="PHASE", help="Only this one: train, evaluate or query.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Only this one: its name, id, or the beginning of its id.",
            autocompletion=complete_devices,
        ),
    ] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Explain a round: what each device did, when it counted, and why it did not if it did not.

    Of an asynchronous run ROUND is a step: what it was made of, and what came of the models handed out for it.
    """
    if len(numbers) > 2:
        raise typer.BadParameter("give one number, the round's, or two, the run's and the round's")
    with connect(socket) as api:
        row = api.get(f"/runs/{numbers[0] if len(numbers) == 2 else latest(api)}")
        run, number = int(row["run"]), numbers[-1]
        told = Explanation(all_events(api, run), over=row["status"] in OVER)
        names = device_names(api)
        only = str(api.get(f"/devices/{quote(device, safe='')}")["device"]) if device is not None else None
    story = told.rounds.get(number)
    if story is None:
        raise RoundNotFound(run=run, round=number, known=words.ranges(list(told.rounds)) or "none yet")
    phases = _phases(story, phase)
    for each in phases:
        each.add_absent([only] if only else names if each.selection else [])
    if json:
        mode = "async" if told.asynchronous else "rounds"
        print_json({"run": run, "round": number, "mode": mode, **explained(story, phases, names, only)})
        return
    console = stdout()
    console.print(drawn(row, story, phases, names, only=only, width=console.width))


def _phases(story: RoundStory, wanted: str | None) -> list[PhaseStory]:
    """Return the phases that are asked for; an app's own kinds, `query.ping`, are found under `query` too."""
    found = [each for each in story.phases if wanted is None or wanted in {each.name, each.name.split(".")[0]}]
    if wanted is not None and not found:
        known = ", ".join(dict.fromkeys(clean(each.name) for each in story.phases)) or "no phase at all"
        raise typer.BadParameter(f"round {story.number} has only {known}", param_hint="--phase")
    return found


def _shown(phase: PhaseStory, only: str | None) -> list[Part]:
    return [part for part in phase.parts if only in {None, part.device}]


# --- as JSON


def explained(story: RoundStory, phases: Iterable[PhaseStory], names: Names, only: str | None) -> Data:
    """Return a round's facts for programs; docs/operating.md has the meaning of each."""
    told: Data = {"phases": [_phase_json(each, names, only) for each in phases]}
    if story.step is not None:
        told["step"] = _step_json(story.step, names, only)
    return told


def _phase_json(phase: PhaseStory, names: Names, only: str | None) -> Data:
    settled = next((each.settled for each in phase.exchanges if each.settled), None) or {}
    selection = phase.selection or {}
    return {
        "phase": phase.name,
        "how": settled.get("how"),
        "told": reasons.ended(phase),
        "seconds": sum(each.seconds or 0.0 for each in phase.exchanges) if phase.done else None,
        "asked": len(phase.asked),
        "counted": len(phase.with_outcome(COUNTED)),
        "quorum": settled.get("quorum"),
        "enough": settled.get("enough", selection.get("enough")),
        "deadline_s": settled.get("deadline_s"),
        "selector": selection.get("selector"),
        "wanted": selection.get("wanted"),
        "devices": [_part_json(phase, part, names) for part in _shown(phase, only)],
    }


def _part_json(phase: PhaseStory, part: Part, names: Names) -> Data:
    outcome = phase.outcome(part)
    return {
        "device": part.device,
        "name": names.get(part.device),
        "asks": part.asks,
        "heard": part.heard,
        "outcome": outcome,
        "counted": outcome == COUNTED,
        "counted_s": part.counted_s if outcome == COUNTED and not phase.asynchronous else None,
        "code": reasons.code(phase, part),
        "why": reasons.why(phase, part, _named(names)) or None,
        "remedy": reasons.remedy(phase, part) or None,
        "seconds": part.seconds,
        "late_s": (part.late or {}).get("late_s"),
        **{name: part.times.get(name) for name in ("fetch_s", "run_s", "upload_s")},
        **{name: part.sizes.get(name) for name in ("bytes_down", "bytes_up")},
        "via": part.via or None,
        "peak_rss": part.peak_rss,
        **({"step": part.step, "staleness": part.staleness, "weight": part.weight} if phase.asynchronous else {}),
    }


def _step_json(step: Step, names: Names, only: str | None) -> Data:
    updates = [
        {
            "device": data.get("device"),
            "name": names.get(str(data.get("device"))),
            "version": version,
            **{name: data.get(name) for name in ("staleness", "weight", "seconds")},
        }
        for data, _, version in step.updates
        if only in {None, data.get("device")}
    ]
    return {"told": reasons.stepped(step), "seconds": step.seconds, "staleness": step.staleness, "updates": updates}


# --- on a terminal


def drawn(
    row: Data, story: RoundStory, phases: Sequence[PhaseStory], names: Names, *, only: str | None = None, width: int
) -> RenderableType:
    """Return a round as a person reads it, `width` columns wide."""
    of = f" of {row['rounds']}" if row.get("rounds") and story.number else ""
    head = Text.assemble((f"run {row['run']}", "bold"), f"  {clean(row['app'])}")
    parts: list[RenderableType] = [head.append(f" · {_what(story)} {story.number}{of}", style="dim")]
    if story.step is not None:
        parts += ["", _line("step", reasons.stepped(story.step)), "", _step_table(story.step, names, only, width)]
    for phase in phases:
        parts += ["", *_phase(phase, names, only, width)]
    if story.step is None and not phases:
        parts += ["", "No device was asked for anything; the model was evaluated on the coordinator."]
    return Group(*parts)


def _what(story: RoundStory) -> str:
    return "step" if story.step is not None or any(each.asynchronous for each in story.phases) else "round"


def _line(name: str, told: str) -> Text:
    return Text.assemble((f"{clean(name)}: ", "bold"), told)


def _phase(phase: PhaseStory, names: Names, only: str | None, width: int) -> list[RenderableType]:
    shown = _shown(phase, only)
    asked = sorted((part for part in shown if part.asks), key=lambda part: _when(phase, part))
    parts: list[RenderableType] = [_line(phase.name, reasons.ended(phase))]
    if told := reasons.selected(phase, _named(names)):
        parts.append(Text(told, style="dim"))
    parts += [Text(clean(sum_outcome(group)), style="dim") for group in phase.groups]
    if asked:
        parts += ["", _devices_table(phase, asked, names, width)]
    if missing := _reasons(phase, shown, names):
        parts += ["", Text("did not count", style="dim"), missing]
    if spared := _spared(phase, shown, names):
        parts += ["", Text("not asked", style="dim"), spared]
    return parts


def _when(phase: PhaseStory, part: Part) -> tuple[bool, float]:
    """Put devices in the order in which they counted, and those that did not behind them."""
    counted = phase.outcome(part) == COUNTED
    return (not counted, (part.step or 0.0) if phase.asynchronous else (part.counted_s or 0.0) if counted else 0.0)


def _devices_table(phase: PhaseStory, parts: Sequence[Part], names: Names, width: int) -> Table:
    """Return a row for each device that was asked, with the columns that there is room for."""
    columns = [name for name in _CELLS if name != "by" or any(part.via for part in parts)]
    for least in (*_GIVE_WAY, None):
        made = _devices(phase, parts, names, columns)
        if least is None or natural_width(made) <= width:
            break
        columns = [name for name in columns if name != least]
    return firm(made, give="device", width=width)


def _devices(phase: PhaseStory, parts: Sequence[Part], names: Names, columns: Sequence[str]) -> Table:
    heads = ["training" if name == "work" and phase.name == "train" else name for name in columns]
    right = [*(head for head in heads if head != "by"), "counted"]
    shown = table("device", *heads, "counted", right=right, give="device")
    for part in parts:
        cells = [_CELLS[name](part) for name in columns]
        shown.add_row(clean(names.get(part.device, part.device)), *cells, _counted(phase, part))
    return shown


_CELLS: dict[str, Callable[[Part], str]] = {
    "fetch": lambda part: duration(part.times.get("fetch_s")),
    "down": lambda part: size(part.sizes.get("bytes_down")),
    "by": lambda part: clean(part.via or words.NONE).upper(),
    "work": lambda part: duration(part.times.get("run_s")),
    "upload": lambda part: duration(part.times.get("upload_s")),
    "up": lambda part: size(part.sizes.get("bytes_up")),
}
_GIVE_WAY = ("by", "upload", "fetch", "up", "down")
"""The columns that go, one after the other, where it gets narrow."""


def _counted(phase: PhaseStory, part: Part) -> Text:
    """Return when a device counted, `at 2.30 s` or `in step 8`, or in a word that it did not."""
    outcome = phase.outcome(part)
    if outcome == COUNTED:
        return Text(f"in step {part.step}" if phase.asynchronous and part.step else f"at {duration(part.counted_s)}")
    return Text(_SHORT.get(outcome, outcome), style=_STYLE.get(outcome, ""))


def _reasons(phase: PhaseStory, parts: Iterable[Part], names: Names) -> Table | None:
    """Return why devices that were asked did not count, each with its remedy."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
    grid.add_column(overflow="fold")
    for part in parts:
        told = reasons.why(phase, part, _named(names))
        if not told or phase.outcome(part) in {NOT_ASKED, ABSENT}:
            continue
        text = Text(told)
        if what := reasons.remedy(phase, part):
            text.append(f"\n{what}", style="yellow")
        grid.add_row(Text(clean(names.get(part.device, part.device)), style="bold"), text)
    return grid if grid.row_count else None


def _spared(phase: PhaseStory, parts: Iterable[Part], names: Names) -> Table | None:
    """Return why devices were not asked, those with the same reason in one line."""
    groups: dict[str, list[str]] = {}
    for part in parts:
        if phase.outcome(part) in {NOT_ASKED, ABSENT}:
            told = reasons.why(phase, part, _named(names)).removeprefix("was not asked: ")
            groups.setdefault(told, []).append(clean(names.get(part.device, part.device)))
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for told, members in groups.items():
        more = f" and {len(members) - MOST_NAMES} more" if len(members) > MOST_NAMES else ""
        grid.add_row(told, Text(", ".join(sorted(members)[:MOST_NAMES]) + more, style="bold"))
    return grid if groups else None


def _step_table(step: Step, names: Names, only: str | None, width: int) -> Table:
    """Return a row for each update that a step was made of."""
    right = ["model", "staleness", "weight", "fetch", "training", "upload", "took"]
    shown = table("device", *right, right=right, give="device")
    for data, part, version in step.updates:
        device = str(data.get("device", "?"))
        if only not in {None, device}:
            continue
        times = part.times if part else {}
        shown.add_row(
            clean(names.get(device, device)),
            words.NONE if version is None else str(version),
            words.number(data.get("staleness", words.NONE)),
            words.number(data.get("weight", words.NONE)),
            *(duration(times.get(name)) for name in ("fetch_s", "run_s", "upload_s")),
            duration(data.get("seconds")),
        )
    return firm(shown, give="device", width=width)


def _named(names: Names) -> reasons.NameOf:
    return lambda device: names.get(device, device)
