"""What a link has carried since it was made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinkStats:
    """Counts of MQTT PUBLISH packets and of their bytes, headers included, TLS and TCP excluded."""

    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    connects: int = 0
