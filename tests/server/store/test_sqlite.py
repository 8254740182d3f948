from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import DiskFull, StorageFailed
from argosy_server.store import Store


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'argosy.db'}"


def test_a_store_opens_again_with_what_it_held_and_its_files_are_private(url: str) -> None:
    with Store.open(url, SystemClock()) as store:
        token, _ = store.tokens.create()
        for path in _file(url).parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with Store.open(url, SystemClock()) as store:
        assert store.tokens.list() == [token]


def test_sqlite_is_in_wal_mode_synchronous_full_and_checks_foreign_keys(store: Store) -> None:
    with store._database.read() as session:
        connection = session.connection()
        got = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert got == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_file_that_is_no_database_is_a_named_error(url: str) -> None:
    _file(url).parent.mkdir()
    _file(url).write_bytes(b"x" * 8192)
    with pytest.raises(StorageFailed, match="not a database"):
        Store.open(url, SystemClock())


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageFailed, match="taken"):
        Store.open(f"sqlite:///{tmp_path}/taken/argosy.db", SystemClock())


def test_a_full_disk_is_named_and_undoes_the_whole_write(store: Store) -> None:
    run = _run(store)
    with store._database.write() as session:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
    with store._database.write() as session:
        session.connection().exec_driver_sql(f"PRAGMA max_page_count={pages}")

    def fill() -> None:
        for _ in range(100):
            store.events.append(run, "big", {"text": "x" * 4096})

    with pytest.raises(DiskFull):
        fill()
    seen = store.events.after(run)
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    with store._database.write() as session:
        session.connection().exec_driver_sql("PRAGMA max_page_count=1000000")
    assert store.events.append(run, "again", {}) == len(seen) + 1


def test_a_database_locked_by_another_process_is_a_named_error_and_heals(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(_file(url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with store._database.read() as session:
        session.connection().exec_driver_sql("PRAGMA busy_timeout=100")
    with pytest.raises(StorageFailed, match="locked"):
        store.audit.write("test", "blocked", "x")
    other.execute("ROLLBACK")
    other.close()
    store.audit.write("test", "free", "x")
    assert [row.action for row in store.audit.tail()] == ["free"]


def _run(store: Store) -> int:
    return store.runs.create(
        app_name="har",
        app_digest="00" * 32,
        app_size=1,
        server_app="a:b",
        client_app="a:c",
        run_config={},
        options={},
    )
