"""The journal: what is written down stays, whatever the moment of death."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from argosy_client import journal as journal_module
from argosy_client.instruction import Resume, State
from argosy_client.journal import Entry, Journal
from argosy_common.errors import DiskFull, ProgrammingError, StorageFailed

ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)
APP, OTHER_APP = b"a" * 32, b"b" * 32
OWNER = "default/0123456789abcdef/aa"


def opened(folder: Path, owner: str = OWNER) -> Journal:
    return Journal(folder / "journal.db", owner=owner)


def receive(journal: Journal, message: str = ONE, *, run: int = 7, app: bytes = APP) -> Entry:
    return journal.receive(message=message, run=run, round_=1, expires_in=60.0, app=app, body=b"body")[0]


def test_an_instruction_goes_its_way(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    entry, new = journal.receive(message=ONE, run=7, round_=3, expires_in=60.0, app=APP, body=b"body")
    assert new
    assert (entry.id, entry.run, entry.round, entry.state, entry.attempts) == (ONE, 7, 3, State.RECEIVED, 0)
    assert journal.start(ONE).attempts == 1
    assert journal.answer(ONE, b"reply", context="7-1") is State.ANSWERED
    assert journal.open()[0].reply == b"reply"
    journal.delivered(ONE, b"reply as sent")
    assert journal.open() == []
    done = journal.get(ONE)
    assert done is not None
    assert (done.state, done.reply, done.body) == (State.DELIVERED, b"reply as sent", b"")


def test_a_repeated_instruction_is_known_in_every_state(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    receive(journal)
    for step in (
        lambda: None,
        lambda: journal.start(ONE),
        lambda: journal.answer(ONE, b"reply"),
        lambda: journal.delivered(ONE, b"reply"),
        lambda: journal.cancel(7),
    ):
        step()
        known, new = journal.receive(message=ONE, run=7, round_=1, expires_in=9.0, app=APP, body=b"another")
        assert not new
        assert known.body in (b"body", b"")
        assert known.expires_in == 60.0


def test_what_is_open_comes_in_the_order_of_arrival(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for each in (THREE, ONE, TWO):
        receive(journal, each)
    journal.start(THREE)
    journal.answer(THREE, b"reply")
    assert [entry.id for entry in journal.open()] == [THREE, ONE, TWO]


def test_an_interrupted_instruction_has_no_attempt_against_it(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    receive(journal)
    journal.start(ONE)
    journal.interrupt(ONE)
    assert [(entry.state, entry.attempts) for entry in journal.open()] == [(State.RECEIVED, 0)]


def test_a_cancelled_run_leaves_nothing_but_the_ids(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for each in (ONE, TWO):
        receive(journal, each)
    receive(journal, THREE, run=8)
    journal.start(ONE)
    assert journal.cancel(7) == [ONE, TWO]
    assert [entry.id for entry in journal.open()] == [THREE]
    assert journal.run(7) is None
    assert journal.answer(ONE, b"late", context="7-1") is State.CANCELLED
    assert journal.start(TWO).state is State.CANCELLED
    late = journal.get(ONE)
    assert late is not None
    assert late.reply is None
    assert journal.run(7) is None


def test_the_context_moves_only_with_an_answer(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    receive(journal)
    receive(journal, TWO)
    receive(journal, THREE)
    for message, context, expected in ((ONE, "7-1", "7-1"), (TWO, None, "7-1"), (THREE, "7-3", "7-3")):
        journal.start(message)
        journal.answer(message, b"reply", context=context)
        run = journal.run(7)
        assert run is not None
        assert run.context == expected


def test_another_app_under_the_same_run_begins_without_context(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    receive(journal)
    journal.start(ONE)
    journal.answer(ONE, b"reply", context="7-1")
    receive(journal, TWO, app=OTHER_APP)
    run = journal.run(7)
    assert run is not None
    assert (run.app, run.context) == (OTHER_APP, None)


def test_another_coordinator_finds_an_empty_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    receive(journal)
    journal.close()
    other = opened(tmp_path, owner="default/0123456789abcdef/bb")
    assert other.open() == []
    assert other.trim_runs() == []


def test_what_is_over_is_forgotten_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "KEEP_REPLIES", 2)
    monkeypatch.setattr(journal_module, "KEEP_IDS", 4)
    monkeypatch.setattr(journal_module, "TRIM_EVERY", 1)
    journal = opened(tmp_path)
    ids = [f"{number:032x}" for number in range(8)]
    receive(journal, ONE)
    for each in ids:
        receive(journal, each)
        journal.start(each)
        journal.answer(each, b"reply")
        journal.delivered(each, b"reply")
    kept = [journal.get(each) for each in ids]
    assert [entry is not None for entry in kept] == [False] * 4 + [True] * 4
    assert [entry.reply for entry in kept if entry] == [None, None, b"reply", b"reply"]
    assert [entry.id for entry in journal.open()] == [ONE], "what is open is never forgotten"


def test_long_unused_runs_are_forgotten_but_not_those_with_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "KEEP_RUNS", 2)
    journal = opened(tmp_path)
    receive(journal, f"{0:032x}", run=0)
    for run in range(1, 5):
        message = f"{run:032x}"
        receive(journal, message, run=run)
        journal.start(message)
        journal.answer(message, b"reply")
    assert [kept.run for kept in journal.trim_runs()] == [0, 3, 4]


def test_an_impossible_step_changes_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    before = receive(journal)
    with pytest.raises(ProgrammingError):
        journal.interrupt(ONE)
    with pytest.raises(ProgrammingError):
        journal.start(TWO)
    assert journal.get(ONE) == before


# --- killed here ----------------------------------------------------------------------------------------------------

_SCRIPT = """
import os, signal, sys
from pathlib import Path
from argosy_client.journal import Journal
journal = Journal(Path(sys.argv[1]), owner=sys.argv[2])
one, app = "1" * 32, b"a" * 32
steps = [
    lambda: journal.receive(message=one, run=7, round_=1, expires_in=60.0, app=app, body=b"body"),
    lambda: journal.start(one),
    lambda: journal.answer(one, b"reply", context="7-1"),
    lambda: journal.delivered(one, b"reply"),
]
for step in steps[: int(sys.argv[3])]:
    step()
if sys.argv[4] == "inside":
    journal._db.execute("BEGIN IMMEDIATE")
    journal._db.execute("UPDATE instructions SET state = 'half', reply = 'half'")
    journal._db.execute("UPDATE runs SET context = 'half'")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("where", ["between", "inside"])
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, (State.RECEIVED, Resume.RUN, None)),
        (2, (State.RUNNING, Resume.RUN, None)),
        (3, (State.ANSWERED, Resume.SEND, "7-1")),
        (4, (State.DELIVERED, Resume.NOTHING, "7-1")),
    ],
)
def test_killed_here(tmp_path: Path, steps: int, expected: tuple[State, Resume, str | None], where: str) -> None:
    """Killed after each step, and in the middle of the next one's transaction: the last whole step is what remains."""
    state, resume, context = expected
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", _SCRIPT, str(path), OWNER, str(steps), where]
    assert subprocess.run(command, env=os.environ, timeout=60, check=False).returncode == -signal.SIGKILL
    journal = opened(tmp_path)
    entry = journal.get(ONE)
    assert entry is not None
    assert entry.state is state
    run = journal.run(7)
    assert run is not None
    assert run.context == context
    assert [each.id for each in journal.open()] == ([] if resume is Resume.NOTHING else [ONE])
    if resume is Resume.RUN:
        assert journal.start(ONE).attempts == steps


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"this is not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_damaged_journal_is_set_aside_and_work_goes_on(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "journal.db").write_bytes(damage)
    journal = opened(tmp_path)
    receive(journal)
    assert [entry.id for entry in journal.open()] == [ONE]
    assert (tmp_path / "journal.db.damaged").read_bytes() == damage


def test_a_journal_of_another_version_is_set_aside(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert opened(tmp_path).open() == []


def test_a_full_disk_is_named_and_changes_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    receive(journal)
    journal.start(ONE)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull):
        journal.answer(ONE, b"x" * 50_000, context="7-1")
    entry, run = journal.get(ONE), journal.run(7)
    assert entry is not None
    assert run is not None
    assert (entry.state, run.context) == (State.RUNNING, None)
    journal._db.execute(f"PRAGMA max_page_count = {pages + 100}")
    assert journal.answer(ONE, b"x" * 50_000) is State.ANSWERED


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(StorageFailed):
        opened(tmp_path)
    with pytest.raises(StorageFailed):
        Journal(tmp_path / "missing" / "journal.db", owner=OWNER)


def test_the_journal_is_private(tmp_path: Path) -> None:
    opened(tmp_path)
    assert (tmp_path / "journal.db").stat().st_mode & 0o077 == 0


def test_a_page_damaged_by_a_power_cut_is_found_at_the_start(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(200):
        receive(journal, f"{number:032x}")
    journal.close()
    path = tmp_path / "journal.db"
    whole = bytearray(path.read_bytes())
    page = whole.index(f"{7:032x}".encode()) // 4096  # where the rows are, which a count by an index never reads
    whole[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    path.write_bytes(whole)
    assert opened(tmp_path).open() == []
    assert (tmp_path / "journal.db.damaged").exists()


def test_an_attempt_that_follows_a_crash_is_synced_before_it_begins(tmp_path: Path) -> None:
    """Else a board that goes down at once each time would count nothing and try for ever."""
    journal = opened(tmp_path)
    receive(journal)
    levels: list[str] = []
    journal._db.set_trace_callback(lambda said: levels.append(said) if "synchronous" in said else None)
    journal.start(ONE)
    journal.start(ONE, resumed=True)
    assert [said.split()[-1] for said in levels] == ["NORMAL", "FULL"]
