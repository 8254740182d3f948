from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from argosy_common.clock import SystemClock
from argosy_common.errors import DatabaseNewer, SettingsInvalid
from argosy_server.store import Store
from argosy_server.store.tables import Base


def test_the_migrations_make_the_tables_that_the_code_expects(store: Store, url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused_by_name(url: str) -> None:
    Store.open(url, SystemClock()).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseNewer, match="9999"):
        Store.open(url, SystemClock())
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999", "it is left as it was"
    engine.dispose()


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite+nothing:///x", "oracle://h/d"])
def test_a_url_that_is_none_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="database"):
        Store.open(url, SystemClock())


def test_threads_write_at_once_without_losing_or_repeating_anything(store: Store) -> None:
    run = _run(store)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(15):
                store.events.append(run, name, {"number": number})
                store.events.after(run, 0, 5)
        except BaseException as error:  # noqa: BLE001  (handed to the test)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    events = store.events.after(run)
    assert [event.seq for event in events] == list(range(1, 91))
    for n in range(6):
        assert [event.data["number"] for event in events if event.name == f"t{n}"] == list(range(15))


def test_what_a_call_returned_for_survives_a_kill(url: str) -> None:
    script = (
        "import os, sys\n"
        "from argosy_common.clock import SystemClock\n"
        "from argosy_server.store import Store\n"
        "store = Store.open(sys.argv[1], SystemClock())\n"
        "store.audit.write('test', 'written', 'x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, url], timeout=60, env=os.environ, check=False)
    assert process.returncode == -9
    with Store.open(url, SystemClock()) as store:
        assert [row.action for row in store.audit.tail()] == ["written"]


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
