"""A run on a terminal: a head, its rounds, its devices. Pure: state and a time in, something to draw out.

One colour has one meaning: green is well, yellow is waiting or partly failed, red is failed, cyan is under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import ConsoleDimensions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from argosy_server.cli.terminal import firm, table
from argosy_server.cli.watch.progress import RunProgress, courses, group_failures, headline
from argosy_server.cli.watch.rounds import NOT_FAILURES, Round
from argosy_server.cli.watch.secure import Sums, newest, sums_of
from argosy_server.cli.words import (
    NONE,
    clean,
    codec_text,
    count,
    duration,
    number,
    ranges,
    running_time,
    size,
    sparkline,
    times,
)

Data = Mapping[str, Any]

STATUS_STYLE = {"pending": "yellow", "running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}
MOST_COLUMNS = 4
_FRAME = 10
"""Lines around the rows of the rounds: head, curves, column names, notice, blank lines, and the cursor's."""
_DEVICES_FRAME = 3
_GONE = ("offline", "away", "lost")
_BUSY = ("train", "evaluat", "run", "query")
_MOVING = ("fetch", "upload", "send", "load", "unpack")


class RunView:
    """The live picture of a run, drawn anew at each refresh for the size the terminal has then."""

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress
        self.live: Sequence[Data] = []
        self.notice: Text | None = None
        self.now: datetime | None = None

    def drawn(self, screen: ConsoleDimensions) -> Group:
        """Draw as much as fits on the screen."""
        progress, width = self.progress, screen.width
        live = [] if progress.over else self.live
        summed = newest([progress.rounds[key] for key in sorted(progress.rounds)])
        room = screen.height - _FRAME - (_DEVICES_FRAME if live else 0) - (1 if summed else 0)
        rounds = min(len(progress.rounds), max(3, room - len(live), room // 3))
        parts: list[RenderableType] = [head(progress, self.now, width=width)]
        if progress.rounds:
            parts += ["", rounds_table(progress, last=rounds, width=width)]
        if summed:
            told, well = summed
            parts.append(Text(told, style="dim" if well else "yellow", no_wrap=True, overflow="ellipsis"))
        if live:
            parts += ["", devices_table(live, most=max(1, room - rounds), width=width)]
        if self.notice is not None:
            parts += ["", self.notice]
        return Group(*parts)


def head(progress: RunProgress, now: datetime | None, *, width: int) -> RenderableType:
    """Return the first lines: which run, how far, and the course of its best metrics."""
    title = Text.assemble((f"run {progress.number}", "bold"), "  ", clean(progress.app))
    devices = count(len(progress.devices), "device") if progress.devices else None
    secure = "secure" if (progress.secure or {}).get("enabled") else None
    for part in (progress.strategy, devices, codec_text(progress.codec), secure):
        if part:
            title.append(f" · {clean(part)}", style="dim")
    status = Text.assemble((progress.status, STATUS_STYLE.get(progress.status, "")))
    elapsed = progress.elapsed(now) if now else progress.seconds
    if elapsed is not None:
        status.append(f"  {duration(elapsed) if progress.over else running_time(max(0.0, elapsed))}", style="dim")
    top = Table.grid(expand=True, padding=(0, 2, 0, 0))
    top.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    top.add_column(justify="right", no_wrap=True)
    top.add_row(title, status)
    lines: list[RenderableType] = [top]
    if not progress.over:
        lines.append(_bar(progress, width))
    courses = _courses(progress, width)
    if courses is not None:
        lines += ["", courses]
    return Group(*lines)


def _bar(progress: RunProgress, width: int) -> RenderableType:
    fraction = progress.fraction()
    bar = ProgressBar(
        total=1.0 if fraction is not None else None,
        completed=fraction or 0.0,
        pulse=fraction is None and progress.status == "running",
        width=max(10, min(40, width // 3)),
        complete_style="cyan",
        finished_style="green",
        pulse_style="cyan",
    )
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(bar, _where(progress))
    return grid


def _where(progress: RunProgress) -> Text:
    """Say what is happening, in a line."""
    if progress.waiting:
        online, wanted = progress.waiting
        return Text(f"waiting for devices: {online} of {wanted} online", style="yellow")
    if progress.current is None:
        return Text("waiting to start" if progress.status == "pending" else "starting", style="dim")
    at, name = progress.current
    of = f" of {progress.total}" if progress.total else ""
    if progress.steps is not None:
        text = Text(f"step {progress.steps}{of}")
        return text.append(f" · {count(len(progress.busy), 'device')} at work", style="dim")
    text = Text(f"round {at}{of}")
    phase = progress.rounds[at].phases[name]
    text.append(f" · {clean(name)} · {phase.replied} of {phase.sent} answered", style="dim")
    if phase.failed:
        text.append(f", {phase.failed} failed", style="yellow")
    if phase.late:
        text.append(f", {len(phase.late)} late", style="dim")
    return text


def _courses(progress: RunProgress, width: int) -> RenderableType | None:
    """Return the course of the best accuracy and the best loss as sparklines with their latest values."""
    ordered = [progress.rounds[key] for key in sorted(progress.rounds)]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in courses(ordered):
        values = [one.metrics(column[0])[column[1]] for one in ordered if column[1] in one.metrics(column[0])]
        blocks = sparkline(values, min(40, width // 3))
        grid.add_row(
            Text(_column_name(column), style="dim"), Text(number(values[-1]), style="bold"), Text(blocks, style="cyan")
        )
    return grid if grid.row_count else None


def rounds_table(progress: RunProgress, *, last: int | None = None, width: int = 120) -> Table:
    """Return a row for each round, or for the last so many."""
    ordered = [progress.rounds[key] for key in sorted(progress.rounds)]
    rows = ordered[-last:] if last else ordered
    chosen = _columns(ordered, width)
    for columns in (chosen, courses(ordered), headline(ordered, 1)):  # the last is taken even where it is too wide
        shown = _rounds(progress, rows, columns[: len(chosen)])
        if natural_width(shown) <= width:
            break
    return shown


def _rounds(progress: RunProgress, rows: Sequence[Round], columns: Sequence[tuple[str, str]]) -> Table:
    names = [_column_name(column) for column in columns]
    masked = any(sums_of(one) for one in progress.rounds.values())
    stepped = progress.steps is not None
    number_of = "step" if stepped else "round"
    replies = ["updates", "staleness"] if stepped else ["replies", *(["summed", "holders"] if masked else [])]
    shares = ["up/dev", "down/dev"]
    shown = table(number_of, *replies, *names, *shares, "time", right=[number_of, *replies, *names, *shares, "time"])
    for one in rows:
        current = not progress.over and progress.current is not None and one.number == progress.current[0]
        shown.add_row(
            str(one.number),
            *(_step(one) if stepped else [_replies(one), *(_sums(sums_of(one)) if masked else ())]),
            *(number(one.metrics(phase)[name]) if name in one.metrics(phase) else "" for phase, name in columns),
            _share(one.up_a_device, one.ratio_up) if one.phases else "",
            _share(one.down_a_device, one.ratio_down) if one.phases else "",
            duration(one.seconds) if one.seconds is not None else "",
            style="cyan" if current else None,
        )
    return shown


def natural_width(made: Table) -> int:
    """Return how wide a table is that nothing is cut from."""
    cells = [[column.header, *column.cells] for column in made.columns]
    widest = [max(cell_len(it.plain if isinstance(it, Text) else str(it)) for it in column) for column in cells]
    return sum(widest) + made.padding[1] * (len(widest) - 1)


def _sums(sums: Sums | None) -> tuple[Text, Text]:
    """Return `11/12` devices in the sum and `9/12` holders that answered; yellow where nothing checks the sum."""
    if sums is None:
        return Text(""), Text("")
    lost = "red" if sums.failed == sums.groups else "yellow" if sums.failed else ""
    summed = Text(f"{sums.summed}/{sums.devices}", style=lost or ("yellow" if sums.summed < sums.devices else ""))
    return summed, Text(f"{sums.answers}/{sums.holders}", style=lost or ("yellow" if sums.unchecked else ""))


def _columns(ordered: Sequence[Round], width: int) -> list[tuple[str, str]]:
    """Return as many metrics as there is room for: less where bytes are compared with full precision."""
    compared = any(one.ratio_up or one.ratio_down for one in ordered)
    if width >= (132 if compared else 100):
        return headline(ordered, MOST_COLUMNS)
    return headline(ordered, 1) if compared and width < 95 else courses(ordered)


def _share(count: float, fewer: float | None) -> Text:
    """Return bytes, and how many times more they would be at full precision."""
    return Text.assemble(size(count), (f" {times(fewer)}×" if fewer else "", "green" if (fewer or 0) >= 1 else "dim"))


def _replies(one: Round) -> Text:
    """Return `9/10` of the round's first phase that has the most failures: what a person must see."""
    if not one.phases:
        return Text("")
    worst = max(one.phases.values(), key=lambda phase: (phase.failed, len(phase.late)))
    style = "red" if worst.done and not worst.replied else "yellow" if worst.failed else ""
    late = (f" {len(worst.late)} late", "dim") if worst.late else ""
    return Text.assemble((f"{worst.replied}/{worst.sent}", style), late)


def _step(one: Round) -> tuple[str, str]:
    """Return how many updates made a step of an asynchronous run, and how many steps old they were on average."""
    if one.step is None:
        return "", ""
    return str(one.step.updates), NONE if one.step.staleness is None else f"{one.step.staleness:.1f}"


def _column_name(column: tuple[str, str]) -> str:
    phase, name = column
    lowered = name.lower().replace("_", " ")
    short = {"evaluate": "eval", "central": "central"}.get(phase, phase)
    known = lowered.removeprefix("eval ").removeprefix("evaluate ").removeprefix("train ").removeprefix("central ")
    known = known.removeprefix("test ")
    return clean(f"{short} {known}")


def devices_table(live: Sequence[Data], *, most: int, width: int = 120) -> RenderableType:
    """Return what each device does now; when there are more than `most`, those with errors and at work first."""
    rows = sorted(live, key=lambda row: str(row.get("name") or row.get("device")))
    cut = rows
    if len(rows) > most:
        urgent = sorted(rows, key=lambda row: (not _failed(row), not _is_busy(row)))
        chosen = {id(row) for row in urgent[:most]}
        cut = [row for row in rows if id(row) in chosen]
    wide = width >= 90
    told_way = width >= 100 and any(row.get("via") for row in rows)
    names = ["device", "doing", "round", "up", "down", *(["by"] if told_way else []), "time"]
    names += ["error"] if wide else []
    shown = table(*names, right=["round", "up", "down", "time"], give="error" if wide else None)
    for row in cut:
        error = row.get("error")
        cells: list[Text | str] = [
            clean(row.get("name") or row.get("device")),
            doing_text(row),
            str(row.get("round") or ""),
            size(row.get("bytes_up")),
            size(row.get("bytes_down")),
            *([clean(row.get("via") or "").upper()] if told_way else []),
            duration(row.get("seconds")),
        ]
        shown.add_row(*cells, *([_short_error(error)] if wide else []))
    if wide:
        firm(shown, give="error", width=width)
    if len(cut) == len(rows):
        return shown
    return Group(shown, Text(f"and {len(rows) - len(cut)} more", style="dim"))


def doing_text(row: Data) -> Text:
    """Return a device's doing with a dot: filled while it works, hollow while it rests."""
    doing = clean(row.get("doing") or "idle")
    if _failed(row):
        return Text.assemble(("✗ ", "red"), doing)
    if any(word in doing for word in _GONE):
        return Text.assemble(("○ ", "red"), (doing, "dim"))
    if any(word in doing for word in _MOVING):
        return Text.assemble(("● ", "cyan"), doing)
    if any(word in doing for word in _BUSY):
        return Text.assemble(("● ", "green"), doing)
    return Text.assemble(("○ ", "dim"), (doing, "dim"))


def _failed(row: Data) -> bool:
    """Whether a device's last answer was an error; that a round did without it is none."""
    error = row.get("error")
    return bool(error) and not (isinstance(error, Mapping) and error.get("code") in NOT_FAILURES)


def _is_busy(row: Data) -> bool:
    return str(row.get("doing") or "idle") != "idle"


def _short_error(error: object) -> Text:
    if not error:
        return Text("")
    if isinstance(error, Mapping):
        style = "dim" if error.get("code") in NOT_FAILURES else "red"
        return Text.assemble((clean(error.get("code", "?")), style), ("  " + clean(error.get("message", "")), "dim"))
    return Text(clean(error), style="red")


def failures_table(progress: RunProgress, names: Mapping[str, str]) -> RenderableType:
    """Return the devices' errors, each with its remedy, repeated ones once with their rounds."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for one, rounds in group_failures(progress.failures):
        told = Text.assemble((clean(one.message), ""), (f"  [{clean(one.code)}]", "dim"))
        if one.remedy:
            told.append(f"\n{clean(one.remedy)}", style="yellow")
        where = f"{clean(one.phase)} {ranges(rounds)}"
        grid.add_row(Text(clean(names.get(one.device, one.device)), style="bold"), where, told)
    return grid
