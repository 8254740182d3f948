"""A context's state on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from argosy_common.errors import MessageUnsendable, StorageFailed
from argosy_common.flower.state import read_state, write_state


def state() -> RecordDict:
    arrays = {"w": ArrayRecord([np.arange(10.0), np.ones((2, 2))]), "v": ArrayRecord([np.zeros(3)])}
    return RecordDict({"n": MetricRecord({"rounds": 3}), **arrays, "c": ConfigRecord({"x": "y"})})


def test_a_state_comes_back_as_it_was_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(state(), path)
    assert read_state(path) == state()
    assert list(read_state(path)) == ["n", "w", "v", "c"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_an_empty_state_is_a_state(tmp_path: Path) -> None:
    write_state(RecordDict(), tmp_path / "state")
    assert read_state(tmp_path / "state") == RecordDict()


def test_a_state_read_from_a_file_can_be_written_over_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(state(), path)
    again = read_state(path)
    again["n"] = MetricRecord({"rounds": 4})
    write_state(again, path)
    assert read_state(path)["n"] == MetricRecord({"rounds": 4})
    assert read_state(path)["w"] == state()["w"]


def test_a_value_that_fits_no_file_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(state(), path)
    with pytest.raises(MessageUnsendable):
        write_state(RecordDict({"n": MetricRecord({"x": 2**70})}), path)
    assert read_state(path) == state()


@pytest.mark.parametrize("cut", [0, 5, 13, 40, -1])
def test_a_damaged_state_is_a_storage_failure(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "state"
    write_state(state(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StorageFailed):
        read_state(path)


def test_a_missing_state_is_a_storage_failure(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        read_state(tmp_path / "none")
