"""The checks of `argosy doctor` that judge what they are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from argosy_server import doctor

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
