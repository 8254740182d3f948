"""Full disks and broken files: named, survived, and gone on from once there is room."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_common.bundle import pack
from argosy_common.errors import BlobCorrupt, DiskFull
from argosy_server.local_fleet import LocalFleet, wait_until
from tests.fleets import data_of
from tests.system.disks import SmallDisk

pytestmark = pytest.mark.timeout(180)

MB = 1_000_000
Notes = Callable[[str], list[tuple[str, int]]]
FleetMaker = Callable[..., LocalFleet]


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], SmallDisk]]:
    """Return a function that mounts a small file system at a folder."""
    disks: list[SmallDisk] = []

    def make(folder: Path) -> SmallDisk:
        disks.append(SmallDisk.or_skip(folder))
        return disks[-1]

    yield make
    for disk in disks:
        disk.unmount()


def errors(fleet: LocalFleet, run: int) -> list[tuple[int, str]]:
    """Return round and code of the errors that devices answered to train."""
    return [(d["round"], d["error"]["code"]) for d in data_of(fleet, run, "device-reply", phase="train") if d["error"]]


def finished(fleet: LocalFleet, run: int) -> None:
    """Wait for the run to finish, with replies of all devices."""
    row = fleet.wait_run(run, 60)
    assert row["status"] == "finished", row["error"]
    assert all(data["replied"] == data["sent"] for data in data_of(fleet, run, "phase-finished"))


@pytest.fixture
def tight_device(
    small_disk: Callable[[Path], SmallDisk], make_fleet: FleetMaker
) -> Iterator[tuple[LocalFleet, SmallDisk]]:
    """Two devices, of which d1 has a disk of its own."""
    fleet = make_fleet(2, start=False)
    disk = small_disk(fleet.device_folder("d1"))
    fleet.start()
    yield fleet, disk
    fleet.stop()


@pytest.mark.slow
def test_a_device_with_a_full_disk_says_so_and_works_again_once_there_is_room(
    tight_device: tuple[LocalFleet, SmallDisk], lab: Path
) -> None:
    fleet, disk = tight_device
    model = {"floats": "2000000", "timeout": "90"}  # 8 MB
    finished(fleet, fleet.run(lab, rounds=1))
    # no room for the journal; none for the model; for the model and not for what was trained
    for left in (0, 2 * MB, 12 * MB):
        with disk.room(left):
            run = fleet.run(lab, rounds=1, config=model)
            assert fleet.wait_run(run, 60)["status"] == "finished"  # the other device's reply is valid
        assert errors(fleet, run) == [(1, "disk-full")], left
    finished(fleet, fleet.run(lab, rounds=2, config=model))
    assert fleet.processes["d1"].poll() is None


@pytest.fixture
def tight_coordinator(
    small_disk: Callable[[Path], SmallDisk], make_fleet: FleetMaker, tmp_path: Path
) -> Iterator[tuple[LocalFleet, SmallDisk]]:
    """One device, and a coordinator with a disk of its own."""
    disk = small_disk(tmp_path / "fleet0" / "coordinator")
    fleet = make_fleet(1)
    yield fleet, disk
    fleet.stop()


@pytest.mark.slow
def test_a_coordinator_with_a_full_disk_says_so_and_works_again_once_there_is_room(
    tight_coordinator: tuple[LocalFleet, SmallDisk], lab: Path, notes: Notes
) -> None:
    fleet, disk = tight_coordinator
    one = {"min-nodes": "1"}
    with disk.room(0), pytest.raises(DiskFull):
        fleet.run(lab, rounds=1, config=one)  # the bundle finds no room
    finished(fleet, fleet.run(lab, rounds=1, config=one))
    with disk.room(0), pytest.raises(DiskFull):
        fleet.run(lab, rounds=1, config=one)  # the bundle is there; the run's row finds no room
    finished(fleet, fleet.run(lab, rounds=1, config=one))
    # full in the middle of a round: the model finds no room
    run = fleet.run(lab, rounds=3, config={**one, "floats": "2000000", "train-seconds": "2"})
    before = len(notes("d1"))
    wait_until(lambda: len(notes("d1")) > before, 60, "d1 to train")
    with disk.room(2 * MB):
        row = fleet.wait_run(run, 60)
        assert (row["status"], row["error"]["code"]) == ("failed", "no-valid-reply")
        assert "is full" in row["error"]["message"]
    finished(fleet, fleet.run(lab, rounds=1, config=one))
    ends_without_room(fleet, disk, fleet.run(lab, rounds=2, config={**one, "train-seconds": "1"}))
    finished(fleet, fleet.run(lab, rounds=1, config=one))


def ends_without_room(fleet: LocalFleet, disk: SmallDisk, run: int) -> None:
    """Have a run end while nothing can be written down; it is over once there is room."""
    log = fleet.log_path("coordinator")
    wait_until(lambda: bool(data_of(fleet, run, "phase-started")), 60, "the round")
    with disk.room(0), fleet.client() as client:
        wait_until(lambda: "answer_not_recorded" in log.read_text(), 60, "an answer that finds no room")
        with pytest.raises(DiskFull):
            client.post(f"runs/{run}/stop")  # it stops all the same; what finds no room is the record of who did it
        wait_until(lambda: f"the end of run {run}" in log.read_text(), 60, "the end of the run")
    assert fleet.wait_run(run, 60)["status"] == "stopped"
    assert data_of(fleet, run, "run-finished", status="stopped")
    with fleet.client() as client:
        wait_until(lambda: client.get("health")["runs_active"] == [], 20, "the coordinator to be done with it")


def stored_bundle(folder: Path) -> Path:
    """Return the file of the only app bundle in a blob store."""
    return next(path for path in (folder / "blobs" / "sha256").iterdir() if zipfile.is_zipfile(path))


def trap(lab: Path, folder: Path, marker: Path) -> bytes:
    """Return a valid bundle, of the lab app with a module that leaves a mark when it is imported."""
    app = folder / "trap"
    shutil.copytree(lab, app)
    (app / "lab" / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return pack(app)


def test_a_bundle_that_changed_on_disk_is_refused_by_name_and_no_code_of_it_runs(
    make_fleet: FleetMaker, lab: Path, tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    one, marker = {"min-nodes": "1"}, tmp_path / "it-ran"
    forged = trap(lab, tmp_path, marker)
    finished(fleet, fleet.run(lab, rounds=1, config=one))
    coordinators, devices = fleet.folder / "coordinator", fleet.device_folder("d1")
    wait_until(lambda: not list((devices / "apps").iterdir()), 20, "the device to drop the first run's app")
    digest = stored_bundle(coordinators).name
    # on the device, another valid bundle in its place: its answer names it, and the next attempt fetches the right one
    (devices / "blobs" / "sha256" / digest).write_bytes(forged)
    row = fleet.wait_run(fleet.run(lab, rounds=1, config=one), 60)
    assert (row["status"], row["error"]["code"]) == ("failed", "no-valid-reply")
    assert "does not match its SHA-256" in row["error"]["message"]
    finished(fleet, fleet.run(lab, rounds=1, config=one))
    # on the coordinator, one bit: the run does not start, and uploading the app again heals it
    file = coordinators / "blobs" / "sha256" / digest
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)
    with fleet.client() as client, pytest.raises(BlobCorrupt):
        client.post("runs", {"bundle": digest, "size": len(data), "config": one})
    finished(fleet, fleet.run(lab, rounds=1, config=one))
    assert not marker.exists()
