"""The same instruction again, as when an app with fixed seeds is started a second time: only over the same devices."""

from __future__ import annotations

from pathlib import Path

from argosy_common.secure_ledger import Ledger
from tests.common.flower.secure.fleet import SecureFleet, instructions
from tests.common.flower.secure.test_secure_grid import BASE, check


def test_a_second_run_of_the_same_app_sums_the_same_devices(tmp_path: Path) -> None:
    """The coordinator kept the certificate and carries it; the devices check it."""
    fleet = SecureFleet(tmp_path, 5)
    for _ in range(3):
        grid = fleet.grid(ledger=Ledger(tmp_path / "ledger"))
        for number in (1, 2):
            (reply,) = grid.send_and_receive(instructions(fleet, BASE, number), timeout=100)
            check(reply, fleet.nodes, number, atol=1e-3)


def test_with_a_device_less_the_repeated_round_fails_by_name_and_the_next_goes_on(tmp_path: Path) -> None:
    """The difference of the two sums would be that device's update."""
    fleet = SecureFleet(tmp_path, 6)
    fleet.grid(ledger=Ledger(tmp_path / "ledger")).send_and_receive(instructions(fleet, BASE), timeout=100)
    gone = fleet.nodes[0]
    fleet.away = {(gone, stage) for stage in ("update", "vote", "sum")}
    grid = fleet.grid(ledger=Ledger(tmp_path / "ledger"))
    replies = list(grid.send_and_receive(instructions(fleet, BASE), timeout=100))
    assert all(reply.has_error() for reply in replies)
    refusals = fleet.told("secure-refused")
    assert {each["error"]["code"] for each in refusals} == {"secure-set-refused"}
    assert {each["device"] for each in refusals} == {f"{node:016x}" for node in fleet.nodes[1:]}
    (reply,) = grid.send_and_receive(instructions(fleet, BASE, 2), timeout=100)
    check(reply, fleet.nodes[1:], 2)


def test_a_coordinator_that_lost_its_ledger_is_refused_the_repeated_round_only(tmp_path: Path) -> None:
    """Nothing shows how it ended."""
    fleet = SecureFleet(tmp_path, 5)
    fleet.grid().send_and_receive(instructions(fleet, BASE), timeout=100)
    grid = fleet.grid()
    replies = list(grid.send_and_receive(instructions(fleet, BASE), timeout=100))
    assert all(reply.has_error() for reply in replies)
    (_, group) = fleet.told("secure-group")
    assert {error["code"] for error in group["left_out"].values()} == {"secure-retry-refused"}
    (reply,) = grid.send_and_receive(instructions(fleet, BASE, 2), timeout=100)
    check(reply, fleet.nodes, 2)


def test_after_a_round_that_holders_gave_up_any_devices_may_be_summed(tmp_path: Path) -> None:
    """Too few updates came the first time, and Q holders said that nothing was summed."""
    fleet = SecureFleet(tmp_path, 6)
    ledger = Ledger(tmp_path / "ledger")
    fleet.away = {(node, "update") for node in fleet.nodes[:4]}
    first = list(fleet.grid(ledger=ledger).send_and_receive(instructions(fleet, BASE), timeout=100))
    assert all(reply.has_error() for reply in first)
    (group,) = fleet.told("secure-group")
    assert group["error"]["code"] == "secure-too-few-devices"
    fleet.away = {(fleet.nodes[5], "update")}
    (reply,) = fleet.grid(ledger=ledger).send_and_receive(instructions(fleet, BASE), timeout=100)
    check(reply, fleet.nodes[:5])
