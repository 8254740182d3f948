from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentServer
from argosy_server.store import Store


class SetClock:
    """A clock that goes when the test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.now.timestamp()

    def wall(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'coordinator.db'}", clock) as store:
        yield store


@pytest.fixture
def ca(tmp_path: Path, clock: SetClock) -> CertificateAuthority:
    return CertificateAuthority.open(tmp_path / "ca", clock)


@pytest.fixture
def server(store: Store, ca: CertificateAuthority, clock: SetClock) -> Iterator[EnrolmentServer]:
    server = EnrolmentServer(
        store,
        ca,
        clock=clock,
        host="127.0.0.1",
        port=0,
        hosts=["127.0.0.1"],
        brokers=lambda: [("10.0.0.5", 8883), ("127.0.0.1", 8883)],
    )
    server.start()
    yield server
    server.stop()
    assert not server.alive()
