"""Disks that can only be read, as after an error of the file system: named at the start, and no harm done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_common.blobs import BlobStore
from argosy_common.clock import SystemClock
from argosy_common.errors import DaemonFailed, StorageFailed
from argosy_server.local_fleet import LocalFleet, wait_until
from argosy_server.store import Store
from tests.system.disks import SmallDisk

FleetMaker = Callable[..., LocalFleet]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk.or_skip(tmp_path / "disk")
    yield made
    made.unmount()


def test_blobs_on_a_disk_that_turns_read_only_stay_readable_and_new_ones_are_refused_by_name(disk: SmallDisk) -> None:
    store = BlobStore(disk.folder / "blobs")
    before = store.put_bytes(b"before")
    with disk.read_only():
        assert store.checked(before.digest).read_bytes() == b"before"
        with pytest.raises(StorageFailed, match="Read-only"):
            store.put_bytes(b"meanwhile")
    assert store.put_bytes(b"after").size == 5


def test_a_database_that_turns_read_only_is_named_and_goes_on_once_it_can_be_written(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock()) as store:
        store.audit.write("test", "before", "x")
        _set_read_only(store, on=True)
        with pytest.raises(StorageFailed, match="readonly"):
            store.audit.write("test", "meanwhile", "x")
        assert [row.action for row in store.audit.tail()] == ["before"]
        _set_read_only(store, on=False)
        store.audit.write("test", "after", "x")
        assert [row.action for row in store.audit.tail()] == ["before", "after"]


def _set_read_only(store: Store, *, on: bool) -> None:
    with store._database.read() as session:
        session.connection().exec_driver_sql(f"PRAGMA query_only={int(on)}")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_daemons_on_a_read_only_disk_end_by_name_and_start_once_it_can_be_written(
    make_fleet: FleetMaker, lab: Path, tmp_path: Path
) -> None:
    coordinators = SmallDisk.or_skip(tmp_path / "fleet0" / "coordinator")
    devices = SmallDisk.or_skip(tmp_path / "fleet0" / "devices" / "d1")
    try:
        fleet = make_fleet(1)
        run = fleet.run(lab, rounds=1, config={"min-nodes": "1"})
        assert fleet.wait_run(run, 60)["status"] == "finished"
        fleet.kill("d1")
        with devices.read_only():
            fleet.start_device("d1")
            wait_until(lambda: fleet.processes["d1"].poll() is not None, 30, "d1 to give up")
            assert fleet.processes.pop("d1").returncode == StorageFailed.exit_code
            assert "Read-only" in fleet.log_tail("d1")
        fleet.kill("coordinator")
        with coordinators.read_only():
            with pytest.raises(DaemonFailed, match=r"[Rr]ead-?only"):
                fleet.start_coordinator()
            assert fleet.processes.pop("coordinator").returncode == StorageFailed.exit_code
        fleet.start_coordinator()
        fleet.start_device("d1")
        fleet.wait_online(1)
        run = fleet.run(lab, rounds=1, config={"min-nodes": "1"})
        assert fleet.wait_run(run, 60)["status"] == "finished"
        fleet.stop()
    finally:
        for each in (coordinators, devices):
            each.unmount()
