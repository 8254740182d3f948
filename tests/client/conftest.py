"""The device tests' fixture: a coordinator's end on a real broker, one a module, since a broker takes a while."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.harness import Harness


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = Harness(tmp_path_factory.mktemp("coordinator"))
    yield harness
    harness.close()


@pytest.fixture
def harness(shared: Harness) -> Harness:
    """The harness with nothing heard yet and nothing left by the test before."""
    shared.forget()
    return shared
