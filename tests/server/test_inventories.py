"""What devices tell of their hardware while they are enrolled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.wire.bodies import Inventory
from argosy_common.wire.envelope import Envelope
from argosy_server.inventories import EVERY_S, Inventories
from argosy_server.store import Store
from tests.server.store.test_tables import _device
from tests.server.test_dispatcher import HandClock

A, B = "aa" * 8, "bb" * 8


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path, clock: HandClock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'argosy.db'}", clock) as store:
        yield store


def test_changes_are_taken_once_a_minute_from_each_device(store: Store, clock: HandClock) -> None:
    inventories = Inventories(store, clock=clock)
    for each in (A, B):
        store.devices.add(_device(each, each, inventory={"model": "Pi 3"}))

    def tell(model: str, device: str = A) -> object:
        inventories.take(device, Envelope(kind="inventory"), Inventory(facts={"model": model}))
        return store.devices.get(device).inventory["model"]

    assert tell("Pi 4") == "Pi 4"
    assert tell("Pi 5") == "Pi 4", "one that changes at once does not fill the audit log"
    assert tell("Pi 5", B) == "Pi 5", "others are not held back by it"
    clock.now += EVERY_S / 2
    assert tell("Pi 4") == "Pi 4", "the same again is no change"
    clock.now += EVERY_S / 2
    assert tell("Pi 5") == "Pi 5"
    assert [row.subject for row in store.audit.tail()] == [A, B, A]
