"""Presence: births, deaths and grace, as a table and as it goes."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from argosy_common.straggler.conditions import Condition
from argosy_common.wire.bodies import Birth, Death, Heartbeat
from argosy_server.registry import CONDITION, TRANSITIONS, Presence, Registry
from argosy_server.runs.conditions import read_condition

DEVICE = "00000000000000aa"


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


def birth(boot: str = "11" * 16, session: int = 1, site: str = "", shard: str = "") -> Birth:
    return Birth(
        boot=boot,
        session=session,
        name="pi",
        version="1",
        python="3.11",
        machine="aarch64",
        site=site,
        shard=shard,
    )


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def registry(clock: HandClock) -> Registry:
    return Registry(clock=clock, grace_s=10.0)


def test_every_state_knows_every_birth_and_death() -> None:
    for state in Presence:
        shut_out = state is Presence.SHUT_OUT
        assert TRANSITIONS[(state, "birth")] is (Presence.SHUT_OUT if shut_out else Presence.ONLINE)
        assert TRANSITIONS[(state, "death")] is not Presence.ONLINE


def test_a_birth_brings_a_device_online_and_a_death_takes_it_away(registry: Registry) -> None:
    assert registry.born(DEVICE, birth(), "lab")
    assert registry.online() == [DEVICE]
    registry.died(DEVICE, Death(boot="11" * 16))
    assert registry.online() == []


def test_a_second_birth_of_the_same_boot_is_no_news(registry: Registry) -> None:
    registry.born(DEVICE, birth(), "lab")
    assert not registry.born(DEVICE, birth(session=2), "lab")
    assert registry.born(DEVICE, birth(boot="22" * 16), "lab")


def test_the_late_will_of_an_earlier_boot_changes_nothing(registry: Registry) -> None:
    registry.born(DEVICE, birth(boot="22" * 16), "lab")
    registry.died(DEVICE, Death(boot="11" * 16))
    assert registry.view(DEVICE).online


def test_a_device_is_lost_once_and_only_after_its_grace(registry: Registry, clock: HandClock) -> None:
    lost: list[str] = []
    registry.on_lost(lost.append)
    registry.born(DEVICE, birth(), "lab")
    registry.died(DEVICE, Death(boot="11" * 16))
    clock.now += 9.9
    registry.tick()
    assert lost == []
    clock.now += 0.2
    registry.tick()
    registry.tick()
    assert lost == [DEVICE]
    assert registry.view(DEVICE).presence is Presence.LOST


def test_a_device_that_comes_back_within_its_grace_is_not_lost(registry: Registry, clock: HandClock) -> None:
    lost: list[str] = []
    registry.on_lost(lost.append)
    registry.born(DEVICE, birth(), "lab")
    registry.died(DEVICE, Death(boot="11" * 16))
    registry.born(DEVICE, birth(session=2), "lab")
    clock.now += 60
    registry.tick()
    assert lost == []


def test_a_repeated_death_does_not_restart_the_grace(registry: Registry, clock: HandClock) -> None:
    lost: list[str] = []
    registry.on_lost(lost.append)
    registry.born(DEVICE, birth(), "lab")
    registry.died(DEVICE, Death(boot="11" * 16))
    clock.now += 8
    registry.died(DEVICE, Death(boot="11" * 16))
    clock.now += 3
    registry.tick()
    assert lost == [DEVICE]


def test_what_a_device_does_is_forgotten_with_its_boot(registry: Registry) -> None:
    registry.born(DEVICE, birth(), "lab")
    registry.does(DEVICE, "training")
    registry.born(DEVICE, birth(session=2), "lab")
    assert registry.view(DEVICE).doing == "training"
    registry.born(DEVICE, birth(boot="22" * 16), "lab")
    assert registry.view(DEVICE).doing == "idle"


def test_a_heartbeat_alone_does_not_bring_a_device_online(registry: Registry) -> None:
    registry.beat(DEVICE, Heartbeat(load=0.25))
    assert not registry.view(DEVICE).online
    assert registry.view(DEVICE).heartbeat == {"load": 0.25}


def test_who_shows_itself_before_or_after_the_broker_is_back_stays_online(registry: Registry, clock: HandClock) -> None:
    others = [f"{n:016x}" for n in range(3)]
    for device in others:
        registry.born(device, birth(), "lab")
    registry.link_down()
    clock.now += 10_000
    registry.tick()
    assert registry.online() == others  # a long time without a broker is nobody's fault
    registry.born(others[0], birth(session=2), "lab")
    registry.link_up()
    registry.beat(others[1], Heartbeat())
    clock.now += 1_000
    registry.tick()
    assert registry.online() == others[:2]
    assert registry.view(others[2]).presence is Presence.AWAY


def test_what_runs_are_told_of_a_device_has_the_fields_of_a_condition() -> None:
    assert {*CONDITION, "site", "shard"} == {field.name for field in fields(Condition)}


def test_runs_are_told_how_devices_are_that_are_online_as_far_as_they_said(registry: Registry) -> None:
    other, away = f"{1:016x}", f"{2:016x}"
    registry.born(DEVICE, birth(site="hall", shard="3"), "lab")
    registry.beat(DEVICE, Heartbeat(load=0.5, memory_used=7, battery=0.25, on_mains=False, metered=True, doing="x"))
    registry.born(other, birth(), "lab")
    registry.born(away, birth(site="hall"), "lab")
    registry.died(away, Death(boot="11" * 16))
    told = {"load": 0.5, "battery": 0.25, "on_mains": False, "metered": True, "site": "lab/hall", "shard": "3"}
    assert registry.conditions() == {DEVICE: told, other: {}}
    assert registry.view(away).condition == {"site": "lab/hall"}, "it is still known where it stands"


def test_each_heartbeat_takes_the_place_of_the_one_before(registry: Registry) -> None:
    registry.born(DEVICE, birth(), "lab")
    registry.beat(DEVICE, Heartbeat(battery=0.5, throttled=True))
    registry.beat(DEVICE, Heartbeat(battery=0.4))
    assert registry.conditions() == {DEVICE: {"battery": 0.4}}


def test_a_board_may_be_carried_to_another_place(registry: Registry) -> None:
    registry.born(DEVICE, birth(site="hall", shard="3"), "lab")
    registry.born(DEVICE, birth(session=2, site="yard"), "lab")
    assert registry.conditions() == {DEVICE: {"site": "lab/yard"}}
    registry.born(DEVICE, birth(session=3), "lab")
    assert registry.conditions() == {DEVICE: {}}


def test_a_shard_is_of_the_site_that_its_board_enrolled_at_whatever_the_board_says(registry: Registry) -> None:
    def unit(enrolled: str, site: str = "", shard: str = "3") -> object:
        registry.born(DEVICE, birth(site=site, shard=shard), enrolled)
        return read_condition(registry.view(DEVICE).condition).unit

    assert unit("lab") == unit("lab", "lab") == ("lab", "3"), "nothing need be said where a site is one place"
    assert unit("lab", "hall") == ("lab/hall", "3")
    others = [unit("north", said) for said in ("", "lab", "lab/hall", "/lab", "../lab", "hall")]
    assert not {unit("lab"), unit("lab", "hall")} & set(others)
    assert len(set(others)) == len(others)
    assert unit("n" * 64, "x" * 256, "y" * 256) == (f"{'n' * 64}/{'x' * 256}", "y" * 256), "the longest there are"


def test_a_device_that_is_shut_out_stays_away_whatever_it_says_until_it_is_let_in(registry: Registry) -> None:
    lost: list[str] = []
    registry.on_lost(lost.append)
    registry.born(DEVICE, birth(), "lab")
    registry.shut_out(DEVICE)
    assert lost == [DEVICE]
    registry.born(DEVICE, birth("22" * 16), "lab")
    registry.died(DEVICE, Death(boot="22" * 16))
    registry.tick()
    assert registry.view(DEVICE).presence is Presence.SHUT_OUT
    assert registry.online() == []
    registry.readmit(DEVICE)
    registry.born(DEVICE, birth("33" * 16), "lab")
    registry.readmit(DEVICE)
    assert registry.online() == [DEVICE]
