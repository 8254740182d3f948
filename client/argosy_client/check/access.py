"""What the broker lets this board do: speak for itself, and neither speak for another nor hear it.

The broker takes the certificate's common name as the client's name, so this is the daemon's own session: it is tried
only while the daemon does not run. It begins afresh (`clean_start`), which publishes a will that still waits; what the
coordinator had queued for the device it sends again, as after any loss of the broker's memory.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from argosy_client.identity import Enrolment
from argosy_common.link.packets import properties
from argosy_common.link.tls import TellingSocket, client_context
from argosy_common.wire.topics import ROOT, DeviceTopics

STRANGER = "0" * 16
"""A device that no fleet has: Flower reserves its node id."""
LISTEN_S = 0.7
"""How long to listen for what is not for us; retained messages come at once."""
_PROBE = "up/check"
"""Below a device's own topics, where nobody listens."""


@dataclass
class Access:
    """What the broker did."""

    refused: str = ""
    """Why it did not let us in; empty: it did."""
    own: bool = False
    """We may publish in our own name."""
    others: bool = False
    """We may publish in another's name."""
    overheard: set[str] = field(default_factory=set)
    """Topics of others that reached us."""


def try_access(enrolment: Enrolment, host: str, port: int, patience_s: float) -> Access:
    """Connect as the device, and try what it may and what it must not do. Takes three times `patience_s` at most."""
    probe = _Probe(enrolment)
    try:
        return probe.run(host, port, patience_s)
    except (OSError, ValueError) as error:
        return Access(refused=_plain(error))
    finally:
        probe.close()


class _Probe:
    """One connection; its answers come as paho's callbacks while `_until` turns the loop."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._topics = DeviceTopics(enrolment.site, enrolment.device)
        self._base = f"{ROOT}/{enrolment.site}/d"
        self._access = Access()
        self._connected: ReasonCode | None = None
        self._answers: dict[int, bool] = {}
        self._subscribed = False
        self._sock: object = None
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            enrolment.device,
            protocol=mqtt.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.tls_set_context(client_context(enrolment.tls_files()))
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client

    def run(self, host: str, port: int, patience_s: float) -> Access:
        """See `try_access`."""
        client, access, device = self._client, self._access, self._topics.device
        client.connect_timeout = patience_s
        brief = properties(PacketTypes.CONNECT, SessionExpiryInterval=0)
        client.connect(host, port, 20, clean_start=True, properties=brief)
        if not self._until(lambda: self._connected is not None, patience_s):
            fault = self._sock.fault if isinstance(self._sock, TellingSocket) else None
            access.refused = _plain(fault) if fault is not None else "it does not answer"
            return access
        if self._connected is None or self._connected.is_failure:
            access.refused = str(self._connected).lower()
            return access
        own = client.publish(f"{self._base}/{device}/{_PROBE}", b"", qos=1).mid
        other = client.publish(f"{self._base}/{STRANGER}/{_PROBE}", b"", qos=1).mid
        client.subscribe(f"{ROOT}/#", qos=0)
        self._until(lambda: {own, other} <= set(self._answers) and self._subscribed, patience_s)
        self._until(lambda: False, LISTEN_S)
        access.own, access.others = self._answers.get(own, False), self._answers.get(other, False)
        return access

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _until(self, over: Callable[[], bool], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not over() and time.monotonic() < deadline:
            if self._client.loop(0.1) != mqtt.MQTT_ERR_SUCCESS:
                return over()
        return over()

    def _on_socket_open(self, _client: mqtt.Client, _data: object, sock: object) -> None:
        self._sock = sock

    def _on_connect(self, _client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        self._connected = reason

    def _on_publish(self, _client: mqtt.Client, _data: object, mid: int, reason: ReasonCode, _p: object) -> None:
        self._answers[mid] = not reason.is_failure

    def _on_subscribe(self, _client: mqtt.Client, _data: object, _mid: int, _reasons: object, _p: object) -> None:
        self._subscribed = True

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        """Note what is another's; a QoS-1 message of our own is not acknowledged, so it is not lost to the daemon."""
        shared = f"{self._base.removesuffix('/d')}/b/"
        if self._topics.device not in message.topic.split("/") and not message.topic.startswith(shared):
            self._access.overheard.add(message.topic)


def _plain(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
