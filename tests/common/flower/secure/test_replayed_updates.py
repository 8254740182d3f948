"""Message 2 is sent again verbatim as long as its bytes are there, and is never made a second time."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Message

from argosy_common.errors import SecondUpdateRefused
from tests.common.flower.secure.fleet import SecureFleet, instructions


def updates_of(fleet: SecureFleet, node: int) -> list[Message]:
    """Return the instructions of train that a node got."""
    return [message for seen, stage, message in fleet.seen if seen == node and stage == "update"]


def test_the_same_instruction_again_gets_the_same_bytes(tmp_path: Path) -> None:
    """The app is not called, nothing is drawn anew."""
    fleet = SecureFleet(tmp_path, 4)
    fleet.grid().send_and_receive(instructions(fleet), timeout=100)
    node = fleet.nodes[0]
    (first,) = updates_of(fleet, node)
    calls = len(fleet.calls)
    one, two = (fleet.deliver(node, first).content.array_records["argosy.secagg.update"] for _ in range(2))
    assert len(fleet.calls) == calls
    assert {name: array.numpy().tobytes() for name, array in one.items()} == {
        name: array.numpy().tobytes() for name, array in two.items()
    }


def test_an_earlier_rounds_instruction_is_refused_once_its_bytes_are_gone(tmp_path: Path) -> None:
    """A second masking under one sid would be of another mask."""
    fleet = SecureFleet(tmp_path, 4)
    grid = fleet.grid()
    for number in (1, 2):
        grid.send_and_receive(instructions(fleet, number=number), timeout=100)
    node = fleet.nodes[0]
    first, second = updates_of(fleet, node)
    calls = len(fleet.calls)
    with pytest.raises(SecondUpdateRefused):
        fleet.deliver(node, first)
    fleet.deliver(node, second)
    assert len(fleet.calls) == calls
