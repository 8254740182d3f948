"""An operator revokes a device that works: within seconds it cannot publish, receive, fetch, or come back."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from argosy_client.identity import Enrolment
from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.errors import DeviceStateForbids
from argosy_common.link import Link, LinkSettings
from argosy_common.link.tls import client_context
from argosy_common.wire.topics import DeviceTopics
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    devices = [LocalDevice(f"d{n}", {"name": f"d{n}", "notes": str(tmp_path / f"notes{n}")}) for n in (1, 2, 3)]
    with LocalFleet(tmp_path / "fleet", devices) as made:
        made.start()
        yield made


def _fetch(enrolment: Enrolment, digest: str) -> tuple[int, bytes]:
    """Ask the coordinator's own port for a blob, as the device."""
    host, _, port = enrolment.url.removeprefix("https://").rpartition(":")
    connection = HTTPSConnection(host, int(port), timeout=20, context=client_context(enrolment.tls_files()))
    try:
        connection.request("GET", f"/v1/blobs/{digest}")
        answer = connection.getresponse()
        return answer.status, answer.read(500)
    finally:
        connection.close()


def _join(fleet: LocalFleet, name: str) -> subprocess.CompletedProcess[str]:
    """Join with a new token and --force."""
    with fleet.client() as api:
        made = api.post("/tokens", {"uses": 1, "ttl_s": 600})
    command = ["join", made["url"], "--token", made["token"], "--pin", made["pin"], "--force", "--name", name]
    return subprocess.run(
        [sys.executable, "-m", "argosy_client.cli", *command, "--state-dir", str(fleet.device_folder(name))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_device_is_revoked_in_the_middle_of_a_round(fleet: LocalFleet, lab: Path) -> None:
    run = fleet.run(lab, rounds=1, config={"train-seconds": "20", "floats": "20000"})
    d3 = Enrolment.load(fleet.device_folder("d3"))
    log = fleet.log_path("d3")
    notes = fleet.folder.parent / "notes3"
    wait_until(lambda: notes.exists() and bool(notes.read_text().split()), 60, "d3 to train")
    with fleet.client() as api:
        digest = api.get(f"/runs/{run}")["app_digest"]
        assert _fetch(d3, digest)[0] == 200
        told = api.post("/devices/d3/revoke")
        assert (told["state"], told["session_ended"], told["broker"]) == ("revoked", True, "mosquitto")
        assert not told["presence"]["online"]
        assert api.get("/audit")["entries"][-1]["action"] == "device.revoke"

    # what it owed is answered for it, long before it would be done
    def replies() -> list[dict[str, object]]:
        told = [event["data"] for event in fleet.events(run) if event["name"] == "device-reply"]
        return [reply["error"] for reply in told if reply["device"] == d3.device]

    wait_until(lambda: bool(replies()), 5, "d3 to be answered for")
    assert [error["code"] for error in replies()] == ["device-lost"]
    # its session is ended, and the broker takes it back no more
    wait_until(lambda: "revoked" in log.read_text(), 15, "d3 to be refused by name")
    # it is served nothing
    status, body = _fetch(d3, digest)
    assert (status, b"download-refused" in body) == (403, True)
    # and it cannot come back, whatever it tries: its certificate,
    host, port = d3.brokers[0]
    settings = LinkSettings(host=host, port=port, client_id=d3.device, tls=d3.tls_files(), backoff_cap_s=0.2)
    link = Link(settings, clock=SystemClock(), rng=random.Random(1))
    link.start()
    try:
        assert not link.wait_connected(2)
        assert not link.publish(DeviceTopics(d3.site, d3.device).events, b"x")
    finally:
        link.stop(1.0)
    # another token,
    fleet.kill("d3")
    joined = _join(fleet, "d3")
    assert joined.returncode == 37, joined.stderr
    assert "revoked" in joined.stderr
    # or a new start of the coordinator and its broker
    assert fleet.wait_run(run, 120)["status"] == "finished"
    fleet.kill("coordinator")
    fleet.start_coordinator()
    refused = log.read_text().count("revoked")
    fleet.start_device("d3")
    fleet.wait_online(2, 90)
    wait_until(lambda: log.read_text().count("revoked") > refused, 30, "d3 to be refused again")
    with fleet.client() as api:
        assert api.get("/health")["devices_online"] == 2
        with pytest.raises(DeviceStateForbids):
            api.post("/devices/d3/reject")
        # until the operator lets it in again: the same board, under a new certificate
        api.post("/devices/d3/approve")
    old = d3.certificate_path.read_bytes()
    fleet.kill("d3")
    joined = _join(fleet, "d3")
    assert joined.returncode == 0, joined.stderr
    assert Enrolment.load(fleet.device_folder("d3")).device == d3.device
    assert x509.load_certificate(d3.certificate_path) != x509.parse_certificate(old)
    fleet.start_device("d3")
    fleet.wait_online(3)
