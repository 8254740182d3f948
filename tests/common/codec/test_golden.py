"""Whole frames of each codec as they were: what one version writes another must read.

The input is 64 whole numbers. They rotate to whole eighths without any rounding, so that codes are the same on every
machine; only EDEN's scale, a sum of rounded products, may differ in its last bits and is compared as a number.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from argosy_common.codec.frame import decode_vector, encode_frame
from argosy_common.codec.hadamard import Rotation
from argosy_common.codec.lloyd_max import eden_nmse, thresholds
from argosy_common.codec.registry import get_codec
from tests.common.codec.codes import nmse
from tests.common.codec.vectors import EDEN

VALUES = np.random.default_rng(7).integers(-8, 9, 64).astype(np.float32)

WHOLE = {
    "none": "f16da090e5f956fa178da9650b944bac",
    "fp16": "79bff38939f0e2482c13a2fd2b6d7a58",
    "bf16": "b03d1f9fc1fa4b2eac58c737d7fc8c7c",
    "int8": "0f301b9967b2989a536208372dffb339",
    "topk:0.3": "3e9921b8c54af2882840c3ca8bd4d133",
    "topk:0.01": "bb7b711e8251be0ff9c98a47d73fcf33",
    "topk:0.001": "60e9d0339882ea60282098dbda27c35f",
}
"""The first half of the SHA-256 of the frame."""

PLANES = {
    "eden:1": (7.6482977867126465, "b746fc766177cf86"),
    "eden:2": (5.283596515655518, "b746fc766177cf86ca12b0824b00dd02"),
    "eden:3": (4.735594272613525, "b746fc766177cf86ca12b0824b00dd02fa1b958c8819fb66"),
    "eden:4": (4.818546295166016, "b746fc766177cf86ca12b0024b00dd02fa1bb58cc819fb66817f250e6fb1b424"),
}
"""The block's scale, and the bit planes."""


def test_the_input_is_as_it_was() -> None:
    assert VALUES[:12].tolist() == FIRST


FIRST = [8.0, 2.0, 3.0, 7.0, 1.0, 5.0, 6.0, -5.0, -8.0, -3.0, -4.0, 6.0]


@pytest.mark.parametrize("name", WHOLE)
def test_the_frame_is_as_it_was(name: str) -> None:
    frame = encode_frame(get_codec(name), VALUES, np.random.default_rng(7))
    assert hashlib.sha256(frame).hexdigest()[:32] == WHOLE[name]


@pytest.mark.parametrize("name", EDEN)
def test_edens_frame_is_as_it_was(name: str) -> None:
    frame = encode_frame(get_codec(name), VALUES, np.random.default_rng(7))
    scale, planes = PLANES[name]
    head = b"AGC\1\6" + name.encode() + (64).to_bytes(8, "little") + (12 + 8 * int(name[-1])).to_bytes(8, "little")
    assert frame[:27] == head
    assert frame[27:35] == np.random.default_rng(7).bytes(8)
    assert np.frombuffer(frame, "<f4", 1, 35)[0] == pytest.approx(scale, rel=1e-6)
    assert frame[39:-4].hex() == planes
    assert nmse(decode_vector(frame, get_codec(name), 64, peer="us"), VALUES) < 1.5 * eden_nmse(int(name[-1]))


@pytest.mark.parametrize("name", EDEN)
def test_no_value_of_the_input_is_near_a_threshold(name: str) -> None:
    rotated = Rotation(int.from_bytes(np.random.default_rng(7).bytes(8), "little"), 64).rotate(VALUES.reshape(1, -1))
    assert np.array_equal(rotated * 8, np.rint(rotated * 8))
    sizes = np.abs(rotated[0]).astype(np.float64) * 8 / np.linalg.norm(VALUES.astype(np.float64))
    for threshold in thresholds(int(name[-1])):
        assert np.abs(sizes - threshold).min() > 1e-4
