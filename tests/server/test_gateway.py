"""The coordinator's own check of who speaks, over a real broker that checks nothing: what passes there stops here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest

from argosy_common.link import Delivery, Link
from argosy_common.wire.bodies import (
    Accept,
    Accepted,
    Birth,
    Body,
    ChunkAck,
    Death,
    Done,
    Fetch,
    Heartbeat,
    Inventory,
    ModelState,
    Offer,
    Progress,
    Received,
    Refused,
    Reply,
    TransferFailed,
    UpgradeState,
)
from argosy_common.wire.envelope import Envelope, decode, encode
from argosy_common.wire.topics import DeviceTopics
from argosy_server.broker import Broker
from argosy_server.gateway import UPWARD, Gateway
from argosy_server.store import DeviceState, Store
from tests.server.store.test_tables import _device
from tests.waiting import until, up

A, B = DeviceTopics("lab", "00000000000000aa"), DeviceTopics("lab", "00000000000000bb")
DIGEST, BOOT = b"\x05" * 32, "11" * 16


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


def _say(body: Body, **fields: Any) -> bytes:  # noqa: ANN401  (of `Envelope`)
    return encode(Envelope(kind=body.kind, body=body.pack(), **fields))


BIRTH = Birth(boot=BOOT, session=1, name="pi", version="1", python="3", machine="arm")
SAID: dict[str, list[Body]] = {
    "s": [BIRTH, Death(boot=BOOT)],
    "hb": [Heartbeat()],
    "evt": [
        Inventory(facts={}),
        Accepted(),
        Progress(doing="x"),
        Reply(),
        ModelState(rollout=1, name="har", version=1, state="active"),
        UpgradeState(rollout=1, version="0.2.0", state="active"),
    ],
    "rpc": [
        Fetch(digest=DIGEST),
        Offer(digest=DIGEST, size=1, chunk=1024, chunks_digest=DIGEST),
        Accept(digest=DIGEST),
        ChunkAck(digest=DIGEST, upto=0),
        Done(digest=DIGEST),
    ],
}
"""A good body of each kind that a device may send, by the last part of its topic."""


class Bench:
    """A gateway, what it hands on, and what devices are told. Every client of this broker may say and hear anything."""

    def __init__(self, folder: Path, broker: Broker, make_link: Callable[..., Link]) -> None:
        self.clock = HandClock()
        self.store = Store.open(f"sqlite:///{folder / 'argosy.db'}", self.clock)
        for topics, name in ((A, "cellar"), (B, "attic")):
            self.store.devices.add(_device(topics.device, name, site="lab"))
        self.link = make_link(broker, "coordinator")
        self.gateway = Gateway(self.link, self.store, clock=self.clock, sink="c0")
        self.handed: list[tuple[str, str]] = []
        self.told: list[tuple[str, str]] = []
        for kind in {kind for kinds in UPWARD.values() for kind in kinds}:
            self.gateway.handle(kind, self._note)
        self.gateway.handle_chunks(lambda device, _frame: self.handed.append((device, "chunk")))
        up(self.link)
        self.anybody = make_link(broker, "anybody")
        for site in ("lab", "default", "elsewhere"):
            self.anybody.subscribe(f"argosy/v1/{site}/d/+/dn/#", self._overhear)
        up(self.anybody)

    def _note(self, device: str, _envelope: Envelope, body: Body) -> None:
        self.handed.append((device, body.kind))

    def _overhear(self, delivery: Delivery) -> None:
        device = delivery.topic.split("/")[4]
        self.told.append((device, decode(delivery.payload, peer="coordinator").kind))

    def say(self, topic: str, payload: bytes) -> None:
        assert self.anybody.publish(topic, payload, qos=1)

    def say_all(self, topics: DeviceTopics) -> int:
        """Say everything that a device may say; return how many messages that is."""
        bases = {"s": topics.birth, "hb": topics.heartbeat, "evt": topics.events, "rpc": topics.control_up}
        for leaf, bodies in SAID.items():
            for body in bodies:
                self.say(bases[leaf], _say(body))
        assert self.anybody.publish(topics.chunks_up("c0"), b"\x00" * 100, qos=0)
        return sum(map(len, SAID.values())) + 1

    def settled(self) -> list[tuple[str, str]]:
        """Have B say something legal, wait until that has come through, and return what was handed on before."""
        refused = self.told.count((B.device, "refused"))
        self.say(B.events, _say(Progress(doing="the last word")))
        self.say(B.events, _say(Received()))  # which a device may not say, so that it is told so
        assert until(lambda: self.told.count((B.device, "refused")) > refused)
        assert until(lambda: (B.device, "progress") in self.handed)
        found = [each for each in self.handed if each != (B.device, "progress")]
        self.handed.clear()
        return found

    def told_others(self) -> list[tuple[str, str]]:
        return [each for each in self.told if each[0] != B.device]


@pytest.fixture
def bench(tmp_path: Path, iotcore: Broker, make_link: Callable[..., Link]) -> Iterator[Bench]:
    made = Bench(tmp_path, iotcore, make_link)
    yield made
    made.anybody.stop(1.0)
    made.link.stop(1.0)
    made.store.close()


def test_every_kind_that_a_device_may_send_is_said_below() -> None:
    said = {leaf: {type(body) for body in bodies} for leaf, bodies in SAID.items()}
    assert said == {leaf: set(kinds) - {Refused, TransferFailed} for leaf, kinds in UPWARD.items()}


def test_what_an_enrolled_device_says_is_handed_on_under_the_name_in_its_topic(bench: Bench) -> None:
    count = bench.say_all(A)
    assert until(lambda: len(bench.handed) == count)  # chunks go with another quality, and may be overtaken
    found = bench.settled()
    assert {device for device, _ in found} == {A.device}
    assert len(found) == count
    assert bench.told_others() == []


def test_a_device_that_was_revoked_is_not_heard_and_not_answered_and_others_are(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.say_all(A)
    assert bench.settled()
    bench.told.clear()
    caplog.clear()
    caplog.set_level(logging.WARNING)
    bench.store.devices.decide("cellar", "revoke", "me")
    bench.gateway.forget(A.device)
    count = bench.say_all(A)
    bench.say(A.events, b"no envelope at all")
    bench.say(A.events, _say(Received()))
    assert bench.settled() == []

    def noted() -> list[str]:
        refused = [record for record in list(caplog.records) if record.getMessage() == "gateway.refused"]
        fields = [record.argosy_fields for record in refused]  # type: ignore[attr-defined]  # `argosy_common.logs`'s
        return [each["code"] for each in fields if each["device"] == A.device]

    assert until(lambda: len(noted()) == count + 2)
    assert set(noted()) == {"device-not-found"}
    assert bench.told_others() == [], "nobody is told anything"
    # and nothing is sent to it either, whoever wants to
    gateway = bench.gateway
    assert not gateway.post(A.device, Received(), reply_to="ab" * 16)
    assert not gateway.post_job(A.device, b"an instruction", expires_s=60)
    assert not gateway.post_chunk(A.device, "c0", b"x")
    assert (gateway.welcomes(A.device), gateway.site(A.device)) == (False, "")
    assert gateway.post(B.device, Received(), reply_to="ab" * 16)
    assert until(lambda: (B.device, "received") in bench.told)
    assert bench.told_others() == []


def test_a_revocation_that_nobody_tells_the_gateway_of_is_noticed_within_seconds(bench: Bench) -> None:
    """As one that another process, or a restored database, brought."""
    bench.say(A.events, _say(Accepted()))
    assert bench.settled() == [(A.device, "accepted")]
    bench.store.devices.decide("cellar", "revoke", "me")
    bench.clock.now += 5.0
    bench.say(A.events, _say(Accepted()))
    bench.told.clear()
    assert bench.settled() == []


@pytest.mark.parametrize("state", [state for state in DeviceState if state is not DeviceState.ENROLLED])
def test_only_a_device_that_is_enrolled_is_heard(bench: Bench, state: DeviceState) -> None:
    waiting = DeviceTopics("lab", "00000000000000cc")
    bench.store.devices.add(_device(waiting.device, "waiting", site="lab", state=state))
    bench.say(waiting.events, _say(Accepted()))
    assert bench.settled() == []
    assert not bench.gateway.post(waiting.device, Received())
    assert bench.told_others() == []


@pytest.mark.parametrize(
    ("site", "device"),
    [
        ("lab", "00000000000000ff"),
        ("lab", "cellar"),
        ("lab", "00000000000000a"),
        ("lab", "coordinator"),
        ("elsewhere", A.device),
        ("default", A.device),
    ],
    ids=["unknown", "by name", "by a beginning of its id", "the coordinator", "at another site", "at the default site"],
)
def test_a_topic_that_is_not_that_of_a_device_at_its_site_is_not_taken_for_it(
    bench: Bench, site: str, device: str
) -> None:
    bench.say_all(DeviceTopics(site, device))
    assert bench.settled() == []


def test_who_speaks_is_told_by_the_topic_and_an_envelope_that_claims_another_is_refused(bench: Bench) -> None:
    claims = {"device": B.device, "dev": B.device, "from": B.device, "site": "elsewhere"}
    whole = msgpack.unpackb(_say(Accepted(), reply_to="ab" * 16))
    for name, value in claims.items():
        bench.say(A.events, msgpack.packb({**whole, name: value}))
        body = {**BIRTH.model_dump(), name: value}
        envelope = Envelope(kind="birth", body=msgpack.packb(body))
        if name != "site":  # a place within its own site, which is the board's own word
            bench.say(A.birth, encode(envelope))
    bench.say(A.events, _say(BIRTH))  # the right words in the wrong place
    bench.say(A.heartbeat, _say(Reply()))
    assert bench.settled() == []
    assert bench.told_others() == [(A.device, "refused")] * 9
