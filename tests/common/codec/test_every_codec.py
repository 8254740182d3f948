from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_common.codec.base import CHUNK
from argosy_common.codec.registry import get_codec
from tests.common.codec.codes import EDGES, NAMES, nmse, normal, read, rng, there_and_back

BOUND = {  # of the normalised squared error on normal values; topk's is what remains of the energy
    "none": 0.0,
    "fp16": 1e-6,
    "bf16": 1e-5,
    "int8": 1e-3,
    "eden:1": 0.7,
    "eden:2": 0.2,
    "eden:3": 0.06,
    "eden:4": 0.02,
    "topk:0.001": 1.0,
    "topk:0.01": 0.95,
    "topk:0.3": 0.3,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_names_the_codec(name: str) -> None:
    assert get_codec(name).name == name
    assert name in repr(get_codec(name))


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("name", NAMES)
def test_every_size_comes_back_whole_and_near(name: str, size: int) -> None:
    values = normal(size)
    before = values.copy()
    found = there_and_back(get_codec(name), values)
    assert found.shape == (size,)
    assert np.isfinite(found).all()
    assert np.array_equal(values, before)
    if size >= 4095:
        assert nmse(found, values) <= BOUND[name]


@pytest.mark.parametrize("size", [1, 100, 4096, 5000, CHUNK + 1])
@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zeros(name: str, size: int) -> None:
    assert not there_and_back(get_codec(name), np.zeros(size, np.float32)).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_block_among_others_stays_zero(name: str) -> None:
    values = normal(3 * 4096 + 100)
    values[4096:8192] = 0
    assert not there_and_back(get_codec(name), values)[4096:8192].any()


@pytest.mark.parametrize("place", [0, 4096, CHUNK])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "fp16"])
def test_one_huge_outlier_is_kept_and_harms_no_other_block(name: str, place: int) -> None:
    values = normal(CHUNK + 300)
    values[place] = 1e30
    found = there_and_back(get_codec(name), values)
    assert np.isfinite(found).all()
    assert found[place] == pytest.approx(1e30, rel=0.02)
    if not name.startswith("topk"):
        others = np.arange(len(values)) // 4096 != place // 4096
        assert nmse(found[others], values[others]) <= BOUND[name]


@pytest.mark.parametrize("magnitude", [1e-44, 1e-39, 1e-30, 1e20, 1e29])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "fp16"])
def test_values_of_any_magnitude_come_back_finite_and_of_that_magnitude(name: str, magnitude: float) -> None:
    values = (normal(5000) * np.float32(magnitude)).astype(np.float32)
    found = there_and_back(get_codec(name), values)
    assert np.isfinite(found).all()
    if magnitude >= 1e-30:
        assert nmse(found / np.float32(magnitude), values / np.float32(magnitude)) <= BOUND[name]
    else:
        assert np.abs(found).max() <= 100 * magnitude


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 70, CHUNK + 69])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_refused(name: str, place: int, bad: float) -> None:
    values = normal(CHUNK + 70)
    values[place] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        get_codec(name).encode(values, rng())


@pytest.mark.parametrize("name", ["int8", "eden:2", "topk:0.01", "fp16"])
def test_what_is_too_large_is_refused_with_the_limit(name: str) -> None:
    with pytest.raises(ValueError, match="takes magnitudes up to"):
        get_codec(name).encode(np.array([1, 2e30], np.float32), rng())


@pytest.mark.parametrize("name", NAMES)
def test_only_flat_float32_is_taken(name: str) -> None:
    for wrong in (np.zeros((2, 2), np.float32), np.zeros(4), np.zeros(8, np.float32)[::2]):
        with pytest.raises(ValueError, match="flat contiguous float32"):
            get_codec(name).encode(wrong, rng())  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 257, 4097])
@pytest.mark.parametrize("name", NAMES)
def test_a_payload_of_another_length_is_refused(name: str, size: int) -> None:
    codec = get_codec(name)
    payload = codec.encode(normal(size), rng())
    for wrong in (payload + b"\0", payload[:-1] if payload else b"ab", b"" if payload else b"abc"):
        with pytest.raises(ValueError, match="make"):
            read(codec, wrong, size)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 65, 300, 4100]), whole=st.booleans())
def test_arbitrary_bytes_are_refused_or_finite(name: str, seed: int, size: int, whole: bool) -> None:
    codec = get_codec(name)
    draw = rng(seed)
    payload = bytearray(codec.encode(normal(size, seed), draw))
    for place in range(len(payload)) if whole else draw.integers(0, len(payload), 3):
        payload[place] = draw.integers(0, 256)
    try:
        found = read(codec, bytes(payload), size)
    except ValueError:
        return
    assert found.shape == (size,)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("name", NAMES)
def test_constant_bytes_are_refused_or_finite(name: str, fill: int) -> None:
    codec, size = get_codec(name), 4500
    payload = bytes([fill]) * len(codec.encode(normal(size), rng()))
    with suppress(ValueError):
        assert np.isfinite(read(codec, payload, size)).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(-6e4, 6e4, width=32), max_size=300))
def test_any_small_vector_makes_the_round_trip(name: str, values: list[float]) -> None:
    vector = np.array(values, np.float32)
    found = there_and_back(get_codec(name), vector)
    assert found.shape == vector.shape
    assert np.isfinite(found).all()
    if name == "none":
        assert np.array_equal(found, vector)


@pytest.mark.parametrize("name", ["int8", "eden:1", "eden:2", "eden:3", "eden:4"])
def test_the_mean_of_many_codes_tends_to_the_vector(name: str) -> None:
    """Unbiased: the squared error of the mean of t codes falls to a t-th, within 15 % for chance and rotation."""
    codec, values, times = get_codec(name), normal(4096) * np.float32(3), 64
    values[:10] *= 20
    single = np.mean([nmse(there_and_back(codec, values, seed), values) for seed in range(8)])
    mean = np.mean([there_and_back(codec, values, seed).astype(np.float64) for seed in range(times)], axis=0)
    assert nmse(mean.astype(np.float32), values) <= 1.15 * single / times


@pytest.mark.parametrize("name", NAMES)
def test_decoding_takes_a_few_chunks_of_memory_whatever_the_size(name: str) -> None:
    """Nothing of the vector's length but what a sparse code's places need."""
    codec, size = get_codec(name), 16 * CHUNK
    payload = memoryview(codec.encode(normal(size), rng()))
    for _ in codec.decode(payload, size):  # tables are made
        pass
    tracemalloc.start()
    for _ in codec.decode(payload, size):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    places = 64 * codec.kept(size) + size if hasattr(codec, "kept") else 0
    assert peak <= 6 * 4 * CHUNK + places + len(payload) // 8
