from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_client.inference.host import InferenceHost, Served


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def make_host(tmp_path: Path, models: Path) -> Iterator[Callable[..., InferenceHost]]:
    """Start inference processes over `models`; the socket is `tmp_path / "s"`."""
    made: list[InferenceHost] = []

    def make(**options: object) -> InferenceHost:
        host = InferenceHost(Served(models, tmp_path / "s", **options), rng=random.Random(1))  # type: ignore[arg-type]  # of the test
        made.append(host)
        host.start()
        assert host.wait_ready(60)
        return host

    yield make
    for host in made:
        host.stop()
