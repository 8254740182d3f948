"""Models on their way to boards and back: real daemons over a real broker, and a judge in the place of a runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from argosy_common.artefact.signature import Signature
from argosy_common.blobs import BlobStore
from argosy_common.errors import RolloutStateForbids, RolloutUnsuitable
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.artefacts import BAD, Artefact, Authority, artefact
from tests.fleets import add_model
from tests.system.disks import SmallDisk

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
NAMES = ("d1", "d2", "d3")
MB = 1_000_000
Row = dict[str, Any]


class Fleet(LocalFleet):
    """Three boards with judges."""

    def start_device(self, name: str) -> None:
        """Start a board's daemon with a judge."""
        command = [sys.executable, str(Path(__file__).with_name("judging_device.py"))]
        self._spawn(name, command, self._device_environment(name))

    @property
    def state(self) -> Path:
        return self.folder / "coordinator"

    @property
    def blobs(self) -> BlobStore:
        return BlobStore(self.state / "blobs")

    def add(self, made: Artefact, signature: Signature | None = None) -> str:
        """Put a version into the registry, as an export would, signed by the coordinator unless given."""
        return add_model(self, made, signature)

    def roll_out(self, model: str, *shares: float, tag: str | None = None, hold_s: float = 0.0) -> int:
        rings: list[Row] = [{"share": share, "hold_s": hold_s} for share in shares]
        rings = rings or [{"tag": tag, "hold_s": hold_s}] if tag else rings
        with self.client() as api:
            return int(api.post("rollouts", {"model": model, "rings": rings})["rollout"])

    def rollout(self, number: int) -> Row:
        with self.client() as api:
            return api.get(f"rollouts/{number}")

    def ends(self, number: int, *, patience_s: float = 60.0) -> Row:
        """Wait until a rollout is finished or rolled back."""

        def over() -> bool:
            return self.rollout(number)["state"] in ("finished", "rolled-back")

        wait_until(over, patience_s, f"rollout {number} to end: {self.rollout(number)}")
        return self.rollout(number)

    def in_force(self, name: str) -> list[int | None]:
        """What each board has in force of a model, as its disk says."""
        paths = [self.device_folder(board) / "models" / name / "current.json" for board in NAMES]
        return [json.loads(path.read_text())["version"] if path.exists() else None for path in paths]

    def argosy(self, *words: str) -> subprocess.CompletedProcess[str]:
        start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
        command = [sys.executable, "-c", start, *words, "--socket", str(self.socket)]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SmallDisk]]:
    """Where the module's small file system, if one can be mounted here, is kept until it is unmounted."""
    disks: list[SmallDisk] = []
    yield disks
    for each in disks:
        each.unmount()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, disk: list[SmallDisk]) -> Iterator[Fleet]:
    """One fleet for all tests of this module: each has a model of its own, and leaves all boards running."""
    boards = [LocalDevice(name, {}, {"heartbeat_s": 2.0, "death_delay_s": 1, "resend_s": 2.0}) for name in NAMES]
    with Fleet(
        tmp_path_factory.mktemp("rollout") / "fleet",
        boards,
        settings={"runs.grace_s": 1.0, "runs.resend_s": 1.0},
        environment={"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    ) as made:
        if (mounted := SmallDisk.mounted(made.device_folder("d1"))) is not None:
            disk.append(mounted)
        made.start()
        with made.client() as api:
            api.post("devices/d1/tag", {"add": ["canary"]})
        yield made


def _online(fleet: Fleet) -> int:
    with fleet.client() as api:
        return int(api.get("health")["devices_online"])


def why(row: Row) -> dict[str, str]:
    """The codes of the errors that devices gave, by name."""
    return {each["name"]: each["error"]["code"] for each in row["devices"] if each["error"]}


def test_a_version_goes_ring_by_ring_to_every_board_and_one_that_was_away_gets_it_when_it_comes(fleet: Fleet) -> None:
    fleet.kill("d3", signal.SIGTERM)
    wait_until(lambda: _online(fleet) == 2, 30, "d3 to be away")
    number = fleet.roll_out(fleet.add(artefact(1, name="rings")), 0.3, 1.0, hold_s=1)
    assert len(fleet.rollout(number)["devices"]) == 1
    assert fleet.ends(number)["state"] == "finished"
    assert fleet.in_force("rings") == [1, 1, None]
    fleet.start_device("d3")
    wait_until(lambda: fleet.in_force("rings") == [1] * 3, 30, "d3 to get it")
    wait_until(lambda: fleet.rollout(number)["counts"] == {"active": 3}, 30, "d3 to say so")


def test_a_canary_that_fails_its_threshold_rolls_back_by_itself_and_no_other_board_ever_gets_it(fleet: Fleet) -> None:
    assert fleet.ends(fleet.roll_out(fleet.add(artefact(1, name="canary")), 1.0))["state"] == "finished"
    bad = fleet.add(artefact(2, name="canary", onnx=BAD + b" weights"))
    done = fleet.argosy("model", "rollout", bad, "--rings", "30%,100%", "--hold", "1s", "--watch")
    assert done.returncode == 125, done.stderr
    assert "[rollout-rolled-back]" in done.stderr
    assert "1 of 1 devices failed with it, over the limit of 2 %" in done.stderr
    with fleet.client() as api:
        row = api.get("rollouts/canary")
        audited = [it["action"] for it in api.get("audit")["entries"] if it["subject"] == bad]
    assert (row["state"], len(row["devices"]), set(why(row).values())) == ("rolled-back", 1, {"model-misfit"})
    assert fleet.in_force("canary") == [1] * 3
    assert audited == ["model.add", "model.rollout", "model.fail", "model.rolled-back"]


def tampered(fleet: Fleet, made: Artefact) -> str:
    model = fleet.add(made)
    path = fleet.blobs.path(bytes.fromhex(made.manifest.onnx.digest))
    path.write_bytes(made.onnx[:-1] + b"!")
    return model


def truncated(fleet: Fleet, made: Artefact) -> str:
    model = fleet.add(made)
    path = fleet.blobs.path(bytes.fromhex(made.manifest.onnx.digest))
    path.write_bytes(made.onnx[:-1])
    return model


def wrongly_signed(fleet: Fleet, made: Artefact) -> str:
    return fleet.add(made, Authority().sign(made.manifest))


ATTACKS: dict[str, tuple[Callable[[Fleet, Artefact], str], set[str]]] = {
    "tampered": (tampered, {"blob-corrupt"}),
    "truncated": (truncated, {"blob-corrupt"}),
    "unsigned": (wrongly_signed, {"signature-invalid"}),
}


def test_what_is_not_what_was_signed_is_refused_by_name_and_changes_nothing(fleet: Fleet) -> None:
    for number in [fleet.roll_out(fleet.add(artefact(1, name=name)), 1.0) for name in ATTACKS]:
        assert fleet.ends(number)["state"] == "finished"
    begun = {
        name: fleet.roll_out(attack(fleet, artefact(2, name=name)), 0.3, 1.0) for name, (attack, _) in ATTACKS.items()
    }
    for name, number in begun.items():
        row = fleet.ends(number)
        assert (row["state"], len(row["devices"])) == ("rolled-back", 1), name
        assert set(why(row).values()) == ATTACKS[name][1]
        assert fleet.in_force(name) == [1] * 3


def test_an_operator_stops_a_rollout_and_every_board_goes_back_also_over_a_kill_of_the_coordinator(
    fleet: Fleet,
) -> None:
    first, second = fleet.add(artefact(1, name="stopped")), fleet.add(artefact(2, name="stopped"))
    fleet.ends(fleet.roll_out(first, 1.0))
    number = fleet.roll_out(second, 0.6, 1.0, hold_s=3600)
    wait_until(lambda: fleet.rollout(number)["counts"] == {"active": 2}, 30, "two boards to have it")
    assert sorted(it or 0 for it in fleet.in_force("stopped")) == [1, 2, 2]
    with fleet.client() as api:
        assert api.post(f"rollouts/{number}/pause")["state"] == "paused"
        with pytest.raises(RolloutStateForbids):
            api.post(f"rollouts/{number}/pause")
        api.post("rollouts/stopped/stop")
    fleet.kill("coordinator")
    fleet.start_coordinator()
    assert fleet.ends(number)["state"] == "rolled-back"
    assert fleet.in_force("stopped") == [1] * 3


@pytest.mark.slow
def test_a_coordinator_that_is_killed_in_the_middle_goes_on_where_it_was(fleet: Fleet) -> None:
    number = fleet.roll_out(fleet.add(artefact(1, name="killed")), 0.3, 0.6, 1.0, hold_s=1)
    wait_until(lambda: bool(fleet.rollout(number)["devices"]), 20, "the first board to be admitted")
    admitted = {each["device"] for each in fleet.rollout(number)["devices"]}
    fleet.kill("coordinator")
    fleet.start_coordinator()
    row = fleet.ends(number)
    assert row["state"] == "finished"
    assert admitted < {each["device"] for each in row["devices"]}
    assert fleet.in_force("killed") == [1] * 3


def test_a_rollback_is_signed_and_an_older_version_without_it_is_refused(fleet: Fleet) -> None:
    models = [fleet.add(artefact(version, name="older")) for version in (1, 2)]
    for model in models:
        assert fleet.ends(fleet.roll_out(model, 1.0))["state"] == "finished"
    with pytest.raises(RolloutUnsuitable, match="rollback"):
        fleet.roll_out(models[0], 1.0)
    with fleet.client() as api:
        number = api.post("rollouts/rollback", {"model": "older"})["rollout"]
    assert fleet.ends(number)["state"] == "rolled-back"
    assert fleet.in_force("older") == [1] * 3
    # a coordinator that lost its memory of what is out: the boards have not
    fleet.ends(fleet.roll_out(models[1], 1.0))
    fleet.kill("coordinator")
    engine = create_engine(f"sqlite:///{fleet.state / 'coordinator.db'}")
    with engine.begin() as connection:
        mine = "SELECT id FROM rollouts WHERE name = 'older'"
        connection.execute(text(f"DELETE FROM rollout_devices WHERE rollout IN ({mine})"))  # noqa: S608  (ours)
        connection.execute(text("DELETE FROM rollouts WHERE name = 'older'"))
    engine.dispose()
    fleet.start_coordinator()
    row = fleet.ends(fleet.roll_out(models[0], 0.3, 1.0))
    assert (row["state"], set(why(row).values())) == ("rolled-back", {"model-outdated"})
    assert fleet.in_force("older") == [2] * 3


def test_a_board_with_a_full_disk_refuses_by_name_and_takes_the_version_once_there_is_room(
    fleet: Fleet, disk: list[SmallDisk]
) -> None:
    if not disk:
        pytest.skip("a small file system cannot be mounted here")
    first = artefact(1, name="large", onnx=os.urandom(9 * MB))  # large enough to come by HTTPS
    model = fleet.add(first)
    for left in (5 * MB, 13 * MB):  # no room for the blob; for the blob and not for the model's folder
        with disk[0].room(left):
            row = fleet.ends(fleet.roll_out(model, tag="canary"))
        assert (row["state"], why(row)) == ("rolled-back", {"d1": "disk-full"}), left
        assert fleet.in_force("large") == [None] * 3
    assert fleet.ends(fleet.roll_out(model, tag="canary"))["state"] == "finished"
    assert fleet.in_force("large") == [1, None, None]
