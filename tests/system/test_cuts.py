"""A large model over a bad wire: the connection is cut again and again, and what has arrived is not sent again."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_client.identity import RECORD
from argosy_server.local_fleet import LocalFleet
from tests.fleets import data_of

pytestmark = pytest.mark.timeout(180)

MODEL = 24_000_000
CUTS = [3_000_000, 7_000_000, 11_000_000, 15_000_000, 19_000_000]
"""After so many bytes in a direction, all connections break; five times on the way down and five on the way up."""


class CuttingProxy:
    """Forwards a free port of loopback to `target`, counts the bytes of both directions, and cuts as CUTS says."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes = {"up": 0, "down": 0}
        self.cuts = 0
        self._due = {"up": list(CUTS), "down": list(CUTS)}
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break everything and stop listening."""
        _end(self._listener)
        self._listener.close()
        with self._lock:
            self._cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                with self._lock:
                    self._open += [near, far]
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._forward, args=(source, sink, way), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):  # cut
            while data := source.recv(1 << 16):
                self._count(len(data), way)
                sink.sendall(data)
        for sock in (source, sink):
            _end(sock)

    def _count(self, length: int, way: str) -> None:
        with self._lock:
            self.bytes[way] += length
            if self._due[way] and self.bytes[way] >= self._due[way][0]:
                self._due[way].pop(0)
                self.cuts += 1
                self._cut()

    def _cut(self) -> None:
        for sock in self._open:
            _end(sock)
        self._open.clear()


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself
        sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxied(make_fleet: Callable[..., LocalFleet]) -> Iterator[tuple[LocalFleet, CuttingProxy]]:
    """A fleet of one device that reaches the broker through the proxy only, and all its blobs through the broker."""
    fleet = make_fleet(1, start=False, **{"enrolment.serve_blobs": False})
    fleet.start_coordinator()
    fleet.join("d1")
    path = fleet.device_folder("d1") / RECORD
    record = json.loads(path.read_text())
    broker = record["brokers"][0]
    proxy = CuttingProxy((broker["host"], broker["port"]))
    record["brokers"] = [{"host": "127.0.0.1", "port": proxy.port}]
    path.write_text(json.dumps(record))
    fleet.start_device("d1")
    fleet.wait_online(1)
    yield fleet, proxy
    proxy.close()


def test_a_large_model_whose_transfer_is_cut_ten_times_resumes(
    proxied: tuple[LocalFleet, CuttingProxy], lab: Path
) -> None:
    fleet, proxy = proxied
    run = fleet.run(lab, rounds=1, config={"floats": str(MODEL // 4), "min-nodes": "1"})
    row = fleet.wait_run(run, 120)
    assert row["status"] == "finished", row
    assert proxy.cuts == 10
    assert [data["metrics"]["mean"] for data in data_of(fleet, run, "central")] == [0.0, 1.0]
    assert all(data["replied"] == 1 for data in data_of(fleet, run, "phase-finished"))
    # a cut costs what was in flight, and never what had arrived
    assert MODEL < proxy.bytes["down"] < 1.5 * MODEL
    assert MODEL < proxy.bytes["up"] < 1.5 * MODEL
