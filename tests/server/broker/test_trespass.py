"""A device that tries to be another one, by every topic and every field of MQTT that could carry the attempt.

Each test ends with something legal that does arrive, on the same connection and after everything that must not.
"""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import Callable, Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from argosy_common.link.packets import properties
from argosy_common.wire.topics import COORDINATOR_FILTERS, DeviceTopics, chunk_filter, coordinator_state
from argosy_common.x509 import COORDINATOR
from argosy_server.broker import Broker
from tests.pki import Pki
from tests.waiting import until

A, B = DeviceTopics("default", "trespasser"), DeviceTopics("default", "victim")
B_ELSEWHERE = DeviceTopics("elsewhere", B.device)
SINK = "c0"


def all_of(device: DeviceTopics) -> list[str]:
    """Return every topic that `wire/topics.py` knows of a device, also those that are added one day."""
    found = [name for name, member in vars(DeviceTopics).items() if isinstance(member, property) and name[0] != "_"]
    return [*(getattr(device, name) for name in found), device.chunks_up(SINK)]


def downward(device: DeviceTopics) -> list[str]:
    return [topic for topic in all_of(device) if "/dn/" in topic]


def upward(device: DeviceTopics) -> list[str]:
    return [topic for topic in all_of(device) if "/dn/" not in topic]


class Client:
    """An MQTT client that may say anything: what a `Link` would never say as well."""

    def __init__(self, broker: Broker, pki: Pki, name: str, **said: object) -> None:
        self.got: list[str] = []
        self.refusal = ""
        self.session_present = False
        self._up = self._down = False
        self._publications: set[int] = set()
        self._subscriptions: set[int] = set()
        version = said.get("version", MQTTProtocolVersion.MQTTv5)
        assert isinstance(version, MQTTProtocolVersion)
        self.v5 = version is MQTTProtocolVersion.MQTTv5
        clean = None if self.v5 else bool(said.get("clean", True))
        self.mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            str(said.get("client_id", name)),
            clean_session=clean,
            protocol=version,
            reconnect_on_failure=False,
        )
        files = pki.client(name)
        context = ssl.create_default_context(cafile=str(files.ca))
        context.load_cert_chain(files.cert, files.key)
        self.mqtt.tls_set_context(context)
        if "user" in said:
            self.mqtt.username_pw_set(str(said["user"]), "a password")
        if "will" in said:
            self.mqtt.will_set(str(said["will"]), b"dead", qos=1, retain=True)
        self.mqtt.on_connect = self._on_connect
        self.mqtt.on_disconnect = self._on_disconnect
        self.mqtt.on_message = lambda _client, _data, message: self.got.append(message.topic)
        self.mqtt.on_publish = lambda _client, _data, mid, _reason, _properties: self._publications.add(mid)
        self.mqtt.on_subscribe = lambda _client, _data, mid, _reasons, _properties: self._subscriptions.add(mid)
        more: dict[str, object] = {}
        if self.v5:
            kept = int(not said.get("clean", True)) * 60
            brief = properties(PacketTypes.CONNECT, SessionExpiryInterval=kept)
            more = {"clean_start": said.get("clean", True), "properties": brief}
        self.mqtt.connect(*broker.address, **more)  # type: ignore[arg-type]  # two named fields
        self.mqtt.loop_start()
        assert until(lambda: self._up or self._down or self.refusal)

    @property
    def connected(self) -> bool:
        return self._up and not self._down

    def say(self, topic: str, payload: bytes = b"x", *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait until the broker has taken it, or refused it."""
        mid = self.mqtt.publish(topic, payload, qos, retain).mid
        assert until(lambda: mid in self._publications)

    def listen(self, *filters: str) -> None:
        """Subscribe, and wait for the broker's word."""
        for each in filters:
            mid = self.mqtt.subscribe(each, 1)[1]
            assert mid is not None
            assert until(lambda mid=mid: mid in self._subscriptions)  # type: ignore[misc]

    def die(self) -> None:
        """Vanish without a goodbye: the broker publishes the will."""
        sock = self.mqtt.socket()
        assert isinstance(sock, ssl.SSLSocket)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self.mqtt.loop_stop()

    def leave(self) -> None:
        """Say goodbye."""
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def _on_connect(self, _client: mqtt.Client, _data: object, flags: object, reason: ReasonCode, _p: object) -> None:
        self.session_present = bool(getattr(flags, "session_present", False))
        self._up, self.refusal = not reason.is_failure, str(reason) if reason.is_failure else ""

    def _on_disconnect(self, *_: object) -> None:
        self._down = True


Connect = Callable[..., Client]


@pytest.fixture
def connect(mosquitto: Broker, pki: Pki) -> Iterator[Connect]:
    made: list[Client] = []

    def make(name: str, **said: object) -> Client:
        made.append(Client(mosquitto, pki, name, **said))
        return made[-1]

    yield make
    kept(make)  # so that what a failed test leaves is not the next one's
    for client in made:
        client.leave()


def kept(connect: Connect) -> list[str]:
    """Return the topics of all that the broker retains, and have it forget that. Ends the coordinator's session."""
    reader = connect(COORDINATOR)
    reader.listen("#")
    mark = "argosy/mark"
    reader.say(mark)
    assert until(lambda: mark in reader.got)
    found = [topic for topic in reader.got if topic != mark]
    for topic in found:
        reader.say(topic, b"", retain=True)
    return sorted(found)


def test_every_topic_of_the_protocol_is_tried_below() -> None:
    assert len(all_of(B)) == len(set(all_of(B))) == 8
    assert all(B.device in topic.split("/") for topic in all_of(B))


@pytest.mark.parametrize("retain", [False, True], ids=["passing", "retained"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_nothing_is_published_in_anothers_name_or_the_coordinators(connect: Connect, qos: int, retain: bool) -> None:
    coordinator, victim, trespasser = connect(COORDINATOR), connect(B.device), connect(A.device)
    coordinator.listen("#")
    victim.listen(*downward(B), "argosy/v1/+/b/#")
    forbidden = [
        *all_of(B),
        *all_of(B_ELSEWHERE),
        *downward(A),
        coordinator_state(A.site),
        coordinator_state("elsewhere"),
        f"{B.events}/more",
        f"argosy/v1/default/d/{B.device}/d/{A.device}/up/evt",
    ]
    for topic in forbidden:
        trespasser.say(topic, qos=qos, retain=retain)
    for topic in upward(A):
        trespasser.say(topic, qos=qos, retain=retain)
    trespasser.say(A.events)  # acknowledged, so the broker has all that was said before it, QoS 0 as well
    coordinator.say(B.jobs)
    legal = [*upward(A), A.events, B.jobs]
    assert until(lambda: len(coordinator.got) >= len(legal) and victim.got)
    assert coordinator.got == legal, "in order, so nothing that is forbidden came before the last one"
    assert victim.got == [B.jobs]
    assert kept(connect) == (sorted(upward(A)) if retain else [])


LISTENING = [
    "#",
    "+/#",
    "/#",
    "argosy/#",
    "argosy/v1/#",
    "argosy/v1/+/s/+",
    "argosy/v1/+/d/+/dn/#",
    "argosy/v1/+/d/+/up/#",
    f"argosy/v1/default/d/{B.device}/#",
    f"argosy/v1/default/d/{B.device}/+/+",
    "+/+/+/+/+/+/+",
    *COORDINATOR_FILTERS,
    chunk_filter(SINK),
    *all_of(B),
]


@pytest.mark.parametrize(
    ("shared", "version"),
    [(False, MQTTProtocolVersion.MQTTv311), (True, MQTTProtocolVersion.MQTTv5)],
    ids=["plain", "shared"],
)
def test_nothing_that_is_anothers_is_heard(connect: Connect, shared: bool, version: MQTTProtocolVersion) -> None:
    coordinator, victim = connect(COORDINATOR), connect(B.device)
    for topic in upward(B):
        victim.say(topic, retain=True)
    filters = [f"$share/thieves/{each}" for each in LISTENING] if shared else [*LISTENING, "$SYS/#"]
    trespasser = connect(A.device, version=version)
    coordinator.listen(*(each.replace("thieves", "friends") for each in filters))
    trespasser.listen(*filters, A.jobs)
    for topic in upward(B):
        victim.say(topic)
    for topic in downward(B):
        coordinator.say(topic)
    coordinator.say(A.jobs)
    assert until(lambda: A.jobs in trespasser.got)
    assert set(trespasser.got) == {A.jobs}
    assert until(lambda: set(all_of(B)) <= set(coordinator.got)), "who may hear them hears them by these filters"
    assert kept(connect) == sorted(upward(B))


def test_no_will_speaks_for_another_or_for_the_coordinator(connect: Connect) -> None:
    coordinator, victim = connect(COORDINATOR), connect(B.device)
    coordinator.listen("#")
    victim.listen(*downward(B), "argosy/v1/+/b/#")
    for topic in [*all_of(B), *downward(A), coordinator_state(A.site)]:
        # a broker may refuse the connection for its will, or drop the will
        trespasser = connect(A.device, will=topic)
        if trespasser.connected:
            trespasser.die()
    connect(A.device, will=A.birth).die()
    assert until(lambda: bool(coordinator.got))
    assert coordinator.got == [A.birth]
    victim.say(B.events)
    assert until(lambda: B.events in coordinator.got)
    assert victim.got == []
    assert kept(connect) == [A.birth]


NAMES: list[dict[str, object]] = [
    {"client_id": client_id, **user, "version": version}
    for client_id, user, version in itertools.product(
        (B.device, COORDINATOR, ""),
        ({}, {"user": B.device}, {"user": COORDINATOR}),
        (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311),
    )
]


def test_whatever_name_it_gives_it_is_who_its_certificate_says(connect: Connect) -> None:
    coordinator, victim = connect(COORDINATOR), connect(B.device)
    coordinator.listen("argosy/#")
    victim.listen(*downward(B))
    for said in NAMES:
        trespasser = connect(A.device, **said)
        assert trespasser.connected, f"{said}: {trespasser.refusal}"
        trespasser.listen("#", *downward(B))
        trespasser.say(B.events)
        trespasser.say(coordinator_state(A.site))
        coordinator.got.clear()
        trespasser.say(A.events)
        coordinator.say(B.jobs)
        coordinator.say(A.jobs)
        assert until(lambda: A.jobs in trespasser.got)  # noqa: B023  (called at once)
        assert trespasser.got == [A.jobs], said
        assert until(lambda: A.jobs in coordinator.got)
        assert coordinator.got[0] == A.events, said
        trespasser.leave()
    assert coordinator.connected, "nobody has thrown the coordinator out"
    assert victim.connected
    assert until(lambda: len(victim.got) == len(NAMES))


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311])
def test_the_session_of_a_device_that_is_away_and_what_waits_in_it_stay_its_own(
    connect: Connect, version: MQTTProtocolVersion
) -> None:
    victim = connect(B.device, clean=False)
    victim.listen(B.jobs)
    victim.die()
    coordinator = connect(COORDINATOR)
    coordinator.say(B.jobs)
    trespasser = connect(A.device, client_id=B.device, user=B.device, clean=False, version=version)
    assert not trespasser.session_present
    coordinator.say(A.jobs)
    trespasser.listen(A.jobs)
    coordinator.say(A.jobs)
    assert until(lambda: bool(trespasser.got))
    assert trespasser.got == [A.jobs]
    again = connect(B.device, clean=False)
    assert again.session_present
    assert until(lambda: again.got == [B.jobs])
    again.leave()
    connect(B.device)  # and no session of it reaches into the next test
    connect(A.device, version=version)
