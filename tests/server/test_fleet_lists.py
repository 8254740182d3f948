"""The lists on the coordinator's disk: the newest is in force, only its successor is taken, failures change nothing."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from argosy_common import x509
from argosy_common.errors import FleetListInvalid, FleetListOutdated, OverrideInvalid, StorageFailed
from argosy_common.secagg import override
from argosy_common.secagg.fleet import FleetList, Member, parse, sign, successor
from argosy_common.secure_ledger import Attempt, Ledger
from argosy_server.fleet_lists import FleetLists

OPERATOR, STRANGER = x509.generate_key(), x509.generate_key()
CREATED = "2026-05-01T12:00:00Z"
KITCHEN = Member(hashlib.sha256(b"kitchen").digest(), "kitchen")


def chain(length: int, key: x509.PrivateKey = OPERATOR) -> list[bytes]:
    """Return signed lists, each the successor of the one before."""
    lists: list[bytes] = []
    current: FleetList | None = None
    for _ in range(length):
        payload = successor(current, CREATED, [KITCHEN])
        current = parse(payload, where="")
        lists.append(sign(payload, key))
    return lists


@pytest.fixture
def lists(tmp_path: Path) -> FleetLists:
    return FleetLists(tmp_path / "fleet")


def test_without_a_list_there_is_nothing_and_no_folder(lists: FleetLists) -> None:
    assert lists.current() is None
    assert lists.installed() is None
    assert not lists.folder.exists()


def test_lists_are_installed_one_after_the_other_and_the_newest_is_in_force(lists: FleetLists) -> None:
    signed = chain(11)
    for number, data in enumerate(signed, start=1):
        assert lists.install(data).fleet.version == number
        assert lists.current() == data
    found = FleetLists(lists.folder).installed()
    assert found is not None
    assert (found.fleet.version, found.fleet.members, found.operator) == (11, (KITCHEN,), OPERATOR.public_key())
    assert [(lists.folder / f"{number}.json").read_bytes() for number in range(1, 12)] == signed
    assert stat.S_IMODE((lists.folder / "1.json").stat().st_mode) == 0o600


def test_the_list_in_force_may_be_installed_again(lists: FleetLists) -> None:
    first, _ = chain(2)
    assert lists.install(first) == lists.install(first)
    assert len(list(lists.folder.iterdir())) == 1


def test_a_new_coordinator_takes_the_newest_list_of_an_old_fleet_at_once(lists: FleetLists) -> None:
    assert lists.install(chain(5)[-1]).fleet.version == 5


def test_what_does_not_follow_is_refused_and_the_list_in_force_stays(lists: FleetLists) -> None:
    signed = chain(4)
    other = sign(successor(None, CREATED, []), OPERATOR)
    branch = sign(successor(parse(successor(None, CREATED, []), where=""), CREATED, [KITCHEN]), OPERATOR)
    lists.install(signed[0])
    for data, named in ((other, "another list"), (branch, "does not follow"), (signed[2], "one after the other")):
        with pytest.raises(FleetListOutdated, match=named):
            lists.install(data)
        assert lists.current() == signed[0]
    lists.install(signed[1])
    with pytest.raises(FleetListOutdated, match="version 2 is known already"):
        lists.install(signed[0])
    assert lists.current() == signed[1]


def test_the_operators_key_of_the_first_list_is_the_one_for_all(lists: FleetLists) -> None:
    lists.install(chain(1)[0])
    with pytest.raises(FleetListInvalid, match="another operator's key"):
        lists.install(sign(successor(parse(successor(None, CREATED, [KITCHEN]), where=""), CREATED, []), STRANGER))


@pytest.mark.parametrize("data", [b"", b"{}", chain(1)[0].replace(b"kitchen", b"attic")])
def test_what_is_no_signed_list_is_refused_and_leaves_nothing(lists: FleetLists, data: bytes) -> None:
    with pytest.raises(FleetListInvalid):
        lists.install(data)
    assert lists.current() is None


def test_other_files_in_the_folder_are_no_lists(lists: FleetLists) -> None:
    lists.install(chain(1)[0])
    for name in (".2.json.ab12.partial", "9.json.old", "007.json", "notes.json"):
        (lists.folder / name).write_bytes(b"?")
    found = lists.installed()
    assert found is not None
    assert found.fleet.version == 1


def test_a_damaged_list_is_named_and_nothing_is_put_upon_it(lists: FleetLists) -> None:
    first, second = chain(2)
    lists.install(first)
    (lists.folder / "1.json").write_bytes(first[:-20])
    with pytest.raises(FleetListInvalid, match=str(lists.folder)):
        lists.installed()
    with pytest.raises(FleetListInvalid, match=str(lists.folder)):
        lists.install(second)


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "fleet").write_bytes(b"a file")
    with pytest.raises(StorageFailed, match="fleet"):
        FleetLists(tmp_path / "fleet").install(chain(1)[0])


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return a ledger with one attempt that is undecided and one that is certified."""
    made = Ledger(tmp_path / "secure")
    made.write(b"i" * 32, Attempt(sid=b"u" * 32, attempt=0, members=(bytes(32),)))
    made.write(b"j" * 32, Attempt(sid=b"c" * 32, attempt=0, members=(bytes(32),), certificate=b"c"))
    return made


def test_an_override_of_the_operators_goes_to_where_runs_find_it(tmp_path: Path, ledger: Ledger) -> None:
    lists = FleetLists(tmp_path / "fleet", ledger)
    lists.install(chain(1)[0])
    for _ in range(2):
        assert lists.override(override.sign(b"u" * 32, OPERATOR)).attempt.sid == b"u" * 32
    assert override.holds(OPERATOR.public_key(), b"u" * 32, ledger.override(b"u" * 32))
    assert [it.overridden for it in lists.undecided()] == [True]


def test_an_override_that_no_device_would_take_or_need_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    lists = FleetLists(tmp_path / "fleet", ledger)
    with pytest.raises(OverrideInvalid, match="no list of an operator's"):
        lists.override(override.sign(b"u" * 32, OPERATOR))
    lists.install(chain(1)[0])
    for data, named in (
        (override.sign(b"u" * 32, STRANGER), "another key"),
        (override.sign(b"c" * 32, OPERATOR), "no undecided attempt"),
        (chain(1)[0], "not what"),
    ):
        with pytest.raises(OverrideInvalid, match=named):
            lists.override(data)
    assert [it.overridden for it in lists.undecided()] == [False]
