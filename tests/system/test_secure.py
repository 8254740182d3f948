"""Secure runs over a real broker, of real processes on real recordings, with devices that die and come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy_common.errors import SecureTooFewDevices, SecureUnsuitable
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.fleets import behind_a_cable, data_of

MASKED = Path(__file__).parent / "apps" / "masked"

pytestmark = pytest.mark.timeout(300)


class People:
    """A fleet of devices with one person's recordings each, and notes of what each returned."""

    def __init__(self, folder: Path, data: Path, count: int, *, operator_key: Path | None = None) -> None:
        self.notes = {f"p{number}": folder / f"notes-p{number}" for number in range(1, count + 1)}
        devices = []
        for number, (name, notes) in enumerate(self.notes.items(), 1):
            notes.mkdir()
            config: dict[str, bool | int | float | str] = {
                "subject": number,
                "data": str(data),
                "notes": str(notes),
                "name": name,
            }
            devices.append(LocalDevice(name, config, {"heartbeat_s": 2.0, "death_delay_s": 1, "resend_s": 2.0}))
        told = {"runs.resend_s": 2.0, "runs.grace_s": 2.0}
        self.fleet = LocalFleet(folder / "fleet", devices, settings=told, operator_key=operator_key)

    def run(self, rounds: int, *, table: str = "secure = true", **config: object) -> int:
        """Start a run of the app; `table` is its `[tool.argosy]`."""
        return self.fleet.run(
            self.app(table), rounds=rounds, config={name: str(value) for name, value in config.items()}
        )

    def app(self, table: str = "secure = true") -> Path:
        """Return the folder of the app with this `[tool.argosy]`."""
        app = self.fleet.folder / f"app-{len(list(self.fleet.folder.glob('app-*')))}"
        _copy(MASKED, app)
        manifest = app / "pyproject.toml"
        manifest.write_text(f"{manifest.read_text()}\n[tool.argosy]\n{table}\n")
        return app

    def model(self, run: int, round_: int) -> dict[str, Any]:
        """Return the global model after a round."""
        with np.load(self.fleet.folder / "coordinator" / "runs" / str(run) / f"model-{round_}.npz") as file:
            return dict(file)

    def mean(self, round_: int, names: Sequence[str], weights: Callable[[int], float]) -> dict[str, Any]:
        """Return the plain weighted mean of what these devices returned in a round, and of what they reported."""
        found = []
        for name in names:
            with np.load(self.notes[name] / f"round-{round_}.npz") as file:
                found.append(dict(file))
        counts = np.array([weights(int(each["num-examples"])) for each in found])
        return {
            name: np.einsum("i,i...", counts, np.stack([each[name] for each in found])) / counts.sum()
            for name in ("weights", "bias", "loss", "accuracy")
        }

    def hold(self, name: str, round_: int) -> Path:
        """Let a device wait in a round's training until the file is gone."""
        path = self.notes[name] / f"hold-{round_}"
        path.touch()
        return path

    def wait_uploads(self, run: int, round_: int, count: int) -> None:
        """Wait until so many masked updates are in."""

        def there() -> bool:
            return len(data_of(self.fleet, run, "device-reply", round=round_, phase="train")) >= count

        wait_until(there, 60, f"{count} updates of round {round_}")


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def power_of_two(examples: int) -> float:
    """Return the weight that a secure run gives a device by default."""
    return float(2 ** round(np.log2(examples)))


@pytest.fixture
def people(tmp_path: Path, har_data: Path) -> Iterator[Callable[..., People]]:
    """Return a function that starts a fleet of so many people."""
    made: list[People] = []

    def start(count: int) -> People:
        made.append(People(tmp_path, har_data, count))
        made[-1].fleet.start()
        return made[-1]

    yield start
    for each in made:
        each.fleet.stop()


def test_people_learn_together_and_nobody_sees_a_single_update(people: Callable[..., People]) -> None:
    """Four devices: the model and the metrics of each round are those of the plain mean; a strategy needs no change."""
    four = people(4)
    _refuse_what_cannot_be(four)
    run = four.run(3, **{"fail-on": ""})
    row = four.fleet.wait_run(run, 120)
    assert row["status"] == "finished", row["error"]
    assert row["options"]["secure"]["enabled"]
    assert row["options"]["secure"]["fleet"] is None
    for number in (1, 2, 3):
        expected, model = four.mean(number, list(four.notes), power_of_two), four.model(run, number)
        assert np.allclose(model["weights"], expected["weights"], atol=1e-3)
        assert np.allclose(model["bias"], expected["bias"], atol=1e-3)
        (group,) = data_of(four.fleet, run, "secure-group", round=number, phase="train")
        assert group["metrics"]["loss"] == pytest.approx(float(expected["loss"]), abs=1e-6)
        assert group["metrics"]["accuracy"] == pytest.approx(float(expected["accuracy"]), abs=1e-6)
        assert len(group["summed"]) == 4
    for reply in data_of(four.fleet, run, "device-reply"):
        assert "loss" not in json.dumps(reply), "a device's own metrics"
    (evaluated,) = data_of(four.fleet, run, "secure-group", round=3, phase="evaluate")
    assert 0.5 < evaluated["metrics"]["accuracy"] <= 1.0


def _refuse_what_cannot_be(four: People) -> None:
    """A codec beside the mask is told at once; a median, as soon as it starts."""
    with pytest.raises(SecureUnsuitable, match="eden:2"):
        four.run(1, table='secure = true\ncodec = "eden:2"')
    run = four.run(1, strategy="FedMedian")
    row = four.fleet.wait_run(run, 60)
    assert row["status"] == "failed"
    assert row["error"]["code"] == SecureUnsuitable.code
    assert "FedMedian" in row["error"]["message"]
    assert not data_of(four.fleet, run, "phase-started")


def test_a_fleet_of_three_cannot_be_secure(people: Callable[..., People]) -> None:
    """It is refused at the start, with the number that it takes."""
    three = people(3)
    with pytest.raises(SecureTooFewDevices, match="at least 4"):
        three.run(1)


@pytest.mark.slow
def test_a_round_survives_deaths_at_every_stage_and_fails_by_name_where_it_cannot(
    tmp_path: Path, har_data: Path
) -> None:
    """Twelve devices, nine holders needed. Round 1: one dies before its update, two after it, one is cut off and comes
    back. Round 2: four are gone for good after their updates. Round 3: all are back.
    """
    twelve = People(tmp_path, har_data, 12)
    fleet, names = twelve.fleet, list(twelve.notes)
    with fleet:
        fleet.start_coordinator()
        for name in names:
            fleet.join(name)
        cable = behind_a_cable(fleet, "p4")
        for name in names:
            fleet.start_device(name)
        fleet.wait_online(12)
        holds = {number: twelve.hold("p1", number) for number in (1, 2)}
        table = '[tool.argosy.secure]\nenabled = true\nrecovery = 20\nweights = "exact"'
        run = twelve.run(3, table=table, evaluate="false", **{"min-nodes": 12})
        # round 1
        twelve.wait_uploads(run, 1, 11)
        cable.pull()
        for name in ("p2", "p3"):
            fleet.kill(name)
        fleet.kill("p1")
        holds[1].unlink()
        wait_until(lambda: bool(_voted(fleet, run)), 60, "holders to be asked")
        cable.plug()
        wait_until(lambda: bool(data_of(fleet, run, "secure-group", round=1)), 60, "round 1 to end")
        (group,) = data_of(fleet, run, "secure-group", round=1)
        assert group["error"] is None, group
        assert len(group["summed"]) == 11
        assert (group["answers"], group["checked"]) == (9, False)
        for name in ("p1", "p2", "p3"):
            fleet.start_device(name)
        # round 2
        twelve.wait_uploads(run, 2, 11)
        gone = ("p5", "p6", "p7", "p8")
        for name in gone:
            fleet.kill(name)
        holds[2].unlink()
        wait_until(lambda: bool(data_of(fleet, run, "secure-group", round=2)), 60, "round 2 to fail")
        (failed,) = data_of(fleet, run, "secure-group", round=2)
        assert failed["error"]["code"] == "secure-sum-unrecoverable"
        assert failed["answers"] == 0
        assert "summed" not in failed
        for name in gone:
            fleet.start_device(name)
        # round 3
        row = fleet.wait_run(run, 120)
        assert row["status"] == "finished", row["error"]
        (last,) = data_of(fleet, run, "secure-group", round=3)
        assert len(last["summed"]) == 12
        cable.close()
    first = twelve.mean(1, names[1:], float)
    assert np.allclose(twelve.model(run, 1)["weights"], first["weights"], atol=1e-3)
    assert np.array_equal(twelve.model(run, 2)["weights"], twelve.model(run, 1)["weights"]), "nothing came of round 2"
    third = twelve.mean(3, names, float)
    assert np.allclose(twelve.model(run, 3)["weights"], third["weights"], atol=1e-3)


def _voted(fleet: LocalFleet, run: int) -> list[dict[str, Any]]:
    """Return the signs that updates are closed: the device that died before its update is given up."""
    return [data for data in data_of(fleet, run, "device-reply", round=1) if data["error"]]


@pytest.mark.slow
def test_a_secure_run_goes_on_after_its_coordinator_was_killed_while_devices_answered(
    tmp_path: Path, har_data: Path
) -> None:
    people = People(tmp_path, har_data, 5)
    with people.fleet as fleet:
        fleet.start()
        for point in ("instructions.recorded:2", "reply.recorded:8"):
            fleet.kill("coordinator")
            fleet.start_coordinator(crash_at=point)
            fleet.wait_online(5, 60)
            process = fleet.processes["coordinator"]
            run = people.run(2)
            wait_until(lambda process=process: process.poll() is not None, 60, "the coordinator to be killed")  # type: ignore[misc]  # bound at once
            fleet.start_coordinator()
            row = fleet.wait_run(run, 120)
            assert row["status"] == "finished", row["error"]
            assert not data_of(fleet, run, "secure-failed")
