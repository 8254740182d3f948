"""A hostile device floods the fleet's broker as fast as it can, with rubbish small and large; the others go on."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from argosy_client.identity import Enrolment
from argosy_common.clock import SystemClock
from argosy_common.link import Link, LinkSettings
from argosy_common.wire.topics import DeviceTopics
from argosy_server.local_fleet import LocalFleet, wait_until
from tests.fleets import data_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

MB = 1_000_000


class Flooder:
    """Says nonsense under a real device's name until it is told to stop."""

    def __init__(self, fleet: LocalFleet, name: str) -> None:
        enrolment = Enrolment.load(fleet.device_folder(name))
        self.topics = DeviceTopics(enrolment.site, enrolment.device)
        host, port = enrolment.brokers[0]
        settings = LinkSettings(host=host, port=port, client_id=enrolment.device, tls=enrolment.tls_files())
        self.sent = 0
        self._link = Link(settings, clock=SystemClock(), rng=random.Random(1))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._flood, daemon=True)

    def start(self) -> None:
        self._link.start()
        assert self._link.wait_connected(20), self._link.last_error
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(20)
        self._link.stop()

    def _flood(self) -> None:
        rng = random.Random(2)
        ways = [(self.topics.events, 1), (self.topics.chunks_up("c0"), 0), (self.topics.control_up, 0)]
        large = rng.randbytes(MB)
        while not self._stopping.is_set():
            topic, quality = ways[self.sent % 3]
            if self._link.publish(topic, large if self.sent % 50 == 0 else rng.randbytes(200), qos=quality):
                self.sent += 1
            else:
                self._stopping.wait(0.001)  # its own queue is full, or it was thrown out


@pytest.fixture
def flooded(make_fleet: Callable[..., LocalFleet]) -> Iterator[tuple[LocalFleet, Flooder]]:
    """Two honest devices, and d3's certificate in bad hands."""
    fleet = make_fleet(3, start=False)
    fleet.start_coordinator()
    for name in fleet.devices:
        fleet.join(name)
    for name in ("d1", "d2"):
        fleet.start_device(name)
    fleet.wait_online(2)
    flooder = Flooder(fleet, "d3")
    yield fleet, flooder
    flooder.stop()


def test_a_flood_of_malformed_and_oversize_messages_costs_the_others_nothing_and_bounded_memory(
    flooded: tuple[LocalFleet, Flooder], lab: Path
) -> None:
    fleet, flooder = flooded
    coordinator = psutil.Process(fleet.processes["coordinator"].pid)
    first = fleet.run(lab, rounds=1, config={"floats": "20000"})
    assert fleet.wait_run(first, 60)["status"] == "finished"
    before = sum(each.memory_info().rss for each in (coordinator, *coordinator.children()))
    run = fleet.run(lab, rounds=4, config={"floats": "20000", "train-seconds": "1"})
    flooder.start()
    assert fleet.wait_run(run, 90)["status"] == "finished"
    phases = data_of(fleet, run, "phase-finished", phase="train")
    assert [phase["replied"] for phase in phases] == [2] * 4
    wait_until(lambda: flooder.sent > 20_000, 60, "a flood")
    flooder.stop()
    after = sum(each.memory_info().rss for each in (coordinator, *coordinator.children()))
    assert after - before < 100 * MB
    assert fleet.log_path("coordinator").stat().st_size < MB, "nor does it fill the log"
    with fleet.client() as api:
        noted = [row["subject"] for row in api.get("audit")["entries"] if row["action"] == "device.flooding"]
    assert noted == [flooder.topics.device]
