"""A round whose end nobody can show: devices refuse its instruction by name, until the operator overrides it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from argosy_common.secagg import override
from argosy_common.secure_ledger import OPEN, Ledger
from tests.common.flower.secure.fleet import SecureFleet, instructions
from tests.common.flower.secure.test_secure_grid import BASE, check


class Killed(BaseException):
    """The coordinator's machine loses its power."""


def ledger_of(fleet: SecureFleet) -> Ledger:
    """Return the coordinator's ledger as it is on disk."""
    return Ledger(fleet.folder / "ledger")


def train(fleet: SecureFleet) -> Any:  # noqa: ANN401  (messages, the first of them looked at)
    """Give the same instruction to all, in a run of its own; return the first reply."""
    grid = fleet.grid(ledger=ledger_of(fleet), fleet=fleet.listed() if fleet.operator else None)
    return next(iter(grid.send_and_receive(instructions(fleet, BASE), timeout=100)))


def killed_while(fleet: SecureFleet, stage: str, *, announced: bool = False) -> bytes:
    """Let the coordinator die when the first device is asked for this; return the sid of what is undecided.

    Unless it is to stay, what it was announced with is lost, and nobody can have the holders give it up.
    """

    def die(_node: int, seen: str, _message: object) -> None:
        if seen == stage and len([it for _, it, _ in fleet.seen if it == "update"]) >= len(fleet.nodes):
            raise Killed

    fleet.up = die
    with contextlib.suppress(Killed):
        train(fleet)
    fleet.up = lambda _node, _stage, message: message
    (found,) = ledger_of(fleet).undecided()
    if not announced:
        shutil.rmtree(fleet.folder / "ledger" / OPEN)
    assert len(found.attempt.members) == len(fleet.nodes)
    return found.attempt.sid


def signed_by(fleet: SecureFleet, sid: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return an override as the coordinator keeps it."""
    assert fleet.operator is not None
    signer = key or fleet.operator
    return override.verify(override.sign(sid, signer), signer.public_key(), where="").signature


def refusals(fleet: SecureFleet) -> Mapping[str, Any]:
    """Return by which name each device refused its update in the last group's round."""
    return {device: error["code"] for device, error in fleet.told("secure-group")[-1]["left_out"].items()}


def test_an_undecided_attempt_is_refused_by_name_and_with_the_override_the_same_instruction_passes(
    tmp_path: Path,
) -> None:
    """The coordinator died when the set was with its holders: the sum may be known. A refused try leaves no trace."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    sid = killed_while(fleet, "vote")
    for _ in range(2):
        assert train(fleet).has_error()
        assert refusals(fleet) == {f"{node:016x}": "secure-retry-refused" for node in fleet.nodes}
    assert [it.attempt.sid for it in ledger_of(fleet).undecided()] == [sid]
    ledger_of(fleet).write_override(sid, signed_by(fleet, sid))
    fleet.away = {(fleet.nodes[4], "update")}  # as after one that was given up, any set may be summed
    check(train(fleet), fleet.nodes[:4])
    assert ledger_of(fleet).undecided() == []


@pytest.mark.parametrize("stage", ["update", "vote"])
def test_an_attempt_that_a_coordinator_left_open_is_given_up_with_proof_and_the_next_one_passes(
    tmp_path: Path, stage: str
) -> None:
    """No holder has voted for its set: they all say that none will be summed, and any set may be from then on."""
    fleet = SecureFleet(tmp_path, 5)
    killed_while(fleet, stage, announced=True)
    fleet.away = {(fleet.nodes[4], "update")}
    check(train(fleet), fleet.nodes[:4])
    assert ledger_of(fleet).undecided() == []
    assert list((fleet.folder / "ledger" / OPEN).iterdir()) == []


def test_a_coordinator_that_died_before_anything_was_handed_over_left_the_attempt_behind(tmp_path: Path) -> None:
    """Devices that answered it are bound by it all the same."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    sid = killed_while(fleet, "update")
    assert train(fleet).has_error()
    ledger_of(fleet).write_override(sid, signed_by(fleet, sid))
    check(train(fleet), fleet.nodes)


def test_a_wrong_signature_or_that_of_another_attempt_does_not_pass(tmp_path: Path) -> None:
    """Devices check it themselves, whatever a coordinator has put into its ledger."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    sid = killed_while(fleet, "vote")
    stranger = ec.generate_private_key(ec.SECP256R1())
    for signature in (signed_by(fleet, sid, stranger), signed_by(fleet, bytes(32)), b"nonsense"):
        ledger_of(fleet).write_override(sid, signature)
        assert train(fleet).has_error()
        assert set(refusals(fleet).values()) == {"secure-retry-refused"}


def test_without_an_operators_key_no_device_takes_one(tmp_path: Path) -> None:
    """Not even one that somebody signed with a key of his own."""
    fleet = SecureFleet(tmp_path, 5)
    sid = killed_while(fleet, "vote")
    fleet.operator = ec.generate_private_key(ec.SECP256R1())
    signature = signed_by(fleet, sid)
    fleet.operator = None
    ledger_of(fleet).write_override(sid, signature)
    assert train(fleet).has_error()
    assert set(refusals(fleet).values()) == {"secure-retry-refused"}


def test_an_override_does_not_undo_what_an_earlier_attempt_revealed(tmp_path: Path) -> None:
    """The first attempt's sum is known, the second is undecided: the third may still be of the same devices only."""
    fleet = SecureFleet(tmp_path, 5, operator=True)
    check(train(fleet), fleet.nodes)
    fleet.seen.clear()
    sid = killed_while(fleet, "update")
    ledger_of(fleet).write_override(sid, signed_by(fleet, sid))
    gone = fleet.nodes[0]
    fleet.away = {(gone, stage) for stage in ("update", "vote", "sum", "abort")}
    assert train(fleet).has_error()
    assert {each["error"]["code"] for each in fleet.told("secure-refused")} == {"secure-set-refused"}


def test_a_coordinator_that_drops_the_earlier_set_is_refused(tmp_path: Path) -> None:
    """After S, an attempt over S that was given up, and then any set: a device would be what two sums differ by."""
    fleet = SecureFleet(tmp_path, 5)
    check(train(fleet), fleet.nodes)
    fleet.away = {(node, "update") for node in fleet.nodes[:3]}
    assert train(fleet).has_error()
    fleet.away.clear()
    (given_up,) = [it for it in ledger_of(fleet).attempts(_instruction(fleet)) if not it.root]
    assert set(given_up.released) == set(fleet.fingerprints)
    ledger_of(fleet).write(_instruction(fleet), given_up.changed(released=()))
    assert train(fleet).has_error()
    assert refusals(fleet) == {f"{node:016x}": "secure-retry-refused" for node in fleet.nodes}


def _instruction(fleet: SecureFleet) -> bytes:
    (path,) = [it for it in (fleet.folder / "ledger").iterdir() if it.is_file()]
    return bytes.fromhex(path.name)
