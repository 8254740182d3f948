"""`run watch`: a live picture on a terminal, lines in a pipe, JSON for programs."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Group
from rich.live import Live
from rich.text import Text

from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import RunStopped, error_from_wire
from argosy_server.cli.client import AdminClient, Data
from argosy_server.cli.terminal import print_json_line, say, stdout
from argosy_server.cli.watch.follow import Follower, Lost, News, Settled
from argosy_server.cli.watch.plain import has_line, line
from argosy_server.cli.watch.progress import RunProgress
from argosy_server.cli.watch.view import RunView

LIVE_WAIT_S = 0.8
LINE_WAIT_S = 20.0
REFRESHES_PER_S = 5
HINT = "Ctrl-C leaves the run going"
STOP_HINT = "Ctrl-C stops everything"


def watch_run(api: AdminClient, run: int, *, json: bool, ends_with_us: bool = False) -> None:
    """Show a run until it is over, or until Ctrl-C, which leaves it going and returns.

    With `ends_with_us` the fleet is the caller's and ends with it: Ctrl-C is raised.

    Raises:
        RunStopped: somebody stopped it.
        ArgosyError: it failed; the run's own error.
    """
    live = sys.stdout.isatty() and not json
    clock = SystemClock()
    follower = Follower(
        api,
        run,
        clock=clock,
        rng=random.Random(),  # noqa: S311  (jitter, no secret)
        pause=time.sleep,
        wait_s=LIVE_WAIT_S if live else LINE_WAIT_S,
        live=live,
    )
    try:
        end = (
            _on_terminal(api, run, follower.news(), clock, STOP_HINT if ends_with_us else HINT)
            if live
            else _as_lines(api, run, follower.news(), json=json)
        )
    except KeyboardInterrupt:
        if ends_with_us:
            raise
        say(f"Run {run} goes on. Come back with `argosy run watch {run}`; end it with `argosy run stop {run}`.")
        return
    _judge(end)


def _on_terminal(
    api: AdminClient, run: int, news: Iterator[News | Lost | Settled], clock: Clock, hint_text: str
) -> Data:
    view = RunView(RunProgress(api.get(f"/runs/{run}")))
    view.notice = hint = Text(hint_text, style="dim")
    changing = threading.Lock()
    console = stdout()
    end: Data = {}

    def picture() -> Group:
        with changing:
            view.now = clock.wall()
            return view.drawn(console.size)

    with Live(get_renderable=picture, console=console, refresh_per_second=REFRESHES_PER_S) as screen:
        for item in news:
            with changing:
                if isinstance(item, Lost):
                    view.notice = Text(f"No answer from the coordinator; trying again. {hint_text}.", style="yellow")
                elif isinstance(item, Settled):
                    end = item.run
                    view.progress.settle(end)
                    view.notice, view.live = _verdict(end), []
                else:
                    view.notice, view.live = hint, item.live
                    for event in item.events:
                        view.progress.apply(event)
        screen.refresh()
    return end


def _verdict(run: Data) -> Text | None:
    if run["status"] != "finished":
        return Text("")  # room before the error
    if not run["final_model"]:
        return None
    return Text.assemble(("final model  ", "dim"), str(run["final_model"])[:16])


def _as_lines(api: AdminClient, run: int, news: Iterator[News | Lost | Settled], *, json: bool) -> Data:
    names: dict[str, str] = {}
    progress = RunProgress({"run": run, "app": "", "status": "running"})
    away = False
    for item in news:
        if isinstance(item, Settled):
            return item.run
        if isinstance(item, Lost):
            if not away:
                say(f"{item.error.message} Trying again until it is back.")
            away = True
            continue
        if away:
            say("The coordinator is back.")
            away = False
        for event in item.events:
            if json:
                print_json_line(event)
                continue
            if event["name"] == "phase-started":
                names.update(device_names(api))
            progress.apply(event)
            if not has_line(event):
                continue
            stdout().print(line(event, lambda device: names.get(device, device), progress), soft_wrap=True)
    raise AssertionError("a follower ends with Settled")


def _judge(run: Data) -> None:
    """Raise what made the run fail, so that the exit code tells it."""
    if run["status"] == "stopped":
        raise RunStopped(run=run["run"])
    if run["status"] == "failed":
        raise error_from_wire(run["error"] or {})


def device_names(api: AdminClient) -> dict[str, str]:
    """Return the names of all devices by id."""
    return {row["device"]: row["name"] for row in api.get("/devices")["devices"]}
