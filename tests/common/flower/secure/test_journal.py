"""The journal of secure rounds: nothing is lost across restarts, nothing damaged passes for empty."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict

from argosy_common.errors import SecureStateLost
from argosy_common.flower.secure.journal import MOST_PREKEYS, Release, SecureJournal
from argosy_common.secagg.binding import Cast, Sent
from argosy_common.secagg.messages import Announcement, Vote
from argosy_common.secagg.sealing import SigningKey, public_der, raw_public
from argosy_common.x509 import generate_key


@pytest.fixture
def key() -> SigningKey:
    """A device's identity key."""
    return generate_key()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SecureJournal]:
    """An empty journal."""
    made = SecureJournal(tmp_path)
    yield made
    made.close()


def test_files_are_the_owners_only(journal: SecureJournal, tmp_path: Path) -> None:
    """Keys lie in them."""
    journal.erase_prekey(b"none")
    for path in (tmp_path / "secure.db",):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "updates").stat().st_mode) == 0o700


def test_prekeys_last_until_they_are_used_and_the_oldest_go_first(
    journal: SecureJournal, tmp_path: Path, key: SigningKey
) -> None:
    """Also across a restart; each is signed by the identity key."""
    made = journal.new_prekeys(3, key, os.urandom).prekeys()
    assert all(each.holds() for each in made)
    again = SecureJournal(tmp_path)
    held = again.prekey(made[1].key)
    assert held is not None
    assert raw_public(held) == made[1].key
    again.erase_prekey(made[1].key)
    assert journal.prekey(made[1].key) is None
    for _ in range(2):
        journal.new_prekeys(MOST_PREKEYS // 2, key, os.urandom)
    assert journal.prekey(made[0].key) is None
    again.close()


def test_an_erased_prekey_leaves_no_trace_in_the_file(journal: SecureJournal, tmp_path: Path, key: SigningKey) -> None:
    """As far as the file goes; a flash card may remember."""
    (made,) = journal.new_prekeys(1, key, os.urandom).prekeys()
    held = journal.prekey(made.key)
    assert held is not None
    secret = held.private_bytes_raw()
    assert secret in (tmp_path / "secure.db").read_bytes()
    journal.erase_prekey(made.key)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_vote_and_a_release_last(journal: SecureJournal, tmp_path: Path, key: SigningKey) -> None:
    """And the prekey is gone with the release, in one step."""
    (made,) = journal.new_prekeys(1, key, os.urandom).prekeys()
    vote = Vote(sid=b"s" * 32, holder=1, root=b"r" * 32, members=(0, 1, 2)).signed_by(key)
    assert journal.cast(vote.sid) is None
    journal.write_vote(vote)
    again = SecureJournal(tmp_path)
    assert again.cast(vote.sid) == Cast(vote.root)
    assert again.vote(vote.sid) == vote
    assert again.release(vote.sid) is None
    release = Release((0, 2), b"answer", b"total")
    again.write_release(vote.sid, release, made.key)
    assert journal.cast(vote.sid) == Cast(vote.root, (0, 2))
    assert journal.release(vote.sid) == release
    assert journal.prekey(made.key) is None
    with pytest.raises(SecureStateLost):
        journal.write_vote(vote)  # one a sid, also where a rule were forgotten
    again.close()


def test_a_damaged_or_foreign_journal_is_told_and_not_replaced(tmp_path: Path) -> None:
    """An empty one would let the device vote again."""
    for name, spoil in (("damaged", _damage), ("newer", _newer)):
        folder = tmp_path / name
        SecureJournal(folder).close()
        spoil(folder / "secure.db")
        before = (folder / "secure.db").read_bytes()
        with pytest.raises(SecureStateLost, match="cannot be used"):
            SecureJournal(folder).cast(b"s" * 32)
        assert (folder / "secure.db").read_bytes() == before


def _damage(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def _newer(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()


def test_the_fleet_list_is_the_newest_seen(journal: SecureJournal, tmp_path: Path) -> None:
    """One row."""
    assert journal.fleet() is None
    journal.write_fleet(1, b"d" * 32, b"list 1")
    journal.write_fleet(2, b"e" * 32, b"list 2")
    again = SecureJournal(tmp_path)
    assert again.fleet() == (2, b"e" * 32, b"list 2")
    again.close()


def test_message_2_is_on_disk_before_it_is_known_to_be_sent(
    journal: SecureJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between the two leaves a file that nobody answers with."""
    one, two = _rounds()
    journal.write_update(one, RecordDict({"x": ConfigRecord({"round": 1})}))
    assert journal.sent(one.run, two.instruction) == [Sent(one.sid, one.run, 1, 0, one.instruction)]
    assert journal.announcement(one.sid) == one

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "_transaction", cut)
    with pytest.raises(KeyboardInterrupt):
        journal.write_update(two, RecordDict({"x": ConfigRecord({"round": 2})}))
    monkeypatch.undo()
    again = SecureJournal(tmp_path)
    assert again.update(two.sid) is None
    found = again.update(one.sid)
    assert found is not None
    assert found["x"] == ConfigRecord({"round": 1})
    again.write_update(two, RecordDict({"x": ConfigRecord({"round": 3})}))
    assert again.update(one.sid) is None, "its bytes are gone, and it is known that it was sent"
    assert len(again.sent(one.run, one.instruction)) == 2
    again.close()


def _rounds() -> tuple[Announcement, Announcement]:
    """Two messages 1 of one run."""
    coordinator = public_der(generate_key().public_key())
    one, two = (
        Announcement(
            coordinator=coordinator,
            run=b"r" * 16,
            round=number,
            suite="chacha20",
            p=251,
            A=4,
            U=3,
            T=1,
            n_min=3,
            size=0,
            weighting="powers",
            w_cap=4,
            slots=0,
            seed=bytes(32),
            scales=b"",
            fleet_version=0,
            deadline_s=1.0,
            instruction=bytes([number]) * 32,
            roster=({"identity": coordinator, "key": bytes(32), "signature": bytes(64)},),  # type: ignore[arg-type]  # pydantic makes it one
        )
        for number in (1, 2)
    )
    return one, two
