from __future__ import annotations

from importlib.util import find_spec

import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import SettingsInvalid, StorageFailed
from argosy_server.store import Store
from tests.postgres import cluster


def test_a_postgresql_that_dies_is_a_named_error_and_the_store_goes_on_once_it_is_back() -> None:
    with cluster() as mine, Store.open(mine.url, SystemClock()) as store:
        store.audit.write("test", "before", "x")
        mine.stop()
        for _ in range(2):  # on the connection that broke, and on one that cannot be made
            with pytest.raises(StorageFailed, match="postgresql"):
                store.audit.write("test", "meanwhile", "x")
        mine.start()
        store.audit.write("test", "after", "x")
        assert [row.action for row in store.audit.tail()] == ["before", "after"]


@pytest.mark.skipif(find_spec("psycopg") is None, reason="psycopg is not installed (the extra `postgres`)")
def test_a_password_in_the_url_is_not_in_the_error() -> None:
    with pytest.raises(StorageFailed) as caught:
        Store.open("postgresql+psycopg://argosy:hush@127.0.0.1:1/argosy", SystemClock())
    assert "hush" not in caught.value.message
    assert "127.0.0.1" in caught.value.message


def test_a_driver_that_is_not_installed_is_a_settings_error() -> None:
    with pytest.raises(SettingsInvalid, match="not installed"):
        Store.open("postgresql+asyncpg://argosy@127.0.0.1/argosy", SystemClock())
