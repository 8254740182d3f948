"""The checks of `argosy doctor` that judge what they are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_server import doctor
from argosy_server.store import Store
from tests.system.disks import SmallDisk

NOW = datetime(2026, 11, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.mark.parametrize(("days", "ok"), [(7, True), (2, True), (1.3, False), (0, False), (-20, False)], ids=str)
def test_a_certificate_that_is_not_renewed_is_told_of_before_it_ends(days: float, ok: bool) -> None:
    found = doctor.device_certificates({"good": NOW + WEEK, "pi": NOW + timedelta(days=days)}, WEEK, NOW)
    assert found.ok is ok
    assert ("pi" in found.detail) is not ok
    assert bool(found.remedy) is not ok


def test_of_many_the_first_are_named_and_the_rest_counted() -> None:
    found = doctor.device_certificates({f"d{n:02}": NOW for n in range(12)}, WEEK, NOW)
    assert "d00, d01, d02, d03, d04 and 7 more" in found.detail


def test_without_devices_nothing_is_wrong() -> None:
    assert doctor.device_certificates({}, WEEK, NOW).ok


def test_a_clock_that_was_set_back_behind_what_is_on_record_is_told() -> None:
    assert doctor.clock_is_sane(NOW, NOW - WEEK).ok
    assert doctor.clock_is_sane(NOW, NOW + timedelta(minutes=1)).ok
    found = doctor.clock_is_sane(NOW - timedelta(days=3650), NOW)
    assert not found.ok
    assert "2026-11-01" in found.detail
    assert not doctor.clock_is_sane(NOW - timedelta(days=2), NOW).ok


@pytest.mark.parametrize(("days", "ok"), [(400, True), (29, False), (-3000, False)])
def test_an_own_certificate_that_ends_is_told_of_before_it_does(days: int, ok: bool) -> None:
    found = doctor.own_certificates({"broker": NOW + timedelta(days=days), "server": NOW + 100 * WEEK}, NOW)
    assert found.ok is ok
    assert ("broker" in found.detail) is not ok


def test_keys_that_others_may_read_are_told(tmp_path: Path) -> None:
    for name, mode in (("ca.key", 0o600), ("broker.key", 0o640), ("ca.crt", 0o644)):
        (tmp_path / name).touch(mode)
        (tmp_path / name).chmod(mode)
    found = doctor.keys_are_private(tmp_path)
    assert not found.ok
    assert "broker.key" in found.detail
    assert "ca." not in found.detail
    (tmp_path / "broker.key").chmod(0o600)
    assert doctor.keys_are_private(tmp_path).ok


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock()) as store:
        for number in range(200):
            store.audit.write("test", "fill", "x" * 500, number=number)
        assert doctor.database(*store.fault()).ok
        assert len(store.audit.tail(1000)) == 200
    with (tmp_path / "a.db").open("r+b") as stream:
        stream.seek(-4096 * 4, 2)
        stream.write(b"\xff" * 4096)
    with Store.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock()) as store:
        checks = doctor.examine([lambda: doctor.database(*store.fault())])
    assert not checks[0]["ok"]
    assert "a.db" in str(checks[0]["detail"])


def test_a_disk_that_is_full_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert doctor.disk(tmp_path, tmp_path).ok
    assert not list(tmp_path.iterdir())
    small = SmallDisk.or_skip(tmp_path / "disk")
    try:
        assert "free in" in doctor.disk(small.folder).detail
        assert not doctor.disk(small.folder).ok  # it has less than a GiB anyway
        with pytest.MonkeyPatch.context() as patch, small.read_only():
            patch.setattr(doctor, "LEAST_FREE", 0)
            found = doctor.disk(tmp_path, small.folder)
        assert not found.ok
        assert "Read-only" in found.detail
    finally:
        small.unmount()
