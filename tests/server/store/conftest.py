from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_server.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A fresh database; another kind is tried by ARGOSY_TEST_DATABASE, whose tables are dropped each time."""
    return os.environ.get("ARGOSY_TEST_DATABASE", f"sqlite:///{tmp_path / 'state' / 'argosy.db'}")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, SystemClock()) as store:
        yield store
