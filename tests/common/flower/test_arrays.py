"""Array records as blobs: exact, deterministic, lazy, and deaf to hostile bytes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.errors import EnvelopeMalformed, StorageFailed
from argosy_common.flower.arrays import StoredArray, decode_arrays, encode_arrays, read_arrays, write_arrays

ANY_ARRAYS = st.dictionaries(
    st.text(max_size=20),
    npst.arrays(
        dtype=st.one_of(
            npst.boolean_dtypes(),
            npst.integer_dtypes(),
            npst.floating_dtypes(),
            npst.complex_number_dtypes(),
            npst.datetime64_dtypes(),
            npst.unicode_string_dtypes(max_len=4),
        ),
        shape=npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    max_size=4,
)


def record_of(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({key: Array(np.asarray(value)) for key, value in arrays.items()})


def model() -> ArrayRecord:
    return ArrayRecord([np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.ones((4, 5))), np.array(2)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(arrays=ANY_ARRAYS)
def test_what_is_read_is_what_was_written(store: BlobStore, arrays: dict[str, Any]) -> None:
    record = record_of(arrays)
    ref = write_arrays(record, store)
    for again in (read_arrays(ref, store), decode_arrays(store.path(ref.digest).read_bytes())):
        assert list(again) == list(record)
        for key, array in record.items():
            got = again[key]
            assert (got.dtype, got.shape, got.stype, got.data) == (array.dtype, array.shape, array.stype, array.data)
            assert got.numpy().tobytes() == array.numpy().tobytes()
            assert got.numpy().flags.f_contiguous == array.numpy().flags.f_contiguous


def test_equal_arrays_have_one_digest_and_other_arrays_another(store: BlobStore) -> None:
    assert write_arrays(model(), store) == write_arrays(model(), store)
    other = model()
    other["2"] = Array(np.array(3))
    assert write_arrays(other, store) != write_arrays(model(), store)


def test_arrays_come_as_fresh_writable_ndarrays(store: BlobStore) -> None:
    array = read_arrays(write_arrays(model(), store), store)["0"]
    first = array.numpy()
    first[:] = -1
    assert np.array_equal(array.numpy(), np.arange(6, dtype=np.float32).reshape(2, 3))


def test_released_arrays_hold_no_bytes_and_read_the_same(store: BlobStore) -> None:
    record = model()
    before = model()
    write_arrays(record, store, release=True)
    assert all(isinstance(array, StoredArray) for array in record.values())
    assert record == before
    assert before == record
    held = [value for array in record.values() for value in vars(array).values() if isinstance(value, bytes)]
    assert all(len(value) <= 128 for value in held)  # a numpy header at most


def test_an_untouched_record_is_not_written_again(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = write_arrays(model(), store)
    record = read_arrays(ref, store)
    monkeypatch.setattr(store, "writer", None)
    assert write_arrays(record, store) == ref


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("2"),
        lambda record: record.__setitem__("2", Array(np.array(5))),
        lambda record: setattr(record["2"], "data", Array(np.array(5)).data),
        lambda record: record.update({"0": record["1"], "1": record["0"]}),
        lambda record: record.__setitem__("9", record.pop("2")),
        lambda record: setattr(record["0"], "stype", "my.format"),
    ],
)
def test_a_touched_record_is_written_as_it_is_now(store: BlobStore, change: Callable[[ArrayRecord], object]) -> None:
    ref = write_arrays(model(), store)
    record = read_arrays(ref, store)
    change(record)
    expected = {key: (array.dtype, array.stype, array.data) for key, array in record.items()}
    after = write_arrays(record, store)
    assert after != ref
    again = read_arrays(after, store)
    assert {key: (array.dtype, array.stype, array.data) for key, array in again.items()} == expected


def test_an_array_that_is_not_what_it_says_is_not_written(store: BlobStore) -> None:
    record = model()
    record["0"].dtype = "int8"
    with pytest.raises(ValueError, match="not what its header says"):
        write_arrays(record, store)


def test_stored_arrays_survive_copying_and_pickling(store: BlobStore) -> None:
    record = model()
    write_arrays(record, store, release=True)
    for array in (copy.deepcopy(record["0"]), pickle.loads(pickle.dumps(record["0"]))):  # noqa: S301  (our own)
        assert array == record["0"]


def test_a_blob_that_went_away_is_a_storage_failure(store: BlobStore) -> None:
    ref = write_arrays(model(), store)
    record = read_arrays(ref, store)
    store.delete(ref.digest)
    with pytest.raises(StorageFailed):
        record["0"].numpy()
    with pytest.raises(StorageFailed):
        _ = record["0"].data


def test_serialisations_that_numpy_does_not_know_pass_through(store: BlobStore) -> None:
    record = ArrayRecord({"p": Array("q8", (3,), "my.format", b"abc"), "_empty": Array("", (), "numpy.ndarray", b"")})
    again = read_arrays(write_arrays(record, store), store)
    assert again["p"].data == b"abc"
    with pytest.raises(TypeError, match=r"my\.format"):
        again["p"].numpy()


# --- hostile bytes --------------------------------------------------------------------------------------------------


def refused(store: BlobStore, data: bytes) -> str:
    """Return why; the same for bytes in a message as for a blob."""
    with pytest.raises(EnvelopeMalformed) as caught:
        read_arrays(store.put_bytes(data), store)
    with pytest.raises(ValueError):  # noqa: PT011  (any words will do)
        decode_arrays(data)
    return caught.value.message


def encoded(rows: object, data: bytes = b"") -> bytes:
    header: bytes = msgpack.packb(rows)
    return b"ARGARR\x00\x01" + len(header).to_bytes(4, "big") + header + data


def npy(shape: str, dtype: str = "<f4", data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = (len(text) + 1).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + b"\n" + data


def numpy_blob(body: bytes, dtype: str = "float32", shape: list[int] | None = None) -> bytes:
    return encoded([["a", dtype, shape or [], "numpy.ndarray", len(body)]], body)


def test_the_hostile_tests_own_encoder_makes_sound_blobs(store: BlobStore) -> None:
    sound = numpy_blob(npy("(2,)", data=b"\0" * 8), shape=[2])
    assert np.array_equal(read_arrays(store.put_bytes(sound), store)["a"].numpy(), np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ARGARR\x00\x02\x00\x00\x00\x00",
        b"ARGARR\x00\x01\xff\xff\xff\xff",
        encoded({}),
        encoded([["a"]]),
        encoded([["a", "f4", [1], "x", -1]]),
        encoded([["a", "f4", [1], "x", True]]),
        encoded([["a", "f4", [-1], "x", 0]]),
        encoded([["a", "f4", [2**50], "x", 0]]),
        encoded([["a", "f4", [1] * 33, "x", 0]]),
        encoded([["a" * 2000, "f4", [1], "x", 0]]),
        encoded([[1, "f4", [1], "x", 0]]),
        encoded([["a", "f4", [1], "x", 2**40]]),
        encoded([["a", "f4", [1], "x", 1]], b"12"),
        encoded([["a", "f4", [1], "x", 0], ["a", "f4", [1], "x", 0]]),
        encoded([[]] * 20000),
        numpy_blob(b"not numpy"),
        numpy_blob(npy("(2,)", data=b"\0" * 8), shape=[3]),
        numpy_blob(npy("(2,)", data=b"\0" * 8), shape=[2], dtype="float64"),
        numpy_blob(npy("(2,)", data=b"\0" * 9), shape=[2]),
        numpy_blob(npy("(1099511627776, 1099511627776)"), shape=[2**40, 2**40]),
        numpy_blob(npy("(1099511627776, 1099511627776, 0)"), shape=[2**40, 2**40, 0]),
        numpy_blob(npy("(-2, -1)", data=b"\0" * 8)),
        numpy_blob(npy("(1,)", dtype="|O", data=b"\0" * 8), dtype="object", shape=[1]),
        numpy_blob(npy("(" * 5000)),
        numpy_blob(npy("__import__('os')")),
        numpy_blob(npy("(2,)", data=b"\0" * 8, version=b"\x03\x00"), shape=[2]),
        numpy_blob(npy("(True,)", data=b"\0" * 4)),
    ],
)
def test_hostile_blobs_are_refused_by_name(store: BlobStore, data: bytes) -> None:
    assert "arrays in" in refused(store, data)


def test_a_blob_of_another_size_than_announced_is_refused(store: BlobStore) -> None:
    ref = write_arrays(model(), store)
    with pytest.raises(EnvelopeMalformed, match="does not have"):
        read_arrays(BlobRef(ref.digest, ref.size + 1), store)


SOUND = encode_arrays(model())


@settings(deadline=None, max_examples=300)
@given(cut=st.integers(0, len(SOUND) - 1))
def test_every_truncation_is_refused(cut: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any words will do)
        decode_arrays(SOUND[:cut])


@settings(deadline=None, max_examples=500)
@given(at=st.integers(0, len(SOUND) - 1), value=st.integers(0, 255))
@example(at=9, value=255)
def test_a_changed_byte_is_refused_or_gives_sound_arrays(at: int, value: int) -> None:
    data = bytearray(SOUND)
    data[at] = value
    try:
        record = decode_arrays(bytes(data))
    except ValueError:
        return
    for array in record.values():
        if array.stype == "numpy.ndarray":
            assert array.numpy().nbytes <= len(SOUND)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any words will do)
        decode_arrays(data)


def test_writing_leaves_nothing_behind_when_an_array_is_not_encodable(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        write_arrays(ArrayRecord({"a": Array("f4", (1,) * 40, "x", b"")}), store)
    assert [file for file in (tmp_path / "blobs").rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(5, np.int64),
        np.zeros((0, 4), np.float16),
        np.array([True, False]),
        np.arange(4, dtype=">f4"),
        np.array([1 + 2j]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_numpy_headers_stay_at_home_and_come_back_to_the_byte(array: NDArray[Any], store: BlobStore) -> None:
    before = ArrayRecord([array])
    ref = write_arrays(before, store)
    assert ref.size < len(before["0"].data) - 60
    after = read_arrays(ref, store)
    assert after["0"].data == before["0"].data
    assert after["0"].stype == before["0"].stype
    np.testing.assert_array_equal(after["0"].numpy(), array)
    assert decode_arrays(encode_arrays(before)) == before


@pytest.mark.parametrize(
    "array",
    [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "b"]), np.zeros(2, [("x", "f4")])],
    ids=["fortran order", "text", "structured"],
)
def test_arrays_whose_header_says_more_keep_it(array: NDArray[Any], store: BlobStore) -> None:
    before = ArrayRecord([array])
    after = read_arrays(write_arrays(before, store), store)
    assert after["0"].data == before["0"].data
    np.testing.assert_array_equal(after["0"].numpy(), array)
