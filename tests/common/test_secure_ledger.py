"""The coordinator's ledger of secure rounds: which attempt devices go on from, and what the operator may override."""

from __future__ import annotations

from pathlib import Path

import pytest

from argosy_common.errors import SecureMessageMalformed, StorageFailed
from argosy_common.secure_ledger import Attempt, Ledger

INSTRUCTION = b"i" * 32
GROUP = tuple(bytes([number]) * 32 for number in range(1, 6))


def attempt(name: bytes, **given: object) -> Attempt:
    """An attempt of the whole group unless told otherwise, just begun."""
    return Attempt(sid=name * 32, attempt=0, members=GROUP).changed(**given)


def order(ledger: Ledger) -> bytes:
    """The attempts that are kept, the best to go on from first, by their names."""
    return b"".join(it.sid[:1] for it in ledger.attempts(INSTRUCTION))


def written(ledger: Ledger, *attempts: Attempt) -> Ledger:
    for each in attempts:
        ledger.write(INSTRUCTION, each)
    return ledger


@pytest.fixture(params=["on disk", "in memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "secure" if request.param == "on disk" else None)


def test_a_set_that_was_handed_over_takes_the_place_of_all_before_it(ledger: Ledger) -> None:
    """Also where a device of the group was away this time."""
    written(ledger, attempt(b"a"), attempt(b"b"), attempt(b"o", members=(bytes(32),)))
    assert order(ledger) == b"abo"
    written(ledger, attempt(b"c", members=GROUP[1:], updates=4, root=bytes(32)))
    assert order(ledger) == b"oc"


def test_one_that_was_given_up_before_anybody_answered_leaves_no_trace(ledger: Ledger) -> None:
    """As when all refuse, since nothing shows how the one before ended: that one still binds them."""
    written(ledger, attempt(b"a"), attempt(b"b"), attempt(b"b", certificate=b"c"))
    assert order(ledger) == b"a"


def test_devices_go_on_from_the_last_that_was_given_up_after_some_had_answered(ledger: Ledger) -> None:
    """An undecided one stays behind it, for the operator to override."""
    for name in (b"a", b"b", b"c"):
        written(ledger, attempt(name))
        if name != b"b":
            written(ledger, attempt(name, updates=2, certificate=b"c"))
    assert order(ledger) == b"cb"


def test_what_the_operator_overrode_comes_before_all_that_has_a_proof(ledger: Ledger) -> None:
    """The last such."""
    given_up = attempt(b"c", updates=1, certificate=b"c")
    written(ledger, attempt(b"a"), attempt(b"b"), given_up)
    for name, expected in ((b"a", b"acb"), (b"c", b"acb"), (b"b", b"bac")):
        ledger.write_override(name * 32, b"signature")
        assert order(ledger) == expected
    assert ledger.override(b"b" * 32) == b"signature"
    assert ledger.override(b"d" * 32) == b""


def test_what_is_undecided_is_listed_with_its_time_and_whether_it_is_overridden(tmp_path: Path) -> None:
    """The latest last; another process's ledger sees the same."""
    ledger = Ledger(tmp_path)
    certified = attempt(b"c", updates=5, root=bytes(32), certificate=b"c")
    written(ledger, attempt(b"a", at=20, updates=4, root=bytes(32)))
    ledger.write(b"j" * 32, attempt(b"b", at=10))
    ledger.write(b"k" * 32, certified)
    ledger.write_override(b"a" * 32, b"signature")
    (tmp_path / f".{INSTRUCTION.hex()}.ab12.partial").write_bytes(b"half")
    found = Ledger(tmp_path).undecided()
    told = [(it.attempt.sid[:1], it.attempt.at, it.overridden) for it in found]
    assert told == [(b"b", 10, False), (b"a", 20, True)]


def test_a_ledger_that_is_damaged_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "secure")
    (tmp_path / "secure" / INSTRUCTION.hex()).write_bytes(b"damaged")
    for look in (lambda: ledger.attempts(INSTRUCTION), ledger.undecided):
        with pytest.raises(SecureMessageMalformed, match="ledger"):
            look()
    (tmp_path / "secure" / "overrides").write_bytes(b"a file")
    with pytest.raises(StorageFailed, match="overrides"):
        ledger.write_override(bytes(32), b"signature")
