"""A bench on which everything goes wrong at once, at one port each: no board holds up another."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from argosy_client.identity import Enrolment
from argosy_common.clock import SystemClock
from argosy_common.errors import (
    ArgosyError,
    NotEnrolled,
    SerialGarbled,
    SerialPortMissing,
    SerialSilent,
    SerialUnplugged,
)
from argosy_common.serial import exchange
from argosy_provisioning.batch import Batch, Place
from argosy_provisioning.port import StationPort
from argosy_provisioning.station import Order
from tests.client.yard import Yard, open_yard
from tests.provisioning.bench import Board, noisy


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield from open_yard(tmp_path, datetime.now(UTC))


def _is_enrolled(board: Board) -> bool:
    try:
        return bool(Enrolment.load(board.folder).device)
    except NotEnrolled:
        return False


def test_good_noisy_silent_garbled_and_pulled_boards_at_once(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: dict[str, type[ArgosyError]] = {
        "silent": SerialSilent,
        "garbled": SerialGarbled,
        "pulled": SerialUnplugged,
    }
    with ExitStack() as stack:
        names = ("good", "noisy", *wrong)
        with ThreadPoolExecutor(3) as pool:
            made = pool.map(lambda name: stack.enter_context(closing(Board(tmp_path / name))), names)
            boards = dict(zip(names, made, strict=True))
        rng = random.Random(5)
        hopeless = {boards[name].port for name in ("silent", "garbled")}
        patient, hurried = exchange.Patience.at, exchange.Patience(first=0.2, frame=1.0)
        monkeypatch.setattr(
            exchange.Patience,
            "at",
            lambda baud: hurried if threading.current_thread().name in hopeless else patient(baud),
        )  # a batch names each thread by its port
        boards["noisy"].cable.line = noisy(random.Random(4))
        boards["silent"].cable.line = lambda _: b""
        boards["garbled"].cable.line = lambda data: rng.randbytes(len(data))
        boards["garbled"].cable.echo = True  # so that bytes come back at all
        boards["pulled"].cable.unplug_after = 400
        ports = {board.port: None for board in boards.values()} | {str(tmp_path / "none"): None}
        order = Order.parse(yard.server.url, yard.token(uses=10), yard.ca.pin)
        batch = Batch(ports, order, StationPort, clock=SystemClock(), rng=random.Random(1))
        batch.start()
        for _ in range(60):
            if batch.wait(1.0):
                break
        places: dict[str, Place] = dict(zip([*boards, "missing"], batch.places, strict=True))
        for name in ("good", "noisy"):
            assert places[name].error is None, (name, places[name].error)
            assert _is_enrolled(boards[name])
        for name, kind in {**wrong, "missing": SerialPortMissing}.items():
            assert isinstance(places[name].error, kind), (name, places[name].error)
            assert places[name].enrolled is None
        assert not any(_is_enrolled(boards[name]) for name in wrong), "nothing is half done"
        assert yard.used() == 2
        worst = batch.worst()
        assert worst is not None
        assert type(worst) in {*wrong.values(), SerialPortMissing}
        monkeypatch.undo()
        # they are as they were: with a good line they join
        for name in ("silent", "garbled"):
            boards[name].cable.echo = False
            boards[name].cable.line = lambda data: data
        boards["pulled"].cable.plug()
        again = [boards[name].port for name in ("silent", "garbled", "pulled")]
        batch = Batch(dict.fromkeys(again), order, StationPort, clock=SystemClock(), rng=random.Random(2))
        batch.start()
        for _ in range(60):
            if batch.wait(1.0):
                break
        assert [place.error for place in batch.places] == [None, None, None]
        assert yard.used() == 5
