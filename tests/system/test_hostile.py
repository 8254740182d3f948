"""A hostile device: envelopes of every size and truncation are refused and logged, and nothing else happens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

from argosy_client.identity import Enrolment
from argosy_common.clock import SystemClock
from argosy_common.enrolment import Facts
from argosy_common.link import Link, LinkSettings
from argosy_common.wire.bodies import Accepted, Fetch, Instruction, Inventory, Offer, Refused, Reply
from argosy_common.wire.envelope import MAX_ENVELOPE, Envelope, decode, encode
from argosy_common.wire.topics import DeviceTopics
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until

pytestmark = pytest.mark.timeout(180)


class Rogue:
    """A connection with a real device's certificate, whose owner sends what he likes."""

    def __init__(self, fleet: LocalFleet, name: str) -> None:
        enrolment = Enrolment.load(fleet.device_folder(name))
        self.topics = DeviceTopics(enrolment.site, enrolment.device)
        self.kinds: list[str] = []
        self.refusals: list[tuple[str | None, str]] = []
        host, port = enrolment.brokers[0]
        settings = LinkSettings(host=host, port=port, client_id=enrolment.device, tls=enrolment.tls_files())
        self.link = Link(settings, clock=SystemClock(), rng=random.Random(1))
        self.link.subscribe(self.topics.control_down, lambda delivery: self._note(delivery.payload))
        self.link.start()
        assert self.link.wait_connected(20), self.link.last_error

    def _note(self, payload: bytes) -> None:
        envelope = decode(payload, peer="coordinator")
        self.kinds.append(envelope.kind)
        if envelope.kind == Refused.kind:
            body = Refused.unpack(envelope.body, peer="coordinator")
            self.refusals.append((envelope.reply_to, body.error.code))

    def send(self, payload: bytes, topic: str | None = None) -> None:
        """Publish on the events topic, or another."""
        assert self.link.publish(topic or self.topics.events, payload, qos=1)

    def wait_for(self, count: int) -> list[tuple[str | None, str]]:
        """Wait for so many refusals, and return and forget them."""
        wait_until(lambda: len(self.refusals) >= count, 30, f"{count} refusals, have {len(self.refusals)}")
        found, self.refusals = self.refusals[:], []
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Two honest devices, and one that is enrolled and never started: the rogue's."""
    folder = tmp_path_factory.mktemp("hostile")
    devices = [LocalDevice(f"d{n}", {"name": f"d{n}", "notes": str(folder / f"notes{n}")}) for n in (1, 2, 3)]
    with LocalFleet(folder / "fleet", devices) as fleet:
        fleet.start_coordinator()
        for name in fleet.devices:
            fleet.join(name)
        for name in ("d1", "d2"):
            fleet.start_device(name)
        fleet.wait_online(2)
        yield fleet


@pytest.fixture
def rogue(fleet: LocalFleet) -> Iterator[Rogue]:
    """The hostile connection."""
    made = Rogue(fleet, "d3")
    yield made
    made.link.stop()


@pytest.fixture(autouse=True)
def _still_works(fleet: LocalFleet, lab: Path) -> Iterator[None]:
    """After each attack the fleet trains as before."""
    yield
    run = fleet.run(lab, rounds=1, config={"floats": "20000"})
    assert fleet.wait_run(run, 60)["status"] == "finished"
    assert "Traceback" not in fleet.log_path("coordinator").read_text()


def test_every_truncation_of_an_envelope_is_refused(rogue: Rogue, fleet: LocalFleet) -> None:
    whole = encode(Envelope(kind="accepted", reply_to="ab" * 16, run=1, blobs=(b"\x01" * 32,)))
    for length in range(1, len(whole)):
        rogue.send(whole[:length])
    assert {code for _, code in rogue.wait_for(len(whole) - 1)} == {"envelope-malformed"}
    assert "gateway.refused" in fleet.log_path("coordinator").read_text()


def test_envelopes_of_every_size_are_refused(rogue: Rogue) -> None:
    sizes = [*(2**power for power in range(20)), MAX_ENVELOPE, MAX_ENVELOPE + 1, 1_000_000]
    for size in sizes:
        rogue.send(random.Random(size).randbytes(size))
    assert {code for _, code in rogue.wait_for(len(sizes))} <= {"envelope-malformed", "version-unknown"}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: Envelope(kind="teleport"), "kind-unknown"),
        (lambda: Envelope(kind="reply", body=b"\x00" * 1000), "envelope-malformed"),
        (lambda: Envelope(kind=Instruction.kind, body=b"\x80"), "envelope-malformed"),
        (lambda: Envelope(kind=Offer.kind, body=b"\x80"), "envelope-malformed"),
        (lambda: Envelope(kind=Inventory.kind, body=msgpack.packb({"facts": {"a": {}}})), "envelope-malformed"),
    ],
)
def test_what_a_device_may_not_send_is_refused_by_name(rogue: Rogue, make: Callable[[], Envelope], code: str) -> None:
    envelope = make()
    rogue.send(encode(envelope))
    assert rogue.wait_for(1) == [(envelope.id, code)]


def test_a_device_that_says_it_is_another_board_is_shown_as_that_and_noted(rogue: Rogue, fleet: LocalFleet) -> None:
    facts: Facts = {"model": "\x1b[2JMoon rover", "memory": 2**40}
    rogue.send(encode(Envelope(kind=Inventory.kind, body=Inventory(facts=facts).pack())))
    with fleet.client() as api:
        wait_until(lambda: api.get("devices/d3")["inventory"] == facts, 30, "the inventory to be taken")
        noted = [row for row in api.get("audit")["entries"] if row["action"] == "device.inventory-changed"]
        assert [row["subject"] for row in noted] == [rogue.topics.device], "the honest ones are what they were"
    assert noted[0]["detail"]["model"].endswith("→ \x1b[2JMoon rover")


def test_another_version_is_refused_by_name(rogue: Rogue) -> None:
    rogue.send(encode(Envelope(kind="accepted")).replace(b"\xa1v\x01", b"\xa1v\x02"))
    assert rogue.wait_for(1)[0][1] == "version-unknown"


def test_answers_for_others_and_for_nothing_change_nothing(rogue: Rogue, fleet: LocalFleet, lab: Path) -> None:
    run = fleet.run(lab, rounds=1, config={"train-seconds": "2", "floats": "20000"})
    notes = fleet.folder.parent / "notes1"
    noted = len(notes.read_text().splitlines()) if notes.exists() else 0
    wait_until(lambda: notes.exists() and len(notes.read_text().splitlines()) > noted, 30, "d1 to train")
    others = notes.read_text().split()[-2]
    forged = Reply(flower=b"forged").pack()
    for message in (others, "00" * 16):
        rogue.send(encode(Envelope(kind=Accepted.kind, reply_to=message)))
        rogue.send(encode(Envelope(kind=Reply.kind, body=forged, reply_to=message, run=run)))
    assert fleet.wait_run(run, 60)["status"] == "finished"
    replies = [e["data"] for e in fleet.events(run) if e["name"] == "device-reply"]
    assert rogue.topics.device not in {reply["device"] for reply in replies}
    assert all(reply["error"] is None for reply in replies)


def test_a_device_cannot_fetch_what_is_not_meant_for_it(rogue: Rogue, fleet: LocalFleet, lab: Path) -> None:
    run = fleet.run(lab, rounds=1, config={"floats": "20000"})
    row = fleet.wait_run(run, 60)
    chunks: list[bytes] = []
    rogue.link.subscribe(rogue.topics.chunks_down, lambda delivery: chunks.append(delivery.payload), qos=0)
    body = Fetch(digest=bytes.fromhex(row["final_model"]))
    rogue.send(encode(Envelope(kind=body.kind, body=body.pack())), rogue.topics.control_up)
    wait_until(lambda: "transfer-failed" in rogue.kinds, 30, "a refusal")
    assert chunks == []


def test_uploads_that_nobody_asked_for_are_refused(rogue: Rogue, fleet: LocalFleet) -> None:
    body = Offer(digest=b"\x05" * 32, size=2**40, chunk=262144, chunks_digest=b"\x06" * 32)
    rogue.send(encode(Envelope(kind=body.kind, body=body.pack())), rogue.topics.control_up)
    wait_until(lambda: "transfer-failed" in rogue.kinds, 30, "a refusal")
    for frame in (b"", b"x", b"\x00" * 500_000):
        assert rogue.link.publish(rogue.topics.chunks_up("c0"), frame, qos=0)
    assert not list((fleet.folder / "coordinator" / "blobs" / "partial").iterdir())
