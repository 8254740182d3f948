"""Flower apps in other styles run as they are: mods, queries, evaluation only, stateful and legacy clients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argosy_server.local_fleet import LocalDevice, LocalFleet

pytestmark = pytest.mark.timeout(180)

DIGITS = Path(__file__).parents[2] / "examples" / "digits_numpy"
LEGACY = Path(__file__).parent / "apps" / "legacy"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Three devices, each with a share of the digits."""
    devices = [LocalDevice(f"board{n}", {"partition-id": n}) for n in range(3)]
    with LocalFleet(tmp_path_factory.mktemp("apps") / "fleet", devices) as fleet:
        fleet.start()
        yield fleet


def finished(fleet: LocalFleet, run: int) -> dict[str, Any]:
    """Wait for a good end; return the run's row."""
    row = fleet.wait_run(run, 120)
    assert row["status"] == "finished", (row["error"], log_of(fleet, run))
    return row


def log_of(fleet: LocalFleet, run: int) -> str:
    """Return what the run's process printed."""
    with fleet.client() as client:
        return str(client.get(f"runs/{run}/logs")["text"])


def phases(fleet: LocalFleet, run: int) -> list[str]:
    """Return the names of the run's phases in order."""
    return [event["data"]["phase"] for event in fleet.events(run) if event["name"] == "phase-finished"]


def test_queries_mods_and_a_client_with_a_memory(fleet: LocalFleet) -> None:
    run = fleet.run(DIGITS, rounds=4, config={"min-devices": "3", "partitions": "3"})
    finished(fleet, run)
    assert phases(fleet, run) == ["query", *["train", "evaluate"] * 4, "query.memory"]
    central = [event["data"] for event in fleet.events(run) if event["name"] == "central"]
    assert central[-1]["metrics"]["accuracy"] > central[0]["metrics"]["accuracy"] + 0.3
    assert log_of(fleet, run).count("remembers") == 3, log_of(fleet, run)


def test_evaluation_only(fleet: LocalFleet) -> None:
    config = {"min-devices": "3", "partitions": "3", "fraction-train": "0.0"}
    run = fleet.run(DIGITS, rounds=2, config=config)
    finished(fleet, run)
    assert phases(fleet, run) == ["query", "evaluate", "evaluate", "query.memory"]


def test_a_legacy_client_and_a_legacy_server(fleet: LocalFleet) -> None:
    run = fleet.run(LEGACY)
    finished(fleet, run)
    # two rounds, each doubles ten ones
    assert "round 2 sum 40.0" in log_of(fleet, run)


def test_a_server_app_that_drives_the_grid_by_hand(fleet: LocalFleet, tmp_path: Path) -> None:
    app = tmp_path / "by_hand"
    shutil.copytree(LEGACY, app)
    (app / "legacy" / "server.py").write_text(
        """
import time
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    content = RecordDict({"arrays": ArrayRecord([np.ones(50_000, np.float32)]), "config": ConfigRecord({"a": 1})})
    ids = set(grid.push_messages([Message(content, node, "query.echo", group_id="1") for node in nodes]))
    seen, deadline = [], time.monotonic() + 60
    while ids and time.monotonic() < deadline:
        for reply in grid.pull_messages(ids):
            ids.discard(reply.metadata.reply_to_message_id)
            seen.append((reply.metadata.src_node_id, float(reply.content["arrays"].to_numpy_ndarrays()[0].sum())))
        time.sleep(0.05)
    assert sorted(seen) == sorted((node, 50_000.0) for node in nodes), seen
    print("all echoes are here")
"""
    )
    (app / "legacy" / "client.py").write_text(
        """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("echo")
def echo(message, context):
    return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)
"""
    )
    run = fleet.run(app)
    finished(fleet, run)
    assert "all echoes are here" in log_of(fleet, run)
