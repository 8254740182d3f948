"""What we need to know of MQTT 5's packets beside paho."""

from __future__ import annotations

from paho.mqtt.properties import Properties


def properties(packet_type: int, **values: int) -> Properties:
    """Return the properties of a packet (MQTT 5, section 2.2.2)."""
    made = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho leaves this one class untyped
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish_size(topic: str, payload: int, *, qos: int, expires: bool = False) -> int:
    """Return the size of a PUBLISH packet (section 3.3) with `payload` bytes and no property but, maybe, an expiry."""
    rest = 2 + len(topic.encode()) + (2 if qos else 0) + (6 if expires else 1) + payload
    length_bytes = 1 + (rest >= 1 << 7) + (rest >= 1 << 14) + (rest >= 1 << 21)
    return 1 + length_bytes + rest
