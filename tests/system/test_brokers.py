"""The same rounds over the other brokers: the embedded one, and one that somebody else runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_server.broker import find_mosquitto
from argosy_server.ca import CertificateAuthority
from argosy_server.local_fleet import LocalFleet, free_ports, wait_until

FleetMaker = Callable[..., LocalFleet]

pytestmark = pytest.mark.timeout(120)


def test_rounds_over_the_embedded_broker(make_fleet: FleetMaker, lab: Path) -> None:
    fleet = make_fleet(2, **{"broker.kind": "iotcore"})
    run = fleet.run(lab, rounds=2, config={"floats": "300000"})
    assert fleet.wait_run(run, 60)["status"] == "finished"
    with fleet.client() as client:
        health = client.get("health")
        checks = {check["name"]: check for check in client.get("doctor")["checks"]}
    assert health["broker"]["kind"] == "iotcore"
    assert not checks["access control"]["ok"]
    assert "broker.no_access_control" in fleet.log_path("coordinator").read_text()


@pytest.mark.skipif(find_mosquitto() is None, reason="Mosquitto is not installed")
def test_rounds_over_an_external_broker(make_fleet: FleetMaker, lab: Path, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    settings = {"broker.kind": "external", "broker.url": f"mqtts://127.0.0.1:{port}"}
    fleet = make_fleet(2, start=False, **settings)
    # what the coordinator makes at its first start, and the broker's owner takes
    authority = fleet.folder / "coordinator" / "ca"
    CertificateAuthority.open(authority, SystemClock()).issue_server(["127.0.0.1"], "broker")
    folder = tmp_path / "somebody-elses-broker"
    folder.mkdir()
    for name in ("ca.crt", "broker.crt", "broker.key"):
        shutil.copy(authority / name, folder / name)
    (folder / "mosquitto.conf").write_text(
        f"per_listener_settings false\nallow_anonymous false\nuser root\nlistener {port} 127.0.0.1\n"
        f"cafile {folder}/ca.crt\ncertfile {folder}/broker.crt\nkeyfile {folder}/broker.key\n"
        "require_certificate true\nuse_identity_as_username true\nset_tcp_nodelay true\n"
    )
    broker = subprocess.Popen([str(find_mosquitto()), "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    try:
        fleet.start()
        run = fleet.run(lab, rounds=2)
        assert fleet.wait_run(run, 60)["status"] == "finished"
        # this broker reads no list of ours: the session is ended, and the coordinator itself hears the device no more
        with fleet.client() as api:
            told = api.post("devices/d2/revoke")
            assert (told["session_ended"], told["broker"]) == (True, "external")
            wait_until(lambda: fleet.log_tail("d2", 20_000).count("link.connected") >= 2, 60, "d2 to come back")
            run = fleet.run(lab, rounds=1, config={"min-nodes": "1"})
            assert fleet.wait_run(run, 60)["status"] == "finished"
            assert api.get("health")["devices_online"] == 1
    finally:
        broker.terminate()
        wait_until(lambda: broker.poll() is not None, 20, "the broker to end")
