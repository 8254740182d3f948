from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from argosy_common.clock import SystemClock
from argosy_server.store import Store
from tests.postgres import Cluster, cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL, or the test is skipped."""
    with cluster() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database: a file of SQLite, and one of PostgreSQL where that is installed."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'argosy.db'}"
    made = cast("Cluster", request.getfixturevalue("postgres"))
    made.empty()
    return made.url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, SystemClock()) as store:
        yield store
