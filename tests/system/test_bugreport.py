"""Bug reports of a fleet in which secrets were planted wherever something is gathered: none is in the archives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from argosy_server.local_fleet import LocalFleet, _variables

pytestmark = pytest.mark.timeout(120)

PASSWORD = "hunter2-and-more"


def parts_of(archive: Path) -> dict[str, str]:
    """Return what is in a report, by name."""
    assert archive.stat().st_mode & 0o077 == 0
    with tarfile.open(archive) as tar:
        return {
            member.name.removeprefix("argosy-bugreport/"): stream.read().decode()
            for member in tar
            if (stream := tar.extractfile(member)) is not None
        }


def command(module: str, *words: str, environment: dict[str, str]) -> None:
    start = f"import sys; from {module} import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_bug_report_has_what_is_needed_and_no_secret(
    make_fleet: Callable[..., LocalFleet], lab: Path, tmp_path: Path
) -> None:
    fleet = make_fleet(1, start=False)
    device, state = fleet.devices["d1"], fleet.folder / "coordinator"
    fleet.devices["d1"] = type(device)("d1", {**device.node_config, "db_password": PASSWORD}, device.settings)
    fleet.start()
    run = fleet.run(lab, rounds=1, config={"min-nodes": "1"})
    assert fleet.wait_run(run, 60)["status"] == "finished"
    with fleet.client() as api:
        token = api.post("tokens", {"uses": 1, "ttl_s": 600})["token"]
    keys = [path.read_text() for path in fleet.folder.rglob("*.key")]
    assert len(keys) > 5
    planted = "".join(keys) + f"--token {token}\npassword={PASSWORD}\n"
    for log in ("runs/1/run.log", "broker/mosquitto.log"):
        with (state / log).open("a") as stream:
            stream.write(planted)
    with (fleet.device_folder("d1") / "worker" / "worker.log").open("a") as stream:
        stream.write(planted)

    ours = {**os.environ, **_variables("ARGOSY_COORDINATOR_", fleet._settings)}
    command("argosy_server.cli.main", "bugreport", str(tmp_path / "running"), environment=ours)
    command("argosy_client.cli", "bugreport", str(tmp_path / "board"), environment=fleet._device_environment("d1"))
    fleet.kill("coordinator")
    command("argosy_server.cli.main", "bugreport", str(tmp_path / "dead"), environment=ours)

    running, board, dead = (parts_of(tmp_path / name) for name in ("running", "board", "dead"))
    assert json.loads(running["health.json"])["status"] == "ok"
    assert json.loads(running["database.json"])["rows"]["runs"] == 1
    assert json.loads(running["settings.json"])["state_dir"] == str(state)
    assert "phase-finished" in running[f"runs/{run}/events.json"]
    assert {check["name"] for check in json.loads(running["doctor.json"])["checks"]} >= {"database", "keys"}
    assert "No coordinator answers" in dead["health.json"]
    assert json.loads(dead["database.json"]) == json.loads(running["database.json"])
    assert dead[f"runs/{run}/run.log"] == running[f"runs/{run}/run.log"] != ""
    assert json.loads(board["status.json"])["enrolled"] is True
    assert json.loads(board["check.json"])["findings"]
    assert json.loads(board["settings.json"])["node_config"]["db_password"] == "…"

    lines = {line for key in keys for line in key.splitlines() if "-----" not in line}
    for parts in (running, board, dead):
        everything = "\n".join(parts.values())
        assert not [line for line in lines if line in everything]
        assert token.split(".")[1] not in everything
        assert PASSWORD not in everything
        assert "argosy" in parts["versions.json"]
