"""`argosy bugreport`: what is known of this machine's coordinator, running or not, in one archive without secrets."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from argosy_common.clock import SystemClock
from argosy_common.errors import ArgosyError
from argosy_server.cli.client import AdminClient
from argosy_server.cli.daemon_settings import ConfigFile, StateDir
from argosy_server.cli.options import SocketOption, examples
from argosy_server.cli.terminal import say, stdout

if TYPE_CHECKING:
    from argosy_common.bugreport import Report
    from argosy_server.settings import CoordinatorSettings

EXAMPLES = examples("argosy bugreport .", "argosy bugreport /tmp/argosy.tar.gz")

RUNS = 3
"""The newest runs, whose events and logs are in it."""
ASKED = ("health", "doctor", "devices", "runs", "models", "rollouts")


def bugreport(
    target: Annotated[Path, typer.Argument(help="The file to write, or a folder that gets one.", metavar="FILE")],
    socket: SocketOption = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Gather versions, settings, state, checks and the ends of logs for whoever is to find a fault.

    Keys, tokens and passwords are left out. Works whether the coordinator runs or not, as root or as its user.
    """
    # what they bring, SQLAlchemy for one, other commands can spare
    from argosy_common.bugreport import Report, files_below, journal_of, report_name  # noqa: PLC0415
    from argosy_server.settings import load_settings  # noqa: PLC0415
    from argosy_server.store.inspection import look_at  # noqa: PLC0415

    settings, now = load_settings(config, state_dir), SystemClock().wall()
    report = Report("argosy bugreport")
    report.add("versions.json", _versions)
    report.add("settings.json", lambda: settings.model_dump(mode="json"))
    report.add("database.json", lambda: look_at(settings.database_url))
    report.add("files.txt", lambda: files_below(settings.state_dir))
    runs = _ask(report, AdminClient(socket or settings.socket_path)) or _newest_runs(settings)
    for run in runs:
        report.add_end(f"runs/{run}/run.log", settings.state_dir / "runs" / str(run) / "run.log")
    for name in ("mosquitto.log", "iotcore.log", "mosquitto.conf"):
        report.add_end(f"broker/{name}", settings.state_dir / "broker" / name)
    report.add("journal.txt", lambda: journal_of("argosy-coordinator"))
    if target.is_dir():
        target /= report_name(now)
    report.write(target, now)
    stdout().print(str(target))
    say("Look through it before you hand it on: names, addresses and what apps wrote are in it.")


def _versions() -> dict[str, object]:
    from argosy_common.bugreport import versions  # noqa: PLC0415  (as above)
    from argosy_server.broker import find_mosquitto  # noqa: PLC0415

    found = versions()
    if (mosquitto := find_mosquitto()) is not None:
        # it prints its version, and then ends with 3
        told = subprocess.run([str(mosquitto), "-h"], capture_output=True, text=True, timeout=10, check=False)
        found["mosquitto"] = told.stdout.split("\n")[0]
    return found


def _ask(report: Report, client: AdminClient) -> list[int]:
    """Add what the coordinator tells, if it answers; return the numbers of its newest runs."""
    runs: list[int] = []
    with client as api:
        for name in ASKED:
            report.add(f"{name}.json", lambda name=name: api.get(name))  # type: ignore[misc]
        report.add("audit.json", lambda: api.get("audit", limit=500))
        try:
            runs = sorted((int(row["run"]) for row in api.get("runs")["runs"]), reverse=True)[:RUNS]
        except ArgosyError:
            return runs  # why, is in every part
        for run in runs:
            report.add(f"runs/{run}/events.json", lambda run=run: api.get(f"runs/{run}/events"))  # type: ignore[misc]
    return runs


def _newest_runs(settings: CoordinatorSettings) -> list[int]:
    """Return the newest runs as the folder has them."""
    numbers = [int(path.name) for path in (settings.state_dir / "runs").glob("*") if path.name.isdecimal()]
    return sorted(numbers, reverse=True)[:RUNS]
