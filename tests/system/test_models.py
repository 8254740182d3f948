"""The way of a model: trained by boards, exported by its app, signed, rolled out, and asked by a program on a board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy_client.inference import Client
from argosy_client.inference.folder import Version
from argosy_client.inference.placement.plan import Plan, write_plan
from argosy_common.artefact import Manifest
from argosy_common.artefact.golden import unpack_golden
from argosy_common.artefact.signature import Purpose, Signature, verify
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.fleets import data_of

pytestmark = pytest.mark.timeout(240)

LINEAR = Path(__file__).parent / "apps" / "linear"


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Two boards with the real inference process."""
    folder = tmp_path_factory.mktemp("m")
    boards = [
        LocalDevice(
            name,
            {},
            {
                "heartbeat_s": 0.5,
                "resend_s": 2.0,
                "inference.socket": str(folder / f"{name}.sock"),
                "inference.report_s": 1.0,
                "inference.target_ms": 0.0001 if name == "d1" else 1000.0,
            },
        )
        for name in ("d1", "d2")
    ]
    settings = {"runs.resend_s": 1.0, "inference.enabled": True}
    with LocalFleet(folder / "fleet", boards, settings=settings) as made:
        made.start()
        yield made


def argosy(fleet: LocalFleet, *words: str) -> subprocess.CompletedProcess[str]:
    start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
    command = [sys.executable, "-c", start, *words, "--socket", str(fleet.socket)]
    wide = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=wide)


def told(done: subprocess.CompletedProcess[str]) -> Any:  # noqa: ANN401  (of JSON)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trained(fleet: LocalFleet, **config: str) -> int:
    run = fleet.run(LINEAR, config=config)
    assert fleet.wait_run(run, 90)["status"] == "finished"
    return run


def rolled_out(fleet: LocalFleet, model: str) -> None:
    with fleet.client() as api:
        number = api.post("rollouts", {"model": model, "rings": [{"share": 1.0, "hold_s": 0.0}]})["rollout"]
        wait_until(lambda: api.get(f"rollouts/{number}")["state"] in ("finished", "rolled-back"), 120, "the rollout")
        assert api.get(f"rollouts/{number}")["state"] == "finished", api.get(f"rollouts/{number}")


def socket(fleet: LocalFleet, name: str) -> Path:
    return fleet.folder.parent / f"{name}.sock"


def test_what_boards_have_trained_is_served_on_them_version_by_version_and_without_anybody(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    _first_version(fleet, tmp_path)
    _second_version(fleet)
    _drift_is_seen(fleet)
    _after_kills(fleet)
    _what_a_person_sees(fleet)
    _revoked(fleet)


@pytest.mark.slow
def test_training_gives_way_to_what_is_served_and_the_coordinator_may_run_a_part_of_it(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    _first_version(fleet, tmp_path)
    _second_version(fleet)
    _training_yields(fleet)
    _run_by_the_coordinator(fleet)


def _first_version(fleet: LocalFleet, tmp_path: Path) -> None:
    run = trained(fleet, **{"num-server-rounds": "2"})
    (exported,) = data_of(fleet, run, "model-exported")
    assert exported["model"] == "linear:1"
    (row,) = told(argosy(fleet, "model", "list", "--json"))["models"]
    assert (row["model"], row["run"], row["round"], row["metrics"]["accuracy"]) == ("linear:1", run, 2, 0.7)
    shown = told(argosy(fleet, "model", "show", "linear", "--json"))
    assert shown["signature"]["fault"] == ""
    assert shown["manifest"]["labels"] == ["cat", "dog", "bird"]
    # what leaves the coordinator holds by itself
    folder = tmp_path / "linear-1"
    told(argosy(fleet, "model", "export", "linear:1", "--output", str(folder), "--json"))
    manifest = Manifest.parse((folder / "manifest.json").read_bytes())
    signature = Signature.model_validate_json((folder / "signature.json").read_bytes())
    root = (fleet.device_folder("d1") / "ca.crt").read_text()
    verify(signature, Purpose.MANIFEST, manifest.canonical(), root)
    inputs, outputs = unpack_golden((folder / "golden.bin").read_bytes(), manifest)
    # and on the boards
    rolled_out(fleet, "linear:1")
    for name in ("d1", "d2"):
        with Client(socket(fleet, name)) as client:
            assert np.allclose(client.infer("linear", inputs.astype(np.float32) * 2), outputs, atol=1e-4), (
                "standardised on the board"
            )
            (served,) = client.models()
            assert (served["version"], served["ran_on"][:3]) == (1, "CPU")
        form = fleet.device_folder(name) / "models" / "linear" / "1" / "litert.form"
        assert form.read_bytes().startswith(b"no model at all")


def _second_version(fleet: LocalFleet) -> None:
    trained(fleet, **{"num-server-rounds": "3"})
    rolled_out(fleet, "linear:2")
    with Client(socket(fleet, "d1")) as client:
        assert client.models()[0]["version"] == 2
    differs = told(argosy(fleet, "model", "diff", "linear:1", "linear:2", "--json"))
    assert differs["metrics"]["accuracy"] == [0.7, 0.8]
    assert {each["name"] for each in differs["weights"]} == {"w", "b"}
    assert differs["answers"]["largest_difference"] > 0.1
    assert "linear:2" in argosy(fleet, "model", "diff", "linear:1", "linear:2").stdout
    told(argosy(fleet, "model", "promote", "linear:2", "--json"))
    assert told(argosy(fleet, "model", "show", "linear:2", "--json"))["promoted_at"]


def _run_by_the_coordinator(fleet: LocalFleet) -> None:
    """By a plan, as long as it lives; and then by the board again."""
    plan = told(on_board(fleet, "d1", "plan", "linear", "--json"))
    assert plan["wire"]["rtt_ms"] > 0
    assert {way["kind"] for way in plan["ways"]} == {"local", "remote"}, "there is but one operation"
    version = Version.open(fleet.device_folder("d1") / "models" / "linear" / "2")
    digest = version.manifest.onnx.digest
    write_plan(version, Plan(model="linear:2", onnx=digest, way="remote", tensor="x", timeout_ms=5000.0))
    inputs = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    with Client(socket(fleet, "d1")) as client, Client(socket(fleet, "d2")) as other:
        wanted = other.infer("linear", inputs)
        wait_until(lambda: client.models()[0]["ran_on"] == "coordinator", 30, "the coordinator to run it")
        assert np.allclose(client.infer("linear", inputs), wanted, atol=1e-4)
        fleet.kill("coordinator")
        for _ in range(3):
            assert np.allclose(client.infer("linear", inputs), wanted, atol=1e-4)
        served = client.models()[0]
        assert (served["remote"], served["fallbacks"], served["errors"]) == (1, 1, 0)
        assert served["ran_on"].startswith("CPU (not the coordinator")
        fleet.start_coordinator()
        wait_until(lambda: client.models()[0]["ran_on"] == "coordinator", 60, "the coordinator to run it again")
    fleet.wait_online(2, 90)


def _revoked(fleet: LocalFleet) -> None:
    """A board that was shut out runs what it has, and the coordinator runs nothing for it."""
    assert argosy(fleet, "device", "revoke", "d2", "--yes").returncode == 0
    plan = told(on_board(fleet, "d2", "plan", "linear", "--json"))
    assert plan["choice"] == "local"
    assert "revoked" in plan["reason"]


def on_board(fleet: LocalFleet, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "argosy_client.cli", *words, "--state-dir", str(fleet.device_folder(name))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _drift_is_seen(fleet: LocalFleet) -> None:
    """What a board sees is compared with what boards trained on; the run that made its model can be run again."""
    rng = np.random.default_rng(1)
    assert told(argosy(fleet, "model", "show", "linear:2", "--json"))["manifest"]["seen"]["inputs"] > 0

    def see(name: str, shift: float) -> None:
        with Client(socket(fleet, name)) as client:
            client.infer("linear", (rng.normal(size=(64, 4)) + shift) * 2)

    def drifting() -> list[str]:
        see("d1", 3.0)
        see("d2", 0.0)
        return [row["name"] for row in told(argosy(fleet, "device", "list", "--drifting", "--json"))]

    wait_until(lambda: drifting() == ["d1"], 60, "d1 to tell its drift")
    wait_until(lambda: all(row["drift"] for row in told(argosy(fleet, "device", "list", "--json"))), 60, "d2 as well")
    assert drifting() == ["d1"]
    assert "linear:2" in argosy(fleet, "device", "list", "--drifting").stdout
    run = told(argosy(fleet, "model", "show", "linear:2", "--json"))["manifest"]["run"]
    again = int(argosy(fleet, "run", "repeat", str(run)).stdout)
    assert fleet.wait_run(again, 90)["status"] == "finished"
    assert data_of(fleet, again, "model-exported")[0]["model"] == "linear:3"


def _training_yields(fleet: LocalFleet) -> None:
    """While a board answers too slowly, its training gives way; the run is finished all the same."""
    run = fleet.run(LINEAR, config={"busy-s": "6"})

    def yields(name: str) -> bool:
        with Client(socket(fleet, name)) as client:
            for _ in range(20):
                client.infer("linear", np.zeros(4, np.float32))
        rows = {row["name"]: row for row in told(argosy(fleet, "device", "list", "--json"))}
        return rows[name]["presence"]["heartbeat"].get("yielding") in ("lowered", "paused")

    wait_until(lambda: yields("d1"), 30, "d1 to give way")
    assert fleet.wait_run(run, 90)["status"] == "finished"


def _after_kills(fleet: LocalFleet) -> None:
    """A board serves after a kill without its coordinator, and that knows all after one."""
    before = told(argosy(fleet, "model", "list", "--json"))
    fleet.kill("coordinator")
    fleet.kill("d1")
    fleet.start_device("d1")

    def serves() -> bool:
        try:
            with Client(socket(fleet, "d1")) as client:
                return client.infer("linear", np.zeros(4, np.float32)).shape == (1, 3)
        except Exception:  # noqa: BLE001  (until it is up)
            return False

    wait_until(serves, 60, "d1 to serve")
    fleet.start_coordinator()
    fleet.wait_online(2, 90)
    assert told(argosy(fleet, "model", "list", "--json")) == before


FAULTS = {
    "raise": ("model-export-failed", "no idea how"),
    "crash": ("model-export-failed", "SIGABRT"),
    "pickle": ("onnx-refused", "pickle"),
}


def test_an_export_that_fails_is_told_by_name_and_is_not_the_runs(fleet: LocalFleet) -> None:
    for fault, (code, why) in FAULTS.items():
        run = trained(fleet, fault=fault)
        (failed,) = data_of(fleet, run, "model-not-exported")
        assert failed["error"]["code"] == code
        assert why in failed["error"]["message"]
        assert data_of(fleet, run, "model-exported") == []


def _what_a_person_sees(fleet: LocalFleet) -> None:
    listed = argosy(fleet, "model", "list").stdout
    assert "linear:1" in listed
    assert "promoted" in listed
    shown = argosy(fleet, "model", "show", "linear:1").stdout
    for words in ("n × 4", "cat, dog, bird", "standardise", "accuracy 0.7"):
        assert words in shown
    missing = argosy(fleet, "model", "show", "nobody:9")
    assert missing.returncode == 125
    assert "nobody:9" in missing.stderr
    device = [sys.executable, "-m", "argosy_client.cli"]
    state = ["--state-dir", str(fleet.device_folder("d2"))]
    models = subprocess.run(
        [*device, "models", *state, "--json"], capture_output=True, text=True, timeout=60, check=False,
        env={"ARGOSY_DEVICE_INFERENCE__SOCKET": str(socket(fleet, "d2")), "PATH": "/usr/bin", **_python_path()},
    )  # fmt: skip
    assert told(models)["models"][0]["model"] == "linear"


def _python_path() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key in ("PYTHONPATH", "HOME")}
