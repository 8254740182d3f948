"""Births of one board, and of two that say to be one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.wire.bodies import Birth
from argosy_server import doctor
from argosy_server.store import Store
from argosy_server.twins import RECENT_S, Twins
from tests.server.test_dispatcher import HandClock

DEVICE = "aa" * 8
ONE, OTHER, THIRD = "11" * 16, "22" * 16, "33" * 16


class Bench:
    """What the coordinator makes of births."""

    def __init__(self, store: Store, clock: HandClock) -> None:
        self.store, self.clock = store, clock
        self.twins = Twins(store, clock=clock)

    def born(self, *births: tuple[str, int]) -> list[str]:
        for boot, session in births:
            birth = Birth(boot=boot, session=session, name="pi", version="1", python="3", machine="arm")
            self.twins.born(DEVICE, birth)
        return self.twins.recent()

    def audited(self) -> list[tuple[str, str, str]]:
        return [(row.actor, row.action, row.subject) for row in self.store.audit.tail()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = HandClock()
    with Store.open(f"sqlite:///{tmp_path / 'argosy.db'}", clock) as store:
        yield Bench(store, clock)


@pytest.mark.parametrize(
    "births",
    [
        [(ONE, 1), (ONE, 2), (ONE, 3)],  # a bad line
        [(ONE, 1), (OTHER, 1), (THIRD, 1), (THIRD, 2)],  # a board that restarts
        [(ONE, 1), (ONE, 1), (OTHER, 1), (OTHER, 1)],  # each told again: retained, or asked for
        [(ONE, 1), (ONE, 2), (OTHER, 1), (ONE, 1), (ONE, 2), (OTHER, 2)],  # delivered again after a lost connection
    ],
)
def test_one_board_is_no_twin_whatever_becomes_of_its_line_and_its_power(
    bench: Bench, births: list[tuple[str, int]]
) -> None:
    assert bench.born(*births) == []
    assert bench.audited() == []


def test_a_boot_that_comes_back_after_another_was_there_is_a_second_board(bench: Bench) -> None:
    assert bench.born((ONE, 1), (OTHER, 1)) == []
    assert bench.born((ONE, 2)) == [DEVICE]
    assert bench.audited() == [("coordinator", "device.twin", DEVICE)]


def test_they_fill_the_audit_log_once_an_hour_only_and_are_past_an_hour_after_the_last(bench: Bench) -> None:
    for turn in range(1, 50):
        bench.born((ONE, turn), (OTHER, turn))
        bench.clock.now += RECENT_S / 40
    assert len(bench.audited()) == 1, "they were about all the time"
    assert bench.twins.recent() == [DEVICE]
    bench.clock.now += RECENT_S
    assert bench.twins.recent() == []
    bench.born((ONE, 60))
    assert len(bench.audited()) == 2


def test_a_device_that_is_shut_out_is_forgotten(bench: Bench) -> None:
    bench.born((ONE, 1), (OTHER, 1), (ONE, 2))
    bench.twins.forget(DEVICE)
    assert bench.twins.recent() == []
    assert bench.born((OTHER, 2)) == []


def test_the_doctor_names_them_and_what_to_do() -> None:
    assert doctor.copies([]).ok
    found = doctor.copies([f"d{number}" for number in range(7)])
    assert (found.ok, "d0, d1, d2, d3, d4 and 2 more" in found.detail) == (False, True)
    assert "argosy device revoke" in found.remedy
