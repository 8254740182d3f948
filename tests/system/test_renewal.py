"""Certificates that last for seconds: a fleet lives through many of them, also while the coordinator is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.x509 import Certificate

from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.fleets import data_of

pytestmark = pytest.mark.timeout(300)

LIFE_S = 10.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    devices = [LocalDevice(f"d{n}", {"name": f"d{n}", "notes": str(tmp_path / f"notes-d{n}")}) for n in (1, 2)]
    settings = {"enrolment.certificate_s": LIFE_S, "runs.resend_s": 2.0}
    with LocalFleet(tmp_path / "fleet", devices, settings=settings) as made:
        made.start()
        yield made


def certificate(fleet: LocalFleet, name: str) -> Certificate:
    """Return the certificate in force on a device."""
    return x509.load_certificate(Enrolment.load(fleet.device_folder(name)).certificate_path)


def serial(fleet: LocalFleet, name: str) -> int:
    """Return its number."""
    return certificate(fleet, name).serial_number


def renewed(fleet: LocalFleet, name: str, before: int) -> Callable[[], bool]:
    return lambda: serial(fleet, name) != before


def test_certificates_are_renewed_under_a_run_and_a_fleet_outlives_them_without_its_coordinator(
    fleet: LocalFleet, lab: Path
) -> None:
    first = {name: serial(fleet, name) for name in fleet.devices}
    ids = {name: Enrolment.load(fleet.device_folder(name)).device for name in fleet.devices}
    run = fleet.run(lab, rounds=2, config={"train-seconds": "5"})
    assert fleet.wait_run(run, 120)["status"] == "finished"
    assert all(data["replied"] == 2 for data in data_of(fleet, run, "phase-finished"))
    assert data_of(fleet, run, "device-lost") == []
    for name, before in first.items():  # nearly always during the run; a device looks within ten seconds of its start
        wait_until(renewed(fleet, name, before), 60, f"{name} to renew its certificate")
    # away for longer than any certificate lasts: nobody has one that is good
    fleet.kill("coordinator")
    second = {name: serial(fleet, name) for name in fleet.devices}
    ends = max(certificate(fleet, name).not_valid_after_utc for name in fleet.devices)
    wait_until(lambda: datetime.now(UTC) > ends, 2 * LIFE_S, "the certificates to end")
    fleet.start_coordinator()
    fleet.wait_online(2, 120)
    for name, before in second.items():
        wait_until(renewed(fleet, name, before), 60, f"{name} to be let in by its identity key")
        assert Enrolment.load(fleet.device_folder(name)).device == ids[name]


def test_a_revoked_device_gets_no_further_certificate(fleet: LocalFleet) -> None:
    with fleet.client() as api:
        api.post("devices/d1/revoke", {})
    before = serial(fleet, "d1")
    wait_until(lambda: "device-refused" in fleet.log_tail("d1", 20_000), 60, "d1 to be refused")
    assert serial(fleet, "d1") == before
    with fleet.client() as api:
        assert api.get("health")["devices_online"] == 1
