"""What each codec promises of hard vectors, held to its bound value by value."""

from __future__ import annotations

import tracemalloc
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from argosy_common.codec.base import CHUNK
from argosy_common.codec.registry import get_codec
from tests.common.codec.vectors import (
    AWKWARD,
    CODECS,
    LARGE,
    LIMITS,
    SMALL,
    assert_kept,
    decode,
    normal,
    round_trip,
    same_each_time,
)

SIZES_TO_FUZZ = (0, 1, 2, 63, 64, 65, 255, 256, 257, 1000, 4097)
ORDINARY = st.floats(-60000, 60000, width=32)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", SMALL + LARGE)
def test_every_size_comes_back(name: str, size: int) -> None:
    values = normal(size)
    assert_kept(name, values, round_trip(get_codec(name), values))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("size", [0, 1, 2, 65, 257, 3 * 4096 + 7])
def test_awkward_values_come_back_or_are_refused(name: str, kind: str, size: int) -> None:
    values = AWKWARD[kind](size)
    limit = LIMITS.get(name.partition(":")[0], np.inf)
    if np.abs(values).max(initial=0) > np.float32(limit):
        with pytest.raises(ValueError, match="magnitudes up to"):
            get_codec(name).encode(values, np.random.default_rng(1))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = round_trip(get_codec(name), values)
    assert_kept(name, values, decoded)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", ["zeros", "zero blocks", "heavy tails"])
def test_awkward_values_come_back_over_several_chunks(name: str, kind: str) -> None:
    values = AWKWARD[kind](CHUNK + 2 * 4096 + 9)
    assert_kept(name, values, round_trip(get_codec(name), values))


@pytest.mark.parametrize("name", [name for name in CODECS if not name.startswith("eden")])
@same_each_time
@given(arrays.arrays(np.float32, st.integers(0, 300), elements=ORDINARY), st.integers(0, 2**32))
def test_any_vector_comes_back(name: str, values: np.ndarray[tuple[int], np.dtype[np.float32]], seed: int) -> None:
    assert_kept(name, values, round_trip(get_codec(name), values, seed))


@pytest.mark.parametrize("name", [name for name in CODECS if name.startswith("eden")])
@same_each_time
@given(arrays.arrays(np.float32, st.integers(0, 300), elements=ORDINARY), st.integers(0, 2**32))
def test_any_vector_keeps_its_length_along_itself(
    name: str, values: np.ndarray[tuple[int], np.dtype[np.float32]], seed: int
) -> None:
    """Vectors as hypothesis likes them have one or two coordinates that matter: their error is bounded by nothing."""
    decoded = round_trip(get_codec(name), values, seed).astype(np.float64)
    assert np.isfinite(decoded).all()
    if np.abs(values).max(initial=0) > 1e-30:
        exact = values / np.float64(np.abs(values).max())
        assert np.isclose(decoded / np.abs(values).max() @ exact, exact @ exact, rtol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_the_same_randomness_makes_the_same_bytes(name: str) -> None:
    values = normal(5000)
    first, second, third = (get_codec(name).encode(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == second
    assert (first == third) is (name.partition(":")[0] not in {"int8", "eden"})


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 257, CHUNK + 5000])
def test_what_is_not_finite_is_refused_wherever_it_is(name: str, bad: float, size: int) -> None:
    for place in {0, size // 2, size - 1}:
        values = np.zeros(size, np.float32) if place == 0 else normal(size)
        values[place] = bad
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinity"):
                get_codec(name).encode(values, np.random.default_rng(1))


@pytest.mark.parametrize("name", CODECS)
def test_values_up_to_the_limit_are_taken_and_beyond_it_refused(name: str) -> None:
    limit = LIMITS.get(name.partition(":")[0])
    values = normal(300)
    if limit is None:
        values[7] = 3.3e38
        assert_kept(name, values, round_trip(get_codec(name), values))
        return
    values[7] = -limit
    assert_kept(name, values, round_trip(get_codec(name), values))
    values[7] = np.nextafter(np.float32(-limit), np.float32(-np.inf))
    with pytest.raises(ValueError, match="magnitudes up to"):
        get_codec(name).encode(values, np.random.default_rng(1))


@pytest.mark.parametrize("name", CODECS)
@same_each_time
@given(st.sampled_from(SIZES_TO_FUZZ), st.integers(0, 2**32), st.data())
def test_whatever_the_payload_values_are_finite_or_it_is_refused(
    name: str, size: int, seed: int, data: st.DataObject
) -> None:
    codec = get_codec(name)
    rng = np.random.default_rng(seed)
    payload = bytearray(codec.encode(normal(size), rng))
    match data.draw(st.sampled_from(["random", "written over", "filled", "one byte"])):
        case "random":
            payload[:] = rng.bytes(len(payload))
        case "written over":
            start = data.draw(st.integers(0, len(payload)))
            end = min(len(payload), start + data.draw(st.integers(0, 40)))
            payload[start:end] = rng.bytes(end - start)
        case "filled":
            payload[:] = data.draw(st.binary(min_size=1, max_size=1)) * len(payload)
        case _ if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            decoded = decode(codec, bytes(payload), size)
        except ValueError:
            return
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", CODECS)
@same_each_time
@given(st.data())
def test_arbitrary_bytes_of_the_right_length_make_finite_values_or_are_refused(name: str, data: st.DataObject) -> None:
    codec, size = get_codec(name), data.draw(st.integers(0, 70))
    length = len(codec.encode(np.zeros(size, np.float32), np.random.default_rng(1)))
    payload = data.draw(st.binary(min_size=length, max_size=length))
    try:
        decoded = decode(codec, payload, size)
    except ValueError:
        return
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", CODECS)
def test_the_name_names_the_codec(name: str) -> None:
    assert get_codec(name).name == name
    assert name in repr(get_codec(name))


@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("name", CODECS)
def test_constant_bytes_are_refused_or_finite(name: str, fill: int) -> None:
    codec, size = get_codec(name), 4500
    payload = bytes([fill]) * len(codec.encode(normal(size), np.random.default_rng(1)))
    with suppress(ValueError):
        assert np.isfinite(decode(codec, payload, size)).all()


@pytest.mark.parametrize("name", CODECS)
def test_decoding_takes_a_few_chunks_of_memory_whatever_the_size(name: str) -> None:
    """Nothing of the vector's length but what a sparse code's places need."""
    codec, size = get_codec(name), 16 * CHUNK
    payload = memoryview(codec.encode(normal(size), np.random.default_rng(1)))
    for _ in codec.decode(payload, size):  # tables are made
        pass
    tracemalloc.start()
    for _ in codec.decode(payload, size):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    places = 64 * codec.kept(size) + size if hasattr(codec, "kept") else 0
    assert peak <= 6 * 4 * CHUNK + places + len(payload) // 8
