"""A board's state directory was copied: both copies are the same device, until an operator shuts both out."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_common.coordinator_https import Address, exchange
from argosy_common.enrolment_https import send_renewal
from argosy_common.errors import DeviceRefused, EnrolmentUnreachable, RequestInvalid
from argosy_common.link.tls import client_context
from argosy_common.renewal import RenewRequest
from argosy_server.local_fleet import LocalFleet, wait_until

pytestmark = pytest.mark.timeout(240)


def _renew(enrolment: Enrolment, identity: x509.PrivateKey) -> None:
    """Ask for the next certificate as whoever has these files and that key."""
    tls, serial = x509.generate_key(), x509.load_certificate(enrolment.certificate_path).serial_number
    csr = x509.make_csr(tls)
    signature = x509.sign_renewal(identity, x509.csr_der(x509.verify_csr(csr)), serial)
    request = RenewRequest(
        device=enrolment.device, serial=f"{serial:x}", csr_pem=csr.decode(), identity_signature=signature.hex()
    )
    send_renewal(Address.parse(enrolment.url), enrolment.pin, client_context(enrolment.tls_files()), request)


def test_a_copied_board_is_told_of_and_neither_copy_comes_back_after_a_revocation(
    make_fleet: Callable[..., LocalFleet],
) -> None:
    fleet = make_fleet(2)
    folder = fleet.device_folder("d1")
    stolen = folder.with_name("stolen")
    shutil.copytree(folder, stolen, ignore=shutil.ignore_patterns("*.lock", "*.sock", "worker"))
    thief = subprocess.Popen(
        [sys.executable, "-m", "argosy_client.cli", "run", "--state-dir", str(stolen)],
        stdout=subprocess.DEVNULL,
        stderr=(log := fleet.folder / "logs" / "stolen.log").open("wb"),
    )
    try:
        with fleet.client() as api:
            wait_until(lambda: "device.twin" in str(api.get("audit")), 60, "the coordinator to notice the copy")
            doctor = {row["name"]: row for row in api.get("doctor")["checks"]}
            assert "d1" in doctor["copies"]["detail"]
            api.post("devices/d1/revoke")
            wait_until(lambda: "revoked" in log.read_text(), 60, "the copy to be refused")
            wait_until(lambda: "revoked" in fleet.log_tail("d1", 5000), 60, "the board to be refused")
            made = api.post("tokens", {"uses": 1, "ttl_s": 600})
            wait_until(lambda: api.get("health")["devices_online"] == 1, 60, "d1 to be gone")
    finally:
        thief.kill()
        thief.wait(20)
    there = Enrolment.load(stolen)
    with pytest.raises(DeviceRefused):
        _renew(there, x509.load_key(there.identity_key_path))
    words = ["join", made["url"], "--token", made["token"], "--pin", made["pin"], "--force", "--state-dir", str(stolen)]
    joined = subprocess.run(
        [sys.executable, "-m", "argosy_client.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert joined.returncode == DeviceRefused.exit_code
    assert "revoked" in joined.stderr


def test_a_stolen_tls_key_without_the_identity_key_renews_nothing(
    make_fleet: Callable[..., LocalFleet], tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    enrolment = Enrolment.load(fleet.device_folder("d1"))
    exchange(Address.parse(enrolment.url), client_context(enrolment.tls_files()), "GET", "/v1/ca")  # it works
    with pytest.raises(RequestInvalid, match="identity key did not sign"):
        _renew(enrolment, x509.generate_identity_key())
    foreign, now = x509.generate_key(), datetime.now(UTC)
    root = x509.self_signed_ca(foreign, "mine", now)
    mine = x509.load_key(enrolment.tls_key_path).public_key()
    (tmp_path / "forged.crt").write_bytes(
        x509.certificate_pem(x509.issue_client(root, foreign, mine, enrolment.device, now))
    )
    shown = client_context(replace(enrolment.tls_files(), cert=tmp_path / "forged.crt"))
    with pytest.raises((EnrolmentUnreachable, ssl.SSLError)):
        exchange(Address.parse(enrolment.url), shown, "GET", "/v1/ca")
