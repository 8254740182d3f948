"""Where the activity goes: a topic of an MQTT broker, retained, so that whoever comes later knows it too."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

PORTS = {"mqtt": 1883, "mqtts": 8883}
OFFLINE = json.dumps({"activity": None})


class Publisher:
    """Publishes to `url`, `mqtt://[user:password@]host[:port]` or `mqtts://…`; paho connects again by itself.

    What cannot be sent while there is no connection is not kept but for the last: old activities are of no use.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(self, url: str, topic: str, *, ca: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is no broker: write mqtt://HOST or mqtts://HOST")
        self.topic = topic
        self._last = OFFLINE
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 60)
        self._client.will_set(topic, OFFLINE, qos=1, retain=True)
        self._client.on_connect = self._connected
        if parts.username:
            self._client.username_pw_set(parts.username, parts.password)
        if parts.scheme == "mqtts":
            self._client.tls_set(None if ca is None else str(ca))
        self._client.connect_async(parts.hostname, parts.port or PORTS[parts.scheme])
        self._client.loop_start()

    def publish(self, activity: str, confidence: float) -> None:
        """Tell what the wearer does now."""
        self._last = json.dumps({"activity": activity, "confidence": round(confidence, 3)})
        if self._client.is_connected():
            self._send()

    def close(self) -> None:
        """Say that nobody tells any more, and hang up."""
        self._last = OFFLINE
        if self._client.is_connected():
            self._send().wait_for_publish(2.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, *_: object) -> None:
        self._send()

    def _send(self) -> mqtt.MQTTMessageInfo:
        return self._client.publish(self.topic, self._last, qos=1, retain=True)
