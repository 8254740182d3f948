"""A coordinator is backed up while it works, lost, and lives on in another folder, with the same devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from argosy_server.backup import LEFT_OUT, TREES
from argosy_server.backup.restore import GAP
from argosy_server.local_fleet import LocalFleet, _variables, wait_until
from tests.artefacts import artefact
from tests.fleets import add_model, data_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def argosy(fleet: LocalFleet, *words: str) -> dict[str, Any]:
    """Run a command with the coordinator's settings; return what it prints as JSON."""
    start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
    environment = {**os.environ, **_variables("ARGOSY_COORDINATOR_", fleet._settings)}
    command = [sys.executable, "-c", start, *words, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_coordinator_that_was_lost_lives_on_from_its_backup_with_the_same_devices(
    make_fleet: Callable[..., LocalFleet], lab: Path, notes: Callable[[str], list[tuple[str, int]]], tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    one, secret = {"min-nodes": "1"}, tmp_path / "passphrase"
    run = fleet.run(lab, rounds=1, config=one)
    assert fleet.wait_run(run, 60)["status"] == "finished"
    model = add_model(fleet, artefact(1, name="har"))
    with fleet.client() as api:
        before = {path: api.get(path) for path in (f"runs/{run}", f"runs/{run}/events", "models")}
    # the backup, in the middle of another run
    secret.write_text("correct horse\n")
    under_way = fleet.run(lab, rounds=3, config={**one, "train-seconds": "2"})
    wait_until(lambda: len(notes("d1")) > 1, 60, "d1 to train")
    sealed = ("--passphrase-file", str(secret))
    told = argosy(fleet, "backup", str(tmp_path), *sealed)
    assert told["missing"] == told["skipped"] == []
    state = fleet.folder / "coordinator"
    assert {path.name for path in state.iterdir()} <= {*TREES, *LEFT_OUT, "coordinator.db"}, "each is decided on"
    # the loss, and the restore into another folder
    fleet.kill("coordinator")
    shutil.rmtree(state)
    into = tmp_path / "elsewhere"
    into.mkdir()
    argosy(fleet, "restore", told["file"], "--into", str(into), *sealed)
    fleet._settings["state_dir"] = str(into)
    fleet.start_coordinator()
    fleet.wait_online(1)
    with fleet.client() as api:
        assert {path: api.get(path) for path in before} == before
        assert [f"{row['name']}:{row['version']}" for row in api.get("models")["models"]] == [model]
        assert api.get(f"runs/{under_way}")["run"] == under_way
    assert (into / "blobs" / "sha256" / before[f"runs/{run}"]["final_model"]).exists()
    again = fleet.run(lab, rounds=1, config=one)
    assert again > GAP
    assert fleet.wait_run(again, 60)["status"] == "finished"
    assert all(data["replied"] == 1 for data in data_of(fleet, again, "phase-finished"))
