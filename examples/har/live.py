"""The demonstration: a coordinator and ten device daemons on this machine learn together, and are compared with alone.

Everything goes over TLS through a real broker; each device is a process with a certificate of its own and one person's
recordings. Left behind in the folder: `har.png`, `summary.json`, `history.json` and the logs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from alone import DEVICES, alone_accuracy
from prepare import prepare
from report import plot, summary, summary_text

from argosy_server.cli.terminal import say
from argosy_server.cli.watch import watch_run
from argosy_server.local_fleet import LocalDevice, LocalFleet, ends_cleanly

APP = Path(__file__).resolve().parent
MEMORY_MB = 1500


def demonstrate(folder: Path, *, rounds: int | None = None, keep_fleet: bool = False) -> dict[str, Any]:
    """Run the demonstration in `folder`; return its summary (see `report.summary`).

    Raises PreparationFailed, KeyboardInterrupt, or the named error of what failed.
    """
    data = prepare(folder / "data", say)
    state = folder / "fleet"
    if not keep_fleet:
        shutil.rmtree(state, ignore_errors=True)
    devices = [
        LocalDevice(
            f"person-{subject:02}",
            {"subject": subject, "data": str(data)},
            {"worker.memory_mb": MEMORY_MB, "heartbeat_s": 5.0},
        )
        for subject in DEVICES
    ]
    with ends_cleanly(), LocalFleet(state, devices) as fleet:
        fleet.start(lambda text: say(f"{text[0].upper()}{text[1:]} …"))
        config = {"test-data": str(data), "min-devices": str(len(devices))}
        run = fleet.run(APP, rounds=rounds, config=config)
        with fleet.client() as api:
            watch_run(api, run, json=False, ends_with_us=True)
        history = [
            {"round": event["data"]["round"], **event["data"]["metrics"]}
            for event in fleet.events(run)
            if event["name"] == "central"
        ]
    (folder / "history.json").write_text(json.dumps(history, indent=2))
    say("")
    say("The same network again, each device alone with its own person's recordings …")
    trained = max(entry["round"] for entry in history)
    with ends_cleanly():
        alone = alone_accuracy(
            data,
            config={"num-server-rounds": trained},
            tell=lambda subject, accuracy: say(f"  person-{subject:02} alone  {accuracy:.1%}"),
        )
    result = summary(history, alone)
    (folder / "summary.json").write_text(json.dumps(result, indent=2))
    picture = plot(history, alone, folder / "har.png")
    say("")
    say(summary_text(result))
    say("")
    say(f"The curves are in {picture}, the numbers in {folder / 'summary.json'}, the logs in {state / 'logs'}.")
    return result
