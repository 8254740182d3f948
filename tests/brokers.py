"""Real brokers with client certificates, and links to them that are always stopped."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.link import Link, LinkSettings, TlsFiles, Will
from argosy_server.broker import Broker, open_broker
from argosy_server.settings import BrokerTable
from tests.pki import Pki
from tests.proxy import Proxy

MakeLink = Callable[..., Link]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def _running(kind: str, pki: Pki, folder: Path) -> Iterator[Broker]:
    settings = BrokerTable.model_validate({"kind": kind, "host": "127.0.0.1", "port": 0})
    broker = open_broker(settings, pki.server(), folder, clock=SystemClock(), rng=random.Random(1))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def mosquitto(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _running("mosquitto", pki, tmp_path_factory.mktemp("mosquitto"))


@pytest.fixture(scope="module")
def iotcore(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _running("iotcore", pki, tmp_path_factory.mktemp("iotcore"))


@pytest.fixture(scope="module", params=["mosquitto", "iotcore"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the two brokers that the coordinator may run."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def own_mosquitto(pki: Pki, tmp_path: Path) -> Iterator[Broker]:
    """A Mosquitto for one test, to be killed."""
    yield from _running("mosquitto", pki, tmp_path)


@pytest.fixture
def proxied(mosquitto: Broker) -> Iterator[Proxy]:
    """A proxy before Mosquitto."""
    proxy = Proxy(mosquitto.address)
    yield proxy
    proxy.close()


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
        address: tuple[str, int] | None = None,
        will: Callable[[], Will] | None = None,
        **changes: object,
    ) -> Link:
        host, port = address or broker.address
        settings = LinkSettings(host, port, client_id or name, tls or pki.client(name), backoff_cap_s=0.5)
        if name == "coordinator":  # many tests use it: no session of one must reach into the next
            settings = dataclasses.replace(settings, session_expiry_s=0)
        settings = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]  # tests name existing fields
        made.append(Link(settings, clock=SystemClock(), rng=random.Random(2), will=will))
        return made[-1]

    yield make
    for link in made:
        link.stop(1.0)
