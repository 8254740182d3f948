"""Who floods the coordinator is shut out for a while, by the coordinator itself; the others notice nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.link import Link, LinkSettings, TlsFiles
from argosy_common.wire.bodies import Birth
from argosy_common.wire.envelope import Envelope, encode
from argosy_common.wire.topics import DeviceTopics
from argosy_server import floods
from argosy_server.coordinator import Coordinator
from argosy_server.floods import BURST, QUIET_S, RATE, Floods
from argosy_server.settings import BrokerTable, CoordinatorSettings, EnrolmentTable
from tests.enrolled import enrol
from tests.server.enrolment.conftest import SetClock
from tests.waiting import until


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def test_what_an_honest_device_says_never_silences_it(clock: SetClock) -> None:
    judge = Floods(clock)
    for _ in range(100):
        for _ in range(int(RATE)):
            judge.take("a")
        clock.go(1)
    for _ in range(int(BURST)):
        judge.take("a")
    assert judge.news() == ([], [])


def test_a_flood_silences_its_sender_for_a_while_and_nobody_else(clock: SetClock) -> None:
    judge = Floods(clock)
    for _ in range(int(BURST) + 1):
        judge.take("a")
    judge.take("b")
    assert judge.quiet("a")
    assert not judge.quiet("b")
    assert judge.news() == (["a"], [])
    assert judge.news() == ([], [])
    assert judge.all_quiet() == {"a"}
    clock.go(QUIET_S + 1)
    assert judge.news() == ([], ["a"])
    assert not judge.quiet("a")


def test_what_must_be_refused_counts_for_more(clock: SetClock) -> None:
    judge = Floods(clock)
    for _ in range(int(BURST / floods.REFUSED) + 1):
        judge.take("a", refused=True)
    assert judge.quiet("a")


class Board:
    """A device's connection, which is born anew at each, and says what it likes."""

    def __init__(self, device: str, files: TlsFiles, broker: tuple[str, int]) -> None:
        self.topics = DeviceTopics("default", device)
        settings = LinkSettings(host=broker[0], port=broker[1], client_id=device, tls=files)
        self.link = Link(settings, clock=SystemClock(), rng=random.Random(1))
        self.link.on_up(lambda _: self._be_born())
        self.link.start()

    def _be_born(self) -> None:
        body = Birth(boot="1" * 32, session=0, name="board", version="0", python="3", machine="x")
        self.link.publish(self.topics.birth, encode(Envelope(kind=body.kind, body=body.pack())), retain=True)


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    monkeypatch.setattr(floods, "QUIET_S", 2.0)
    local = {"host": "127.0.0.1", "port": 0}
    settings = CoordinatorSettings(
        state_dir=tmp_path / "state",
        broker=BrokerTable.model_validate({**local, "advertise": ["127.0.0.1"]}),
        enrolment=EnrolmentTable.model_validate(local),
    )
    made = Coordinator(settings, clock=SystemClock(), rng=random.Random(1))
    made.start()
    yield made
    made.stop()


def test_a_flooding_device_is_shut_out_by_itself_and_let_in_again_later(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    devices = enrol(coordinator.store, coordinator.ca.folder, tmp_path, 2)
    rogue, honest = [Board(device, files, coordinator._broker.address) for device, files in devices.items()]
    boards = (rogue, honest)

    def online(board: Board) -> bool:
        return coordinator.presence(board.topics.device)["online"] is True

    def said() -> list[tuple[str, str]]:
        return [(row.action, row.subject) for row in coordinator.store.audit.tail()]

    try:
        assert until(lambda: all(online(board) for board in boards))
        for _ in range(3000):
            assert until(lambda: rogue.link.publish(rogue.topics.events, b"nonsense") or not online(rogue))
            if not online(rogue):
                break
        assert until(lambda: not online(rogue))
        assert said() == [("device.flooding", rogue.topics.device)]
        assert online(honest)
        assert until(lambda: online(rogue), patience_s=30)
        assert coordinator._floods.all_quiet() == set()
        assert online(honest)
    finally:
        for board in boards:
            board.link.stop()
