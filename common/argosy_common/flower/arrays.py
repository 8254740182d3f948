"""An `ArrayRecord` as one blob, written and read without ever being whole in memory.

Layout: magic and version (8 bytes), length of the header (u32, big-endian), the header (msgpack: one
`[key, dtype, shape, stype, length]` an array), then the arrays' serialised bytes in that order. A `.npy` file whose own
header says no more than ours travels without it, under the stype `RAW`: in a model of many small arrays those headers
are a good part of all bytes. Equal records give equal bytes, so the digest names the model. Reading trusts nothing:
every length is checked against the file, and a numpy array's own header against what the outer one says, before any
memory is taken.
"""

from __future__ import annotations

import functools
import io
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.errors import EnvelopeMalformed, StorageFailed
from argosy_common.flower.compat import NUMPY_STYPE

MAX_ARRAYS = 16_384
MAX_HEADER = 8 * 1024 * 1024
MAX_DIMENSIONS = 32
MAX_NAME = 1024

RAW = "raw"
"""The stype, in this format only, of a `.npy` file that travels without its header."""
_RAW_KINDS = "biufc"

_MAGIC = b"ARGARR\x00\x01"
_PREFIX = struct.Struct(">8sI")
_COPY_STEP = 1024 * 1024
_NPY_PARSERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NPY_HEAD = 12 * 1024
"""No `.npy` header that numpy is willing to parse is longer (its `max_header_size` is 10 000)."""


@dataclass(frozen=True)
class Stretch:
    """A part of a file: `length` bytes from `offset`."""

    path: Path
    offset: int
    length: int

    def read(self, start: int = 0, count: int | None = None) -> bytes:
        """Return `count` bytes from `start`; raises `StorageFailed` when the file is gone or short."""
        buffer = bytearray(self.length - start if count is None else count)
        self.read_into(memoryview(buffer), start)
        return bytes(buffer)

    def read_into(self, target: memoryview, start: int = 0) -> None:
        """Fill `target` from `start`; raises `StorageFailed`."""
        try:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(self.offset + start)
                while target.nbytes:
                    count = stream.readinto(target)
                    if not count:
                        raise StorageFailed(path=self.path, why="it is shorter than it was")
                    target = target[count:]
        except OSError as error:
            raise StorageFailed(path=self.path, why=error.strerror or str(error)) from error

    def whole(self) -> bytes:
        """Return all bytes with no copy in between; raises `StorageFailed`."""
        try:
            with self.path.open("rb", buffering=0) as stream:
                data = os.pread(stream.fileno(), self.length, self.offset)
        except OSError as error:
            raise StorageFailed(path=self.path, why=error.strerror or str(error)) from error
        return data if len(data) == self.length else self.read()  # one call returns at most 2 GiB

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes in steps of 1 MiB; raises `StorageFailed`."""
        for start in range(0, self.length, _COPY_STEP):
            yield self.read(start, min(_COPY_STEP, self.length - start))


@dataclass(frozen=True)
class _Home:
    """The blob that a record was read from or written to, so that writing it again untouched is free."""

    ref: BlobRef
    keys: tuple[str, ...]


class StoredArray(Array):
    """A Flower `Array` whose bytes stay in a file: `.data` and `.numpy()` read it each time and keep nothing.

    The file must stay; whoever holds the arrays keeps the blob pinned. Assigning to a field takes it off the file.
    """

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, ...],
        stype: str,
        place: Stretch,
        home: _Home | None,
        *,
        npy_head: bytes = b"",
    ) -> None:
        """Make an array of the bytes at `place`, or of `npy_head` and those bytes."""
        # not super().__init__: it wants the bytes
        self.__dict__.update(dtype=dtype, shape=shape, stype=stype, _place=place, _home=home, _own=None)
        self.__dict__["_npy_head"] = npy_head

    @property
    def place(self) -> Stretch | None:
        """Where the bytes are, or None once the array was changed."""
        place: Stretch | None = self.__dict__["_place"]
        return place

    @property
    def npy_head(self) -> bytes:
        """The `.npy` header that stands before the bytes at `place`; empty where they have one of their own."""
        head: bytes = self.__dict__["_npy_head"]
        return head

    @property
    def home(self) -> _Home | None:
        """The blob it belongs to, if it is still a part of it."""
        home: _Home | None = self.__dict__["_home"]
        return home

    @property
    def data(self) -> bytes:  # type: ignore[override]  # set by __setattr__; not to hold it is what this class is for
        """The serialised bytes, read now; raises `StorageFailed`."""
        place = self.place
        if place is None:
            own: bytes = self.__dict__["_own"]
            return own
        return b"".join((self.npy_head, place.whole())) if self.npy_head else place.whole()

    def numpy(self) -> NDArray[Any]:
        """Return a fresh, writable ndarray, read straight from the file; raises like `Array.numpy`."""
        place = self.place
        if place is None or self.stype != NUMPY_STYPE:
            return super().numpy()
        if self.npy_head:
            layout = _NpyLayout(tuple(self.shape), fortran=False, dtype=np.dtype(self.dtype), start=0)
        else:
            layout = _npy_layout(place.read(0, min(place.length, _NPY_HEAD)), place.length)
        array: NDArray[Any] = np.empty(layout.shape[::-1] if layout.fortran else layout.shape, layout.dtype)
        if array.nbytes:
            place.read_into(array.reshape(-1).view(np.uint8).data, layout.start)
        return array.transpose() if layout.fortran else array

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401  (Flower's own signature)
        """Set a field; the array lives in memory from then on."""
        if name in ("dtype", "shape", "stype", "data"):
            own = value if name == "data" else self.data
            self.__dict__.update(_own=own, _place=None, _home=None, _npy_head=b"")
        if name == "data":
            name, value = "dtype", self.dtype  # Flower forgets its caches when any field is set
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        """Equal to any array of equal fields, stored or not."""
        if not isinstance(other, Array):
            return NotImplemented
        mine, its = (self.dtype, tuple(self.shape), self.stype), (other.dtype, tuple(other.shape), other.stype)
        return mine == its and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # as every mutable dataclass

    def __repr__(self) -> str:
        """Show everything but the bytes."""
        return f"StoredArray(dtype={self.dtype!r}, shape={self.shape!r}, stype={self.stype!r})"


# --- writing --------------------------------------------------------------------------------------------------------


def write_arrays(record: ArrayRecord, store: BlobStore, *, release: bool = False) -> BlobRef:
    """Stream `record` into the store; free when it is, untouched, what a blob of the store holds.

    With `release` the record's arrays are replaced by `StoredArray`s of the new blob, which gives their memory back.

    Raises:
        ValueError: an array that breaks this format's limits.
        DiskFull, StorageFailed: from the store.
    """
    home = _untouched(record)
    if home is not None and store.has(home.ref.digest):
        return home.ref
    header = _header(record)
    with store.writer() as writer:
        for piece in _pieces(record, header):
            writer.write(piece)
        ref = writer.commit()
    if release:
        _release(record, len(header), ref, store.path(ref.digest))
    return ref


def encode_arrays(record: ArrayRecord) -> bytes:
    """Return a small record as bytes. Raises `ValueError` like `write_arrays`."""
    return b"".join(_pieces(record, _header(record)))


def encoded_pieces(record: ArrayRecord) -> tuple[int, Iterator[bytes | memoryview]]:
    """Return the encoded record's length, and its bytes piece by piece. Raises `ValueError` like `write_arrays`."""
    header = _header(record)
    return encoded_size(record, len(header)), _pieces(record, header)


def encoded_size(record: ArrayRecord, header: int | None = None) -> int:
    """Return how many bytes the encoded record has; `header` is its header's length where that is known."""
    header = len(_header(record)) if header is None else header
    return _PREFIX.size + header + sum(_length(array) - _npy_head_of(array) for array in record.values())


def _header(record: ArrayRecord) -> bytes:
    if len(record) > MAX_ARRAYS:
        raise ValueError(f"{len(record)} arrays in one record; at most {MAX_ARRAYS}")
    rows: list[list[object]] = []
    for key, array in record.items():
        shape, head = [int(size) for size in array.shape], _npy_head_of(array)
        rows.append([key, array.dtype, shape, RAW if head else array.stype, _length(array) - head])
        _check_row(rows[-1])
        if not head and not (isinstance(array, StoredArray) and array.place):  # else it was checked when it was read
            row = _Row(key, array.dtype, tuple(shape), array.stype, 0, _length(array))
            _check_numpy(row, array.data[:_NPY_HEAD])
    header: bytes = msgpack.packb(rows, use_bin_type=True)
    if len(header) > MAX_HEADER:
        raise ValueError(f"the names of its arrays take {len(header)} bytes; at most {MAX_HEADER}")
    return header


def _pieces(record: ArrayRecord, header: bytes) -> Iterator[bytes | memoryview]:
    yield _PREFIX.pack(_MAGIC, len(header)) + header
    for array in record.values():
        place = array.place if isinstance(array, StoredArray) else None
        if place is None:
            yield memoryview(array.data)[_npy_head_of(array) :]
        else:
            yield from place.pieces()


def _length(array: Array) -> int:
    """Return the length of the array's serialised bytes."""
    place = array.place if isinstance(array, StoredArray) else None
    return len(array.data) if place is None else place.length + _npy_head_of(array)


def _npy_head_of(array: Array) -> int:
    """Return how many bytes at the beginning of the array's serialised bytes need not travel."""
    if isinstance(array, StoredArray) and array.place is not None:
        return len(array.npy_head)
    if array.stype != NUMPY_STYPE:
        return 0
    head = npy_head(array.dtype, tuple(array.shape))
    fits = bool(head) and len(array.data) == len(head) + _raw_length(array.dtype, array.shape)
    return len(head) if fits and array.data.startswith(head) else 0


@functools.lru_cache(maxsize=4096)
def npy_head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header that `numpy.save` writes for a C-ordered array of plain numbers; empty for any other dtype."""
    try:
        plain = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        return b""
    if plain.kind not in _RAW_KINDS or str(plain) != dtype:
        return b""
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(plain), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _raw_length(dtype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _untouched(record: ArrayRecord) -> _Home | None:
    """Return the one blob that `record` is, array by array, still the content of."""
    home: _Home | None = None
    after = 0
    for array in record.values():
        place, its = (array.place, array.home) if isinstance(array, StoredArray) else (None, None)
        if place is None or its is None or (home is not None and its.ref != home.ref) or place.offset < after:
            return None
        home, after = its, place.offset + place.length
    return home if home is not None and home.keys == tuple(record) else None


def _release(record: ArrayRecord, header: int, ref: BlobRef, path: Path) -> None:
    home = _Home(ref, tuple(record))
    offset = _PREFIX.size + header
    for key, array in list(record.items()):
        head = _npy_head_of(array)
        place = Stretch(path, offset, _length(array) - head)
        kept = npy_head(array.dtype, tuple(array.shape)) if head else b""
        record[key] = StoredArray(array.dtype, tuple(array.shape), array.stype, place, home, npy_head=kept)
        offset += place.length


# --- reading --------------------------------------------------------------------------------------------------------


def read_arrays(ref: BlobRef, store: BlobStore, *, peer: str = "the other end") -> ArrayRecord:
    """Return the record in the blob `ref`, every array a `StoredArray`.

    Raises:
        EnvelopeMalformed: it is not a record of arrays, or not of that size.
        BlobUnknown: it is not in the store.
        StorageFailed: it cannot be read.
    """
    path = store.path(ref.digest)
    if store.size(ref.digest) != ref.size:
        raise EnvelopeMalformed(peer=peer, why=f"the blob {ref.hex[:12]} does not have {ref.size} bytes")
    whole = Stretch(path, 0, ref.size)
    try:
        return stored_record(whole, ref)
    except ValueError as error:
        raise EnvelopeMalformed(peer=peer, why=f"the arrays in {ref.hex[:12]}: {error}") from error


def stored_record(within: Stretch, ref: BlobRef | None = None) -> ArrayRecord:
    """Return the record that begins at `within` and fills it; `ref` if that is all of a blob.

    Raises:
        ValueError: it is not a record of arrays.
        StorageFailed: it cannot be read.
    """
    rows = _parse(within.read, within.length)
    home = None if ref is None else _Home(ref, tuple(row.key for row in rows))
    record = ArrayRecord()
    for row in rows:
        place = Stretch(within.path, within.offset + row.offset, row.length)
        head = npy_head(row.dtype, row.shape) if row.stype == RAW else b""
        stype = NUMPY_STYPE if head else row.stype
        record[row.key] = StoredArray(row.dtype, row.shape, stype, place, home, npy_head=head)
    return record


def decode_arrays(data: bytes) -> ArrayRecord:
    """Return the record of `encode_arrays`. Raises `ValueError` when it is none."""
    record = ArrayRecord()
    for row in _parse(lambda start, count: data[start : start + count], len(data)):
        part = data[row.offset : row.offset + row.length]
        if row.stype == RAW:
            part = npy_head(row.dtype, row.shape) + part
        stype = NUMPY_STYPE if row.stype == RAW else row.stype
        record[row.key] = Array(dtype=row.dtype, shape=row.shape, stype=stype, data=part)
    return record


@dataclass(frozen=True)
class _Row:
    key: str
    dtype: str
    shape: tuple[int, ...]
    stype: str
    offset: int
    length: int


def _parse(read: Callable[[int, int], bytes], size: int) -> list[_Row]:
    """Return where everything is in an encoded record of `size` bytes. Raises `ValueError`."""
    if size < _PREFIX.size:
        raise ValueError("too short")
    magic, length = _PREFIX.unpack(read(0, _PREFIX.size))
    if magic != _MAGIC:
        raise ValueError("not a record of arrays")
    if length > min(MAX_HEADER, size - _PREFIX.size):
        raise ValueError(f"a header of {length} bytes")
    rows: list[_Row] = []
    offset = _PREFIX.size + length
    for key, dtype, shape, stype, count in _unpack_header(read(_PREFIX.size, length)):
        row = _Row(key, dtype, tuple(shape), stype, offset, count)
        offset += count
        if offset > size:
            raise ValueError(f"the array '{key[:64]}' reaches past the end")
        _check_numpy(row, read(row.offset, min(count, _NPY_HEAD)))
        rows.append(row)
    if offset != size:
        raise ValueError(f"{size - offset} bytes too many")
    if len({row.key for row in rows}) != len(rows):
        raise ValueError("two arrays of one name")
    return rows


def _unpack_header(header: bytes) -> list[Any]:
    try:
        rows = msgpack.unpackb(header, raw=False, max_array_len=MAX_ARRAYS, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError(f"a bad header: {error}") from error
    if not isinstance(rows, list):
        raise ValueError("a bad header: not a list")  # noqa: TRY004  (the sender's fault, not the caller's)
    for row in rows:
        _check_row(row)
    return rows


def _check_row(row: Any) -> None:  # noqa: ANN401  (whatever msgpack gave)
    if not (isinstance(row, list) and len(row) == 5):
        raise ValueError("a bad header: an array has five fields")
    key, dtype, shape, stype, length = row
    if not all(isinstance(text, str) and len(text) <= MAX_NAME for text in (key, dtype, stype)):
        raise ValueError(f"a name, dtype or stype that is not a text of at most {MAX_NAME} characters")
    if not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS):
        raise ValueError(f"the array '{key[:64]}' has more than {MAX_DIMENSIONS} dimensions")
    if not all(type(number) is int and 0 <= number <= 2**40 for number in (*shape, length)):
        raise ValueError(f"the array '{key[:64]}' has an impossible size")


@dataclass(frozen=True)
class _NpyLayout:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int


def _npy_layout(head: bytes, length: int) -> _NpyLayout:
    """Return what the beginning of a `.npy` file of `length` bytes says; raises `ValueError` if it does not add up."""
    stream = io.BytesIO(head)
    try:
        shape, fortran, dtype = _NPY_PARSERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:
        raise ValueError(f"a bad numpy header: {str(error)[:200]}") from error
    start = stream.tell()
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size <= 2**40 for size in shape):
        raise ValueError("an impossible shape")
    if math.prod(size for size in shape if size) * max(dtype.itemsize, 1) > 2**42:
        raise ValueError("an impossible size")
    if start + math.prod(shape) * dtype.itemsize != length:
        raise ValueError("a numpy header that does not fit its data")
    return _NpyLayout(shape, fortran, dtype, start)


def _check_numpy(row: _Row, head: bytes) -> None:
    """Hold a numpy array's own header against the outer one. Legacy apps leave dtype and shape out, and data empty."""
    if row.stype == RAW:
        if not npy_head(row.dtype, row.shape):
            raise ValueError(f"the array '{row.key[:64]}' has no plain numbers")
        if _raw_length(row.dtype, row.shape) != row.length:
            raise ValueError(f"the array '{row.key[:64]}' is not what its header says")
        return
    if row.stype != NUMPY_STYPE or not row.length:
        return
    layout = _npy_layout(head, row.length)
    if row.dtype and (str(layout.dtype) != row.dtype or layout.shape != row.shape):
        raise ValueError(f"the array '{row.key[:64]}' is not what its header says")
