from __future__ import annotations

import numpy as np
import pytest

from argosy_common.codec.bf16 import Bf16
from argosy_common.codec.fp16 import Fp16
from argosy_common.codec.int8 import Int8
from argosy_common.codec.registry import get_codec
from tests.common.codec.codes import normal, read, rng, there_and_back

VALUES = np.array([0, 1, -2, 3.5, -0.001], np.float32)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("none", "000000000000803f000000c0000060406f1283ba"),
        ("fp16", "0000003c00c000431994"),
        ("bf16", "0000803f00c0604083ba"),
        ("int8", "87c3e13c0024b87f00"),
    ],
)
def test_the_format_is_as_it_was(name: str, payload: str) -> None:
    assert get_codec(name).encode(VALUES, rng(11)) == bytes.fromhex(payload)


def test_bf16_rounds_to_nearest_and_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], np.uint32)
    rounded = there_and_back(Bf16(), bits.view(np.float32)).view(np.uint32) >> 16
    assert rounded.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


def test_casts_keep_the_precision_that_they_promise() -> None:
    values = normal(10_000)
    assert np.all(np.abs(there_and_back(Fp16(), values) - values) <= np.maximum(np.abs(values) * 2.0**-11, 3e-8))
    assert np.all(np.abs(there_and_back(Bf16(), values) - values) <= np.abs(values) * 2.0**-8)


def test_what_would_round_to_infinity_is_refused() -> None:
    largest = np.array([np.finfo(np.float32).max], np.float32)
    for codec in (Fp16(), Bf16()):
        with pytest.raises(ValueError, match="takes magnitudes"):
            codec.encode(largest, rng())
    with pytest.raises(ValueError, match="takes magnitudes"):
        Fp16().encode(np.array([65519.0], np.float32), rng())


def test_int8_takes_eight_bits_and_a_scale_for_each_256() -> None:
    assert len(Int8().encode(normal(1 << 16), rng())) * 8 / (1 << 16) == 8.125


def test_int8_is_never_a_whole_unit_off() -> None:
    values = normal(10_000)
    found = there_and_back(Int8(), values)
    units = np.repeat([np.abs(values[at : at + 256]).max() / 127 for at in range(0, 10_000, 256)], 256)[:10_000]
    assert np.all(np.abs(found - values) <= units * 1.001)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e30])
def test_int8_refuses_an_absurd_scale(scale: float) -> None:
    payload = np.float32(scale).tobytes() + bytes(5)
    with pytest.raises(ValueError, match="scale"):
        read(Int8(), payload, 5)
