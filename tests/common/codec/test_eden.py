from __future__ import annotations

import zlib

import numpy as np
import pytest

from argosy_common.codec.base import CHUNK, Vector
from argosy_common.codec.eden import Eden
from argosy_common.codec.lloyd_max import eden_nmse
from tests.common.codec.codes import nmse, normal, read, rng, there_and_back

BITS = (1, 2, 3, 4)


def heavy_tailed(size: int) -> Vector:
    """Return values with the kurtosis of a real update, about 75, and layers of different scales among them."""
    draw = rng(3)
    values = draw.standard_normal(size) * np.exp(0.9 * draw.standard_normal(size))
    values *= np.repeat([0.01, 1.0, 0.1, 3.0], size // 4)
    return values.astype(np.float32)


@pytest.mark.parametrize("vector", [normal(1 << 20), heavy_tailed(1 << 20)], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize("bits", BITS)
def test_the_error_is_the_theorys_within_three_percent(bits: int, vector: Vector) -> None:
    assert nmse(there_and_back(Eden(bits), vector), vector) == pytest.approx(eden_nmse(bits), rel=0.03)


@pytest.mark.parametrize("bits", BITS)
def test_it_takes_its_bits_and_a_hundredth(bits: int) -> None:
    assert Eden(bits).payload_size(CHUNK) * 8 / CHUNK <= bits + 0.01


def test_a_small_vector_is_padded_to_a_power_of_two_and_not_to_a_block() -> None:
    assert [Eden(1).payload_size(size) for size in (0, 1, 64, 65, 4096, 4097)] == [8, 20, 20, 28, 524, 536]


def test_senders_rotate_differently() -> None:
    codec, values = Eden(2), normal(4096)
    assert codec.encode(values, rng(1)) != codec.encode(values, rng(2))
    assert codec.encode(values, rng(1)) == codec.encode(values, rng(1))


@pytest.mark.parametrize("bits", BITS)
def test_errors_of_several_senders_average_out(bits: int) -> None:
    codec, values, senders = Eden(bits), normal(1 << 15), 16
    mean = np.mean([there_and_back(codec, values, seed) for seed in range(senders)], axis=0)
    assert nmse(mean, values) == pytest.approx(eden_nmse(bits) / senders, rel=0.1)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e34])
def test_an_absurd_scale_is_refused_before_any_value(scale: float) -> None:
    codec = Eden(2)
    payload = bytearray(codec.encode(normal(2 * CHUNK), rng()))
    payload[8 + 4 * 63 : 8 + 4 * 64] = np.float32(scale).tobytes()  # the last block's
    with pytest.raises(ValueError, match="scale"):
        next(codec.decode(memoryview(payload), 2 * CHUNK))


def test_the_largest_scale_still_decodes_to_finite_values() -> None:
    codec = Eden(4)
    payload = bytearray(codec.payload_size(4096))
    payload[8:12] = np.float32(1e33).tobytes()
    for fill in (0x00, 0xFF, 0x55):
        payload[12:] = bytes([fill]) * (len(payload) - 12)
        assert np.isfinite(read(codec, bytes(payload), 4096)).all()


@pytest.mark.parametrize("parameter", [None, "", "0", "5", "2.0", " 2", "x"])
def test_other_bits_are_refused(parameter: str | None) -> None:
    with pytest.raises(ValueError, match="1, 2, 3 or 4"):
        Eden.parse(parameter)


@pytest.mark.parametrize("bits", BITS)
def test_the_format_is_as_it_was(bits: int) -> None:
    """One spike rotates to values that no rounding error moves over a threshold, and of which all bits are exact."""
    values = np.zeros(100, np.float32)
    values[5] = 3
    payload = Eden(bits).encode(values, rng(11))
    assert payload[:8] == rng(11).bytes(8)
    scale = np.frombuffer(payload, "<f4", 1, 8)[0]
    assert read(Eden(bits), payload, 100)[5] == pytest.approx(3, rel=1e-6)
    assert (round(float(scale), 5), zlib.crc32(payload[12:])) == GOLDEN[bits]


GOLDEN = {1: (0.33234, 1757275732), 2: (0.17556, 3325555053), 3: (0.35074, 3102674631), 4: (0.28139, 714637107)}
"""The scale, and the CRC-32 of the planes."""
