"""A join that waits for an operator: bounded, said aloud, and gone on with by the same command."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_client.approval import Patience, until_decided
from argosy_client.identity import Enrolment
from argosy_client.join import join
from argosy_common.clock import SystemClock
from argosy_common.errors import ApprovalPending, DeviceRefused, EnrolmentUnreachable, NotEnrolled
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentServer
from argosy_server.store import Store


class HandClock(SystemClock):
    """Goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_the_wait_is_bounded_told_once_and_backs_off() -> None:
    clock, told = HandClock(), list[str]()

    def ask() -> None:
        raise ApprovalPending(device="9f" * 8)

    with pytest.raises(ApprovalPending):
        until_decided(ask, Patience(300, told.append, clock.sleep, random.Random(1)), clock)
    assert clock.now == pytest.approx(300)
    assert len(told) == 1
    assert "argosy device approve 9f9f" in told[0]
    assert all(2 <= wait <= 30 for wait in clock.slept[:-1])
    assert max(clock.slept) > 10


def test_a_coordinator_that_is_away_meanwhile_is_waited_for_but_not_at_first() -> None:
    clock = HandClock()
    answers = iter([ApprovalPending(device="9f" * 8), EnrolmentUnreachable(url="u", why="refused"), None])

    def ask() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "in"

    assert until_decided(ask, Patience(300, sleep=clock.sleep), clock) == "in"
    answers = iter([EnrolmentUnreachable(url="u", why="refused")])
    with pytest.raises(EnrolmentUnreachable):
        until_decided(ask, Patience(300, sleep=clock.sleep), clock)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'coordinator.db'}", SystemClock()) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path, store: Store) -> Iterator[EnrolmentServer]:
    ca = CertificateAuthority.open(tmp_path / "ca", SystemClock())
    made = EnrolmentServer(
        store,
        ca,
        clock=SystemClock(),
        host="127.0.0.1",
        port=0,
        hosts=["127.0.0.1"],
        brokers=lambda: [("10.0.0.5", 8883)],
    )
    made.start()
    yield made
    made.stop()


def _join(tmp_path: Path, server: EnrolmentServer, token: str, patience: Patience | None = None) -> Enrolment:
    pin = CertificateAuthority.open(tmp_path / "ca", SystemClock()).pin
    return join(server.url, token, pin, tmp_path / "pi", "pi", clock=SystemClock(), patience=patience)


def test_a_board_waits_until_it_is_approved(tmp_path: Path, store: Store, server: EnrolmentServer) -> None:
    _, token = store.tokens.create(approve=False)
    with pytest.raises(ApprovalPending):
        _join(tmp_path, server, token)
    with pytest.raises(NotEnrolled):
        Enrolment.load(tmp_path / "pi")

    def approve(_seconds: float) -> None:
        store.devices.decide("pi", "approve", "user:me")

    enrolment = _join(tmp_path, server, token, Patience(60, sleep=approve))  # the same command goes on
    assert Enrolment.load(tmp_path / "pi") == enrolment
    assert [row.used for row in store.tokens.list()] == [1]


def test_a_board_that_is_rejected_stops_waiting(tmp_path: Path, store: Store, server: EnrolmentServer) -> None:
    def reject(_seconds: float) -> None:
        store.devices.decide("pi", "reject", "user:me")

    with pytest.raises(DeviceRefused, match="rejected"):
        _join(tmp_path, server, store.tokens.create(approve=False)[1], Patience(60, sleep=reject))
