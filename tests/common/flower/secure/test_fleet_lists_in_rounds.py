"""Rounds of devices that go by the operator's fleet list: strangers are left out, and what is wrong has a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from argosy_common.errors import FleetListInvalid
from tests.common.flower.secure.fleet import SecureFleet, instructions
from tests.common.flower.secure.test_secure_grid import BASE, check


def names(fleet: SecureFleet, *nodes: int) -> list[str]:
    """Return device ids, all of them unless told otherwise."""
    return [f"{node:016x}" for node in nodes or fleet.nodes]


def train(fleet: SecureFleet, listed: tuple[int, bytes] | None, number: int = 1) -> Any:  # noqa: ANN401  (a message)
    """Run a round with this fleet list; return the first reply."""
    grid = fleet.grid(fleet=listed)
    return next(iter(grid.send_and_receive(instructions(fleet, BASE, number), timeout=100)))


def left_out(fleet: SecureFleet) -> Mapping[str, Any]:
    """Return by which name each device refused in the last group's round."""
    return {device: error["code"] for device, error in fleet.told("secure-group")[-1]["left_out"].items()}


def test_all_devices_are_listed_and_go_by_that_version(tmp_path: Path) -> None:
    fleet = SecureFleet(tmp_path, 5, operator=True)
    grid = fleet.grid(fleet=fleet.listed())
    assert grid.described()["fleet"] == 1
    (reply,) = grid.send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes)
    assert not fleet.told("secure-refused")


def test_a_device_that_is_not_listed_is_left_out_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    """In each phase; it is asked for keys once, and never given an instruction."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    *others, stranger = fleet.nodes
    grid = fleet.grid(fleet=fleet.listed(others, version=2))
    for number in (1, 2):
        (reply,) = grid.send_and_receive(instructions(fleet, BASE, number), timeout=100)
        check(reply, others, number, atol=1e-4)
    told = fleet.told("secure-refused")
    assert [(each["device"], each["round"], each["error"]["code"]) for each in told] == [
        (*names(fleet, stranger), 1, "peer-unlisted"),
        (*names(fleet, stranger), 2, "peer-unlisted"),
    ]
    assert told[0]["error"]["facts"] == {"peer": names(fleet, stranger)[0], "version": "2"}
    assert [stage for node, stage, _ in fleet.seen if node == stranger] == ["prekeys"]


def test_with_fewer_than_four_listed_devices_there_is_no_round(tmp_path: Path) -> None:
    fleet = SecureFleet(tmp_path, 5, operator=True)
    assert train(fleet, fleet.listed(fleet.nodes[:3])).has_error()
    assert {each["error"]["code"] for each in fleet.told("secure-refused")} == {"peer-unlisted"}
    (failed,) = fleet.told("secure-failed")
    assert failed["error"]["code"] == "secure-too-few-devices"
    assert not fleet.calls


def test_a_coordinator_that_leaves_nobody_out_is_refused_by_all(tmp_path: Path) -> None:
    """Devices check the roster themselves."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    *others, stranger = fleet.nodes
    grid = fleet.grid(fleet=fleet.listed(others))
    grid._pool._fleet = None
    (reply, *_) = grid.send_and_receive(instructions(fleet, BASE), timeout=100)
    assert reply.has_error()
    assert left_out(fleet) == dict.fromkeys(names(fleet), "peer-unlisted")
    assert names(fleet, stranger)[0] in fleet.told("secure-group")[-1]["left_out"][names(fleet)[0]]["message"]
    assert not fleet.calls


def test_without_a_list_devices_that_pinned_an_operators_key_refuse_by_name(tmp_path: Path) -> None:
    """Nobody could say who their peers are."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    assert train(fleet, None).has_error()
    assert left_out(fleet) == dict.fromkeys(names(fleet), "fleet-list-invalid")
    assert not fleet.calls


def test_a_list_that_is_older_than_one_that_was_seen_is_refused_by_name(tmp_path: Path) -> None:
    """By the devices that saw the newer one; the one that slept through it has no such floor. A later one is taken."""
    fleet = SecureFleet(tmp_path, 6, operator=True)
    *awake, asleep = fleet.nodes
    fleet.offline = {asleep}
    check(train(fleet, fleet.listed(version=2)), awake)
    fleet.offline.clear()
    assert train(fleet, fleet.listed(version=1), 2).has_error()
    assert left_out(fleet) == dict.fromkeys(names(fleet, *awake), "fleet-list-outdated")
    assert fleet.calls.count(asleep) == 1
    check(train(fleet, fleet.listed(version=4), 3), fleet.nodes, 3)


def test_another_operators_list_is_refused_by_name(tmp_path: Path) -> None:
    fleet = SecureFleet(tmp_path, 5, operator=True)
    fleet.operator = ec.generate_private_key(ec.SECP256R1())
    assert train(fleet, fleet.listed()).has_error()
    assert left_out(fleet) == dict.fromkeys(names(fleet), "fleet-list-invalid")


def test_a_coordinator_with_a_damaged_list_says_so_before_it_sends_anything(tmp_path: Path) -> None:
    fleet = SecureFleet(tmp_path, 5, operator=True)
    version, data = fleet.listed()
    with pytest.raises(FleetListInvalid, match="changed after"):
        fleet.grid(fleet=(version, data.replace(b"board", b"bored", 1)))
