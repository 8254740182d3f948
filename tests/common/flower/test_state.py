"""A context's state on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

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


def test_a_state_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    write_state(made(), tmp_path / "one")
    read = read_state(tmp_path / "one")
    write_state(read, tmp_path / "two", before=tmp_path / "one")
    assert (tmp_path / "two").samefile(tmp_path / "one")
    (tmp_path / "one").unlink()
    assert read_state(tmp_path / "two").array_records["model"]["w"].numpy().sum() == 12


@pytest.mark.parametrize("change", ["array", "value", "record", "fewer", "order"])
def test_any_change_is_written(tmp_path: Path, change: str) -> None:
    write_state(made(), tmp_path / "one")
    state = read_state(tmp_path / "one")
    if change == "array":
        state.array_records["model"]["v"] = Array(np.zeros(4, np.float32))
    elif change == "value":
        state["count"] = MetricRecord({"n": 2})
    elif change == "record":
        state["more"] = ArrayRecord()
    elif change == "fewer":
        del state["other"]
    else:
        state["model"] = state.pop("model")
    write_state(state, tmp_path / "two", before=tmp_path / "one")
    assert not (tmp_path / "two").samefile(tmp_path / "one")
    assert read_state(tmp_path / "two") == state


def made() -> RecordDict:
    model, other = ArrayRecord(), ArrayRecord()
    model["w"] = Array(np.ones(12, np.float32))
    model["v"] = Array(np.ones(4, np.float32))
    other["w"] = Array(np.ones((2, 3)))
    return RecordDict({"model": model, "count": MetricRecord({"n": 1}), "other": other})
