"""A store, and this process as the coordinator's task of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from argosy_common.blobs import BlobStore
from argosy_common.flower.compat import become_task


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture(autouse=True)
def _coordinator() -> None:
    become_task(run_id=7, node_id=1)
