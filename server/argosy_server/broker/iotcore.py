"""The embedded broker (rumqttd in the `iotcore` wheel) as a managed child, for machines without Mosquitto.

It has no access list, and the wheel is built without rumqttd's check of client certificates (it says so in its log):
whoever reaches it reads and writes everything. So it listens on loopback alone, whatever host is set, and is good for
trying things out on a machine whose users trust one another.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Collection
from pathlib import Path

from argosy_common.clock import Clock
from argosy_common.files import private_folder, write_atomic
from argosy_common.link import TlsFiles
from argosy_common.logs import get_logger
from argosy_server.broker.child import Child, choose_port
from argosy_server.broker.mosquitto import MAX_PACKET

log = get_logger(__name__)

LOOPBACK = "127.0.0.1"


class IotcoreBroker:
    """See `broker.Broker`."""

    kind = "iotcore"

    def __init__(self, port: int, tls: TlsFiles, folder: Path, *, clock: Clock, rng: random.Random) -> None:
        """Write the configuration into `folder`, for a broker on loopback and `port` (0: a free one)."""
        private_folder(folder)
        port = choose_port(LOOPBACK, port)
        config = folder / "iotcore.toml"
        write_atomic(config, configuration(port, tls).encode())
        self.address = (LOOPBACK, port)
        self._child = Child(
            self.kind,
            # rumqttd logs every packet as an error; what keeps it from starting is said on stderr all the same
            [sys.executable, "-I", "-m", "iotcore", "--config", str(config), "--log-level", "CRITICAL"],
            LOOPBACK,
            port,
            folder / "iotcore.log",
            clock=clock,
            rng=rng,
        )
        self.stop = self._child.stop
        self.alive = self._child.alive
        self.kept = self._child.kept

    def start(self) -> None:
        """See `broker.Broker`."""
        self._child.start()
        log.warning(
            "broker.no_access_control",
            broker=self.kind,
            host=LOOPBACK,
            why="every user of this machine can read and write all messages; install mosquitto for real devices",
        )

    @property
    def pid(self) -> int | None:
        """The broker's process."""
        return self._child.pid

    def shut_out(self, devices: Collection[str]) -> None:
        """It knows neither names nor lists; the gateway alone keeps a device out."""


def configuration(port: int, tls: TlsFiles) -> str:
    """Return rumqttd's configuration: one MQTT 5 listener with TLS. `capath` is there for a wheel that heeds it."""

    def quoted(value: object) -> str:
        return json.dumps(str(value))  # a JSON string is a TOML string

    return f"""\
# Written by Argosy at each start. Changes here are lost.
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 16777216
max_segment_count = 2

[v5.1]
name = "argosy"
listen = {quoted(f"{LOOPBACK}:{port}")}
next_connection_delay_ms = 1

[v5.1.tls]
capath = {quoted(tls.ca)}
certpath = {quoted(tls.cert)}
keypath = {quoted(tls.key)}

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {MAX_PACKET}
max_inflight_count = 100
dynamic_filters = true
"""
