from __future__ import annotations

import numpy as np
import pytest

from argosy_common.codec.base import CHUNK
from argosy_common.codec.topk import TopK, largest
from tests.common.codec.codes import normal, read, rng, there_and_back


@pytest.mark.parametrize(
    ("fraction", "payload"), [(0.3, "00006040 9234 92b8 003c 7000"), (0.01, "00006040 003c 0100 03"),
                              (0.001, "00006040 003c 01000000 0300")]
)  # fmt: skip
def test_the_format_is_as_it_was(fraction: float, payload: str) -> None:
    values = np.array([0, 1, -2, 3.5, -0.001, 0, 0, 0, 0, 0], np.float32)
    assert TopK(fraction).encode(values, rng(11)) == bytes.fromhex(payload)


@pytest.mark.parametrize("fraction", [0.0005, 0.001, 0.01, 0.05, 0.2, 0.9])
@pytest.mark.parametrize("size", [1, 300, 5000, CHUNK + 7, 3 * CHUNK])
def test_exactly_the_largest_come_back_and_the_rest_is_zero(fraction: float, size: int) -> None:
    values = normal(size)
    codec = TopK(fraction)
    kept = np.sort(np.argsort(np.abs(values))[size - codec.kept(size) :])
    found = there_and_back(codec, values)
    assert np.array_equal(np.flatnonzero(found), kept)
    assert np.allclose(found[kept], values[kept], rtol=1e-3)


def test_a_hundredth_takes_a_third_of_a_bit() -> None:
    assert 0.2 <= TopK(0.01).payload_size(1 << 20) * 8 / (1 << 20) <= 0.5


@pytest.mark.parametrize("kept", [1, 100, 5000])
def test_equal_values_never_make_more_than_was_asked_for(kept: int) -> None:
    values = np.ones(2 * CHUNK, np.float32)
    assert np.array_equal(largest(values, kept, rng()), np.arange(kept))


def test_a_few_values_among_zeros_are_found() -> None:
    values = np.zeros(4 * CHUNK, np.float32)
    places = np.sort(rng().choice(len(values), 50, replace=False))
    values[places] = normal(50) + np.float32(10)
    assert np.array_equal(np.flatnonzero(there_and_back(TopK(0.01), values)), places)


@pytest.mark.parametrize("parameter", [None, "", "0", "1", "-0.1", "nan", "inf", "x", "1e-400"])
def test_what_is_no_fraction_is_refused(parameter: str | None) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        TopK.parse(parameter)


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ("0000 0000 0500", "exactly"),  # none of the three
        ("0300 0000 050505", "rising"),  # one place three times
        ("0200 0100 0506ff", "rising"),  # beyond the end
        ("0000 0300 0605ff", "rising"),  # falling
    ],
)  # fmt: skip
def test_places_that_are_not_k_rising_ones_are_refused(places: str, why: str) -> None:
    codec = TopK(0.01)
    payload = np.float32(1).tobytes() + 3 * b"\0\x3c" + bytes.fromhex(places)[: 4 + 3].ljust(7, b"\0")
    with pytest.raises(ValueError, match=why):
        read(codec, payload, 290)


def test_bits_after_the_end_are_refused() -> None:
    codec = TopK(0.3)
    payload = bytearray(codec.encode(normal(10), rng()))
    payload[-2:] = b"\xc0\x01"
    with pytest.raises(ValueError, match="rising"):
        read(codec, bytes(payload), 10)


@pytest.mark.parametrize("unit", [np.nan, np.inf, -1.0, 1e31])
def test_an_absurd_unit_is_refused(unit: float) -> None:
    codec = TopK(0.01)
    payload = np.float32(unit).tobytes() + codec.encode(normal(10), rng())[4:]
    with pytest.raises(ValueError, match="finite or too large"):
        read(codec, payload, 10)
