"""Real brokers with client certificates, and links to them that are always stopped."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.link import Link, LinkSettings, TlsFiles, Will
from argosy_server.broker import Broker, open_broker
from argosy_server.settings import BrokerTable
from tests.pki import Pki
from tests.waiting import until

MakeLink = Callable[..., Link]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def _broker(kind: str, pki: Pki, folder: Path) -> Iterator[Broker]:
    settings = BrokerTable.model_validate({"kind": kind, "host": "127.0.0.1", "port": 0})
    broker = open_broker(settings, pki.server(), folder, clock=SystemClock(), rng=random.Random(1))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def mosquitto(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _broker("mosquitto", pki, tmp_path_factory.mktemp("mosquitto"))


@pytest.fixture(scope="module")
def iotcore(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _broker("iotcore", pki, tmp_path_factory.mktemp("iotcore"))


@pytest.fixture(scope="module", params=["mosquitto", "iotcore"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the two brokers that the coordinator may run."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_link(pki: Pki) -> Iterator[MakeLink]:
    """Make links by broker and name; not started."""
    made: list[Link] = []

    def make(
        broker: Broker,
        name: str,
        *,
        client_id: str | None = None,
        tls: TlsFiles | None = None,
        will: Callable[[], Will] | None = None,
        **changes: object,
    ) -> Link:
        host, port = broker.address
        settings = LinkSettings(host, port, client_id or name, tls or pki.client(name), backoff_cap_s=0.5)
        settings = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]  # tests name existing fields
        made.append(Link(settings, clock=SystemClock(), rng=random.Random(2), will=will))
        return made[-1]

    yield make
    for link in made:
        link.stop(1.0)


def up(link: Link) -> Link:
    """Start `link` and wait until it is connected."""
    link.start()
    assert link.wait_connected(20.0), link.last_error
    return link


def kill(broker: Broker) -> None:
    """Kill the broker's process without warning, and wait until another has taken its place."""
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: broker.pid not in (None, pid) and broker.alive())
