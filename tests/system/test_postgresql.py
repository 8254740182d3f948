"""A coordinator on PostgreSQL: it does its rounds, outlives the database's death, and moves to SQLite by a backup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_server.local_fleet import LocalFleet, _variables
from tests.postgres import Cluster, cluster

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

ONE = {"min-nodes": "1"}


@pytest.fixture
def postgres() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def argosy(fleet: LocalFleet, *words: str) -> None:
    start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
    environment = {**os.environ, **_variables("ARGOSY_COORDINATOR_", fleet._settings)}
    command = [sys.executable, "-c", start, *words]
    subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)


def test_a_coordinator_on_postgresql_outlives_its_death_and_moves_to_sqlite(
    postgres: Cluster, make_fleet: Callable[..., LocalFleet], lab: Path, tmp_path: Path
) -> None:
    fleet = make_fleet(1, database=postgres.url)
    assert fleet.wait_run(fleet.run(lab, rounds=1, config=ONE), 60)["status"] == "finished"
    assert not (fleet.folder / "coordinator" / "coordinator.db").exists()
    postgres.stop()
    postgres.start()
    run = fleet.run(lab, rounds=1, config=ONE)
    assert fleet.wait_run(run, 60)["status"] == "finished"
    with fleet.client() as api:
        before = api.get("runs")["runs"]
    argosy(fleet, "backup", str(tmp_path / "backup"))
    fleet.kill("coordinator", signal.SIGTERM)
    argosy(fleet, "restore", str(tmp_path / "backup"), "--into", str(tmp_path / "elsewhere"))
    del fleet._settings["database"]
    fleet._settings["state_dir"] = str(tmp_path / "elsewhere")
    fleet.start_coordinator()
    fleet.wait_online(1)
    with fleet.client() as api:
        assert api.get("runs")["runs"] == before
    assert fleet.wait_run(fleet.run(lab, rounds=1, config=ONE), 60)["status"] == "finished"
