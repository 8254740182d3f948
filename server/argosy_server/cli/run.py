"""`argosy run`: start, watch, list, show, stop and read the logs of runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from argosy_common.clock import SystemClock
from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.codecs import CodecArraysOption, CodecDownOption, CodecOption, codec_request
from argosy_server.cli.configuration import ConfigOption, parse_config
from argosy_server.cli.explain import EXPLAIN_EXAMPLES, explain
from argosy_server.cli.options import (
    JsonOption,
    LatestRunArgument,
    RunArgument,
    SocketOption,
    connect,
    examples,
)
from argosy_server.cli.plan import PLAN_EXAMPLES, plan
from argosy_server.cli.secure import SecureOption, secure_request
from argosy_server.cli.straggler import (
    AsyncOption,
    DeadlineOption,
    OverSelectOption,
    QuorumOption,
    SelectorOption,
    StragglerOption,
    straggler_request,
)
from argosy_server.cli.terminal import print_json, print_json_line, say, stdout, table
from argosy_server.cli.watch.follow import all_events, latest
from argosy_server.cli.watch.progress import RunProgress, group_failures
from argosy_server.cli.watch.rounds import Round
from argosy_server.cli.watch.session import device_names, watch_run
from argosy_server.cli.watch.view import STATUS_STYLE
from argosy_server.cli.words import clean

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Start, watch, list, show and stop runs.")
app.command("plan", epilog=PLAN_EXAMPLES)(plan)

LOG_WAIT_S = 20.0


@app.command(
    "start",
    epilog=examples(
        "argosy run start examples/har --watch",
        "argosy run start examples/har --rounds 20 -c lr=0.05 -c local-epochs=2",
        "argosy run start examples/har --codec eden:2 --codec-down eden:4",
        "argosy run start my-app --codec eden:2 --codec-arrays 'embedding.*=fp16'",
        "argosy run start examples/har --secure",
        "argosy run start examples/har --straggler",
        "argosy run start examples/har --quorum 0.9 --deadline 60 --selector ready",
        "argosy run start examples/har --async",
        "run=$(argosy run start examples/har)",
    ),
)
def start(
    app_dir: Annotated[
        Path, typer.Argument(metavar="APP_DIR", help="A Flower app directory.", exists=True, file_okay=False)
    ],
    *,
    rounds: Annotated[
        int | None, typer.Option("--rounds", "-r", min=1, help="Rounds, instead of the app's own number.")
    ] = None,
    config: ConfigOption = None,
    codec: CodecOption = None,
    codec_down: CodecDownOption = None,
    codec_arrays: CodecArraysOption = None,
    secure: SecureOption = None,
    straggler: StragglerOption = None,
    quorum: QuorumOption = None,
    deadline: DeadlineOption = None,
    over_select: OverSelectOption = None,
    selector: SelectorOption = None,
    asynchronous: AsyncOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Watch it; Ctrl-C leaves it going.")] = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Send a Flower app to the coordinator, start a run of it and print the run's number."""
    from argosy_common.bundle import AppManifest, fuse_config, pack  # noqa: PLC0415  (only this command needs it)

    overrides = parse_config(config or [])
    manifest = AppManifest.read(app_dir)
    fuse_config(manifest.config, overrides)  # a misspelt key is told before anything is sent
    codecs = codec_request(manifest.argosy, up=codec, down=codec_down, arrays=codec_arrays or [])
    stragglers = straggler_request(
        manifest.argosy,
        straggler=straggler,
        quorum=quorum,
        deadline=deadline,
        over_select=over_select,
        selector=selector,
        asynchronous=asynchronous,
        secure=secure_request(manifest.argosy, codecs, secure=secure),
    )
    bundle = pack(app_dir)
    with connect(socket) as api:
        sent = api.put("/bundles", bundle)
        body: Data = {"bundle": sent["digest"], "size": sent["size"], "rounds": rounds, "config": overrides}
        body["codec"], body["secure"], body["straggler"] = codecs, secure, stragglers
        made = api.post("/runs", body)
        run = int(made["run"])
        if json:
            print_json_line({"run": run})
        elif not sys.stdout.isatty() and not watch:
            stdout().print(str(run))
        else:
            started = Text.assemble("run ", (str(run), "bold"), f" started: {clean(manifest.name)}, {_sent(sent)} sent")
            stdout().print(started)
        if made.get("secure") and not json:
            say(words.secure_text(made["secure"]))
        if made.get("straggler") and not json:
            say(words.straggler_text(made["straggler"]))
        if watch:
            watch_run(api, run, json=json)
        else:
            say(f"Follow it with `argosy run watch {run}`.")


def _sent(sent: Data) -> str:
    return words.size(sent["size"])


@app.command("repeat", epilog=examples("argosy run repeat 7", "argosy run repeat 7 --watch"))
def repeat(
    run: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Watch it; Ctrl-C leaves it going.")] = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Start a run again: the same app, rounds, configuration and layers. Print the new run's number."""
    with connect(socket) as api:
        again = int(api.post(f"/runs/{run}/repeat")["run"])
        if json:
            print_json_line({"run": again, "repeats": run})
        elif not sys.stdout.isatty() and not watch:
            stdout().print(str(again))
        else:
            stdout().print(Text.assemble("run ", (str(again), "bold"), f" started: run {run} again"))
        if watch:
            watch_run(api, again, json=json)


@app.command("watch", epilog=examples("argosy run watch", "argosy run watch 7", "argosy run watch 7 --json | jq .name"))
def watch(run: LatestRunArgument = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Watch a run live until it is over, through restarts of the coordinator.

    Ctrl-C ends the watching, not the run, and exits with 0. When the run fails, the exit code is its error's. In a
    pipe, one line an event is printed; with --json, one JSON object an event.
    """
    with connect(socket) as api:
        watch_run(api, run or latest(api), json=json)


@app.command("list", epilog=examples("argosy run list", "argosy run list --status failed --json"))
def list_runs(
    status: Annotated[str | None, typer.Option(help="Only: pending, running, finished, failed, stopped.")] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """List the runs, the newest last."""
    if status is not None and status not in STATUS_STYLE:
        raise typer.BadParameter(f"it is one of {', '.join(STATUS_STYLE)}", param_hint="--status")
    with connect(socket) as api:
        runs: list[Data] = api.get("/runs")["runs"]
    runs = [run for run in runs if status in {None, run["status"]}]
    if json:
        print_json(runs)
        return
    if not runs:
        say("There are no such runs." if status else "There are no runs. Start one with `argosy run start APP_DIR`.")
        return
    now = SystemClock().wall()
    shown = table("run", "app", "strategy", "rounds", "status", "started", "took", right=["run", "rounds", "took"])
    for run in runs:
        progress = RunProgress(run)
        error = run["error"] or {}
        state = Text(run["status"], style=STATUS_STYLE.get(run["status"], ""))
        if error:
            state.append(f"  {clean(error.get('code', ''))}", style="dim")
        shown.add_row(
            Text(str(run["run"]), style="bold"),
            clean(run["app"]),
            clean(run["strategy"] or words.NONE),
            str(run["rounds"] or words.NONE),
            state,
            words.age(run["started_at"] or run["created_at"], now),
            words.duration(progress.elapsed(now)),
        )
    stdout().print(shown)


@app.command("show", epilog=examples("argosy run show", "argosy run show 7 --json"))
def show(run: LatestRunArgument = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show a run: its configuration, its rounds, and the devices' errors with what to do about them."""
    with connect(socket) as api:
        row = api.get(f"/runs/{run or latest(api)}")
        progress = RunProgress(row)
        for event in all_events(api, progress.number):
            progress.apply(event)
        progress.settle(row)
        names = device_names(api)
    if json:
        told = {"run": row, "rounds": _rounds_json(progress), "errors": _errors_json(progress, names)}
        print_json({**told, "codec": progress.codec, "secure": progress.secure, "blobs_via": dict(progress.ways)})
        return
    from argosy_server.cli.watch.card import run_card  # noqa: PLC0415  (drawing is for terminals)

    console = stdout()
    console.print(run_card(row, progress, names, SystemClock().wall(), width=console.width))


def _rounds_json(progress: RunProgress) -> list[Data]:
    def told(one: Round) -> Data:
        phases = {
            name: {
                "sent": phase.sent,
                "replied": phase.replied,
                "failed": phase.failed,
                **({"late": len(phase.late)} if phase.late else {}),
                "seconds": phase.seconds,
                "bytes_up": phase.bytes_up,
                "bytes_down": phase.bytes_down,
                "fp32_up": phase.fp32_up,
                "fp32_down": phase.fp32_down,
                "metrics": phase.metrics,
                **({"secure": phase.groups} if phase.groups else {}),
            }
            for name, phase in one.phases.items()
        }
        return {
            "round": one.number,
            "phases": phases,
            "central": one.central,
            **({"step": asdict(one.step)} if one.step else {}),
            "bytes_up_a_device": round(one.up_a_device),
            "bytes_down_a_device": round(one.down_a_device),
            "ratio_up": one.ratio_up,
            "ratio_down": one.ratio_down,
        }

    return [told(progress.rounds[key]) for key in sorted(progress.rounds)]


def _errors_json(progress: RunProgress, names: dict[str, str]) -> list[Data]:
    return [
        {
            "device": one.device,
            "name": names.get(one.device),
            "phase": one.phase,
            "rounds": rounds,
            "code": one.code,
            "message": one.message,
            "remedy": one.remedy,
        }
        for one, rounds in group_failures(progress.failures)
    ]


app.command("explain", epilog=EXPLAIN_EXAMPLES)(explain)


@app.command("stop", epilog=examples("argosy run stop 7"))
def stop(run: RunArgument, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Stop a run. Devices drop what they still do for it; what it reached stays."""
    with connect(socket) as api:
        row = api.post(f"/runs/{run}/stop")
    over = row["status"] in {"finished", "failed", "stopped"}
    if json:
        print_json({"run": run, "stopping": not over, "status": row["status"]})
        return
    say(f"Run {run} is {row['status']} already." if over else f"Run {run} is stopping.")


@app.command("logs", epilog=examples("argosy run logs 7", "argosy run logs -f"))
def logs(
    run: LatestRunArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    socket: SocketOption = None,
) -> None:
    """Print the log of the run's server app. Ctrl-C ends the printing, not the run."""
    colour = sys.stdout.isatty()
    with connect(socket) as api:
        number = run or latest(api)
        offset = 0
        try:
            while True:
                piece = api.get(f"/runs/{number}/logs", wait=LOG_WAIT_S if follow and offset else 0.0, offset=offset)
                sys.stdout.write(words.clean_log(piece["text"], colour=colour))
                sys.stdout.flush()
                moved, offset = piece["offset"] > offset, piece["offset"]
                if piece["over"] or not (follow or moved):
                    return
        except KeyboardInterrupt:
            say(f"\nRun {number} goes on.")
