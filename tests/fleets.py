"""What the system tests ask of a fleet."""

from __future__ import annotations

import json
import random
import signal
from typing import Any, Self

from argosy_client.identity import RECORD, Enrolment
from argosy_common.artefact.signature import SIGNER, Purpose, Signature, sign
from argosy_common.blobs import BlobStore
from argosy_common.clock import SystemClock
from argosy_common.link import Delivery, Link, LinkSettings, TlsFiles
from argosy_common.wire.bodies import Body
from argosy_common.wire.envelope import Envelope, decode
from argosy_common.wire.topics import DeviceTopics
from argosy_common.x509 import COORDINATOR
from argosy_server.ca import CertificateAuthority
from argosy_server.local_fleet import LocalFleet
from argosy_server.store import Store
from argosy_server.store.models import SignedManifest
from tests.artefacts import Artefact
from tests.cable import Cable


def data_of(fleet: LocalFleet, run: int, name: str, **wanted: object) -> list[dict[str, Any]]:
    """Return the data of a run's events of one name whose fields have these values."""
    return [
        event["data"]
        for event in fleet.events(run)
        if event["name"] == name and all(event["data"].get(key) == value for key, value in wanted.items())
    ]


def add_model(fleet: LocalFleet, made: Artefact, signature: Signature | None = None) -> str:
    """Put a version into the coordinator's registry, as an export would, signed by the coordinator unless given."""
    state, clock = fleet.folder / "coordinator", SystemClock()
    key, chain = CertificateAuthority.open(state / "ca", clock).signer(SIGNER)
    signed = signature or sign(key, chain, Purpose.MANIFEST, made.manifest.canonical())
    digests = [BlobStore(state / "blobs").put_bytes(blob).hex for blob in made.blobs]

    def row(version: int, _parent: int | None) -> SignedManifest:
        assert version == made.manifest.version
        return SignedManifest(
            made.manifest.canonical(), signed.model_dump(), digests[0], digests[1], run=None, round=None
        )

    with Store.open(f"sqlite:///{state / 'coordinator.db'}", clock) as store:
        store.models.add(made.manifest.name, row, actor="a test")
    return made.manifest.reference


def behind_a_cable(fleet: LocalFleet, name: str) -> Cable:
    """Let an enrolled device reach the broker through a cable that can be pulled."""
    path = fleet.device_folder(name) / RECORD
    record = json.loads(path.read_text())
    broker = record["brokers"][0]
    cable = Cable((broker["host"], broker["port"]))
    record["brokers"] = [{"host": "127.0.0.1", "port": cable.port}]
    path.write_text(json.dumps(record))
    return cable


class Impostor:
    """Takes the coordinator's place at the broker, with its certificate, while the coordinator is frozen.

    What one device says comes here and is not answered. A context manager: leaving it lets the coordinator go on.
    """

    def __init__(self, fleet: LocalFleet, name: str) -> None:
        enrolment = Enrolment.load(fleet.device_folder(name))
        self._topics = DeviceTopics(enrolment.site, enrolment.device)
        self._coordinator = fleet.processes["coordinator"]
        self._heard: list[tuple[Envelope, bytes]] = []
        ca = fleet.folder / "coordinator" / "ca"
        files = TlsFiles(ca / "ca.crt", ca / f"{COORDINATOR}.crt", ca / f"{COORDINATOR}.key", COORDINATOR)
        host, port = enrolment.brokers[0]
        settings = LinkSettings(host=host, port=port, client_id=COORDINATOR, tls=files)
        self._link = Link(settings, clock=SystemClock(), rng=random.Random(1))
        self._link.subscribe(self._topics.events, self._hear)

    def __enter__(self) -> Self:
        """Freeze the coordinator and connect."""
        self._coordinator.send_signal(signal.SIGSTOP)
        self._link.start()
        assert self._link.wait_connected(20), self._link.last_error
        return self

    def __exit__(self, *_: object) -> None:
        """Let the coordinator go on."""
        self._link.stop()
        self._coordinator.send_signal(signal.SIGCONT)

    def deliver(self, envelope: bytes) -> None:
        """Send an encoded instruction to the device."""
        assert self._link.publish(self._topics.jobs, envelope, qos=1)

    def answers(self, body: type[Body], message: str) -> list[bytes]:
        """Return, as they came, the envelopes of this kind that answer the instruction `message`."""
        heard = list(self._heard)
        return [raw for envelope, raw in heard if envelope.kind == body.kind and envelope.reply_to == message]

    def _hear(self, delivery: Delivery) -> None:
        self._heard.append((decode(delivery.payload, peer=self._topics.device), delivery.payload))
