"""A thousand devices lose their broker at once, and come back at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select

from argosy_common.clock import SystemClock
from argosy_server.local_fleet import LocalFleet, wait_until
from argosy_server.store import Store
from argosy_server.store.tables import Device
from tests.enrolled import enrol
from tests.light_clients import LightClient, context_of

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

THOUSAND = 1000


@contextmanager
def alive(clients: list[LightClient], port: int) -> Iterator[None]:
    """Let all of them live, on a thread of their own."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(client.live("127.0.0.1", port)) for client in clients]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ends), "none died before"

    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_a_thousand_devices_that_come_back_at_once_are_all_served(
    make_fleet: Callable[..., LocalFleet], tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    port = int(str(fleet._settings["broker.port"]))
    url = f"sqlite:///{fleet.folder / 'coordinator' / 'coordinator.db'}"
    with Store.open(url, SystemClock()) as store:
        made = enrol(store, fleet.folder / "coordinator" / "ca", tmp_path, THOUSAND)
        clients = [LightClient(device, "default", context_of(files)) for device, files in made.items()]

        def born(boot: str) -> Callable[[], bool]:
            wanted = select(func.count()).where(Device.boot == boot)

            def all_are() -> bool:
                with store._database.read() as session:
                    return session.scalar(wanted) == THOUSAND

            return all_are

        with alive(clients, port):
            wait_until(born("1" * 32), 120, "a thousand devices to be there")
            fleet.wait_online(THOUSAND + 1, 60)
            for client in clients:
                client.boot = "2" * 32
            coordinator = psutil.Process(fleet.processes["coordinator"].pid)
            before = coordinator.memory_info().rss
            connected = fleet.log_path("d1").read_text().count("link.connected")
            broker = next(child for child in coordinator.children() if "mosquitto" in child.name())
            broker.send_signal(signal.SIGKILL)
            wait_until(born("2" * 32), 120, "a thousand devices to be back")
            wait_until(lambda: fleet.log_path("d1").read_text().count("link.connected") > connected, 60, "d1 as well")
            with fleet.client() as api:
                assert api.get("devices/d1")["presence"]["online"]
                assert api.get("health")["devices_online"] == THOUSAND + 1
            assert coordinator.memory_info().rss - before < 100 * 2**20
    assert "Traceback" not in fleet.log_path("coordinator").read_text()
