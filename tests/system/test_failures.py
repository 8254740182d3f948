"""Loud failures: each has a name, the device ids, and leaves the daemons alive (issue: "Loud failures with names")."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from argosy_common.errors import ArgosyError
from argosy_server.local_fleet import LocalDevice, LocalFleet, free_ports

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """One fleet for all tests of this module; each must leave it working."""
    folder = tmp_path_factory.mktemp("failures")
    devices = [
        LocalDevice(
            name,
            {"name": name, "notes": str(folder / f"notes-{name}")},
            {"worker.time_s": 10.0, "worker.memory_mb": 2000},
        )
        for name in ("d1", "d2")
    ]
    with LocalFleet(folder / "fleet", devices, settings={"runs.device_wait_s": 3.0}) as fleet:
        fleet.start()
        yield fleet


@pytest.fixture
def ids(fleet: LocalFleet) -> dict[str, str]:
    """Device ids by name."""
    with fleet.client() as client:
        return {row["name"]: row["device"] for row in client.get("devices")["devices"]}


@pytest.fixture
def broken_lab(lab: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that copies the lab app and adds a line at the top of one of its modules."""

    def make(module: str, line: str) -> Path:
        copy = tmp_path / f"app-{module}"
        shutil.copytree(lab, copy)
        path = copy / "lab" / f"{module}.py"
        path.write_text(f"{line}\n{path.read_text()}")
        return copy

    return make


def replies(fleet: LocalFleet, run: int) -> list[dict[str, Any]]:
    """Return what devices answered to train."""
    return [
        event["data"]
        for event in fleet.events(run)
        if event["name"] == "device-reply" and event["data"]["phase"] == "train"
    ]


def failed(fleet: LocalFleet, run: int, code: str) -> dict[str, Any]:
    """Wait for the run to fail with this error and return the error."""
    row = fleet.wait_run(run, 90)
    assert row["status"] == "failed"
    assert row["error"]["code"] == code, row["error"]
    assert row["error"]["remedy"]
    error: dict[str, Any] = row["error"]
    return error


def test_too_few_devices_fails_by_name_instead_of_waiting_for_ever(fleet: LocalFleet, lab: Path) -> None:
    error = failed(fleet, fleet.run(lab, config={"min-nodes": "5"}), "too-few-devices")
    assert "wants 5 devices and only 2 are online" in error["message"]


def test_an_app_that_raises_everywhere_ends_the_run_and_names_every_device(
    fleet: LocalFleet, lab: Path, ids: dict[str, str]
) -> None:
    run = fleet.run(lab, config={"misbehave": "raise", "who": "d1+d2", "round": "1"})
    error = failed(fleet, run, "no-valid-reply")
    assert ids["d1"] in error["message"]
    assert ids["d2"] in error["message"]
    assert "the sensor is on fire" in error["message"]


@pytest.mark.parametrize(
    ("misbehave", "code"),
    [
        ("raise", "app-raised"),
        ("die", "worker-died"),
        pytest.param("hang", "worker-timed-out", marks=pytest.mark.slow),
        ("reshape", "arrays-changed"),
    ],
)
def test_a_fault_on_one_device_is_named_and_the_round_goes_on(
    fleet: LocalFleet, lab: Path, ids: dict[str, str], misbehave: str, code: str
) -> None:
    run = fleet.run(lab, rounds=2, config={"misbehave": misbehave, "who": "d1", "round": "1"})
    assert fleet.wait_run(run, 90)["status"] == "finished"
    errors = [(r["round"], r["device"], r["error"]["code"]) for r in replies(fleet, run) if r["error"]]
    # in the next round the same device, with a fresh worker where the old one died, takes part again
    assert errors == [(1, ids["d1"], code)]
    assert len([r for r in replies(fleet, run) if r["round"] == 2 and not r["error"]]) == 2


def test_a_client_app_that_does_not_import_is_named(fleet: LocalFleet, broken_lab: Callable[[str, str], Path]) -> None:
    run = fleet.run(broken_lab("client_app", "import nonexistent_sensor_library"))
    error = failed(fleet, run, "no-valid-reply")
    assert "does not import" in error["message"]
    assert "nonexistent_sensor_library" in error["message"]


def test_a_server_app_that_does_not_import_is_named(fleet: LocalFleet, broken_lab: Callable[[str, str], Path]) -> None:
    error = failed(fleet, fleet.run(broken_lab("server_app", "import nonexistent_library")), "app-import-failed")
    assert "lab.server_app:app" in error["message"]
    assert "nonexistent_library" in error["message"]


def test_a_server_app_that_raises_is_named_and_its_traceback_is_in_the_log(fleet: LocalFleet, lab: Path) -> None:
    run = fleet.run(lab, config={"floats": "-5"})
    error = failed(fleet, run, "server-app-failed")
    assert "ValueError" in error["message"]
    with fleet.client() as client:
        assert "Traceback" in client.get(f"runs/{run}/logs")["text"]


def test_a_server_app_that_is_killed_is_named(fleet: LocalFleet, broken_lab: Callable[[str, str], Path]) -> None:
    app = broken_lab("server_app", "import os; os.kill(os.getpid(), 9)")
    assert "SIGKILL" in failed(fleet, fleet.run(app), "server-app-failed")["message"]


def test_an_unknown_configuration_key_is_refused_before_anything_starts(fleet: LocalFleet, lab: Path) -> None:
    with pytest.raises(ArgosyError) as caught:
        fleet.run(lab, config={"learning-rat": "1"})
    assert caught.value.code == "run-config-invalid"
    assert "num-server-rounds" in caught.value.remedy_text


def test_a_directory_that_is_no_app_is_refused(fleet: LocalFleet, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(ArgosyError) as caught:
        fleet.run(tmp_path)
    assert caught.value.code == "app-directory-invalid"


def test_a_stopped_run_is_stopped_and_not_failed(fleet: LocalFleet, lab: Path) -> None:
    run = fleet.run(lab, config={"train-seconds": "10"})
    with fleet.client() as client:
        client.post(f"runs/{run}/stop")
    row = fleet.wait_run(run, 60)
    assert (row["status"], row["error"]) == ("stopped", None)


def test_afterwards_the_fleet_still_works(fleet: LocalFleet, lab: Path) -> None:
    assert fleet.wait_run(fleet.run(lab, rounds=2), 60)["status"] == "finished"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fleet = LocalFleet(tmp_path / "second", settings={"broker.port": port})
        with fleet, pytest.raises(ArgosyError, match=r"port-in-use|already in use"):
            fleet.start_coordinator()
        assert str(port) in fleet.log_tail("coordinator")


def test_a_second_coordinator_on_one_state_directory_is_refused(fleet: LocalFleet) -> None:
    ports = free_ports(2)
    settings = {
        "state_dir": str(fleet.folder / "coordinator"),
        "broker.port": ports[0],
        "enrolment.port": ports[1],
    }
    second = LocalFleet(fleet.folder.parent / "again", settings=settings)
    with second, pytest.raises(ArgosyError, match=r"already-running|already runs"):
        second.start_coordinator()


def test_a_wrong_pin_and_a_wrong_token_are_told_apart(fleet: LocalFleet) -> None:
    fleet.devices["d9"] = LocalDevice("d9")
    try:
        with pytest.raises(ArgosyError, match="does not know this token"):
            fleet.join("d9", token="00000000." + "A" * 32)
        with pytest.raises(ArgosyError, match="another certificate authority"):
            fleet.join("d9", pin="sha256:" + "00" * 32)
    finally:
        del fleet.devices["d9"]
