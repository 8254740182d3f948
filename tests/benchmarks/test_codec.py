"""The codec benchmark's own arithmetic: what it holds codecs against must itself be right."""

from __future__ import annotations

import numpy as np
import pytest

from argosy_common.codec.hadamard import hadamard_matrix
from argosy_common.codec.lloyd_max import eden_nmse
from benchmarks.codec import _min_to_max, _nmse, butterflies


def test_butterflies_are_the_hadamard_transform_of_each_block() -> None:
    vector = np.random.default_rng(1).standard_normal(2 * 4096, dtype=np.float32)
    rows, columns = hadamard_matrix(64), hadamard_matrix(64)
    wanted = np.stack([(rows @ block @ columns).reshape(-1) for block in vector.reshape(2, 64, 64)])
    np.testing.assert_allclose(butterflies(vector), wanted.reshape(-1), atol=1e-4)


def test_whole_numbers_between_the_extremes_lose_what_their_step_says() -> None:
    rng = np.random.default_rng(2)
    vector = rng.uniform(-1, 1, 1 << 18).astype(np.float32)
    step = 2 / 15
    assert _min_to_max(vector, rng) == pytest.approx(step**2 / 6 / (1 / 3), rel=0.02)  # stochastic rounding: step²/6


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_error_of_a_codec_is_over_the_vectors_own_length(bits: int) -> None:
    rng = np.random.default_rng(3)
    vector = 1000 * rng.standard_normal(1 << 18, dtype=np.float32)
    assert _nmse(f"eden:{bits}", vector, rng) == pytest.approx(eden_nmse(bits), rel=0.03)
    assert _nmse("none", vector, rng) == 0
