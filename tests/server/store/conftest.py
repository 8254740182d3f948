from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine

from argosy_common.clock import SystemClock
from argosy_server.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A fresh SQLite file; or the database that ARGOSY_TEST_DATABASE names, emptied of everything it holds."""
    other = os.environ.get("ARGOSY_TEST_DATABASE")
    if other is None:
        return f"sqlite:///{tmp_path / 'state' / 'argosy.db'}"
    engine = create_engine(other)
    held = MetaData()
    held.reflect(engine)
    held.drop_all(engine)
    engine.dispose()
    return other


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, SystemClock()) as store:
        yield store
