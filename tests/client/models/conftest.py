from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.artefacts import Authority
from tests.client.models.board import Board


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The authority that the boards of these tests pinned."""
    return Authority()


@pytest.fixture
def make_board(tmp_path: Path, authority: Authority) -> Callable[[str], Board]:
    """Return a function that makes a board of a name."""
    return lambda name: Board(tmp_path / name, authority)


@pytest.fixture
def board(make_board: Callable[[str], Board]) -> Board:
    return make_board("board")
