from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from argosy_common.codec.base import CHUNK
from argosy_common.codec.hadamard import (
    Rotation,
    block_count,
    groups,
    hadamard_matrix,
    padded_blocks,
    padded_size,
    random_signs,
    whole_rows,
)
from argosy_common.codec.lloyd_max import DISTORTION, LEVELS, thresholds
from argosy_common.codec.packing import Packer
from tests.common.codec.codes import EDGES, normal


@pytest.mark.parametrize("size", EDGES)
def test_groups_cover_a_vector_once_with_little_padding(size: int) -> None:
    found = list(groups(size))
    assert [group.start for group in found] == [0, *np.cumsum([group.size for group in found])[:-1]][: len(found)]
    assert sum(group.size for group in found) == size
    assert sum(group.blocks for group in found) == block_count(size)
    assert sum(group.padded for group in found) == padded_size(size) < max(2 * size, 65)
    assert all(group.padded <= CHUNK for group in found)


@pytest.mark.parametrize("length", [64, 128, 1024, 4096])
def test_the_rotation_is_the_hadamard_transform_of_signed_values(length: int) -> None:
    values = normal(length)
    rotated = Rotation(5, length).rotate(values.reshape(1, -1))[0]
    expected = hadamard_matrix(length).astype(np.float64) @ (values * random_signs(5, length))
    assert np.allclose(rotated, expected, atol=1e-5)


def test_a_rotation_keeps_norms_and_is_undone() -> None:
    values = normal(3 * 4096)
    rotation = Rotation(9, len(values))
    (group,) = groups(len(values))
    rotated = rotation.rotate(padded_blocks(values, group)).copy()
    assert np.allclose(np.linalg.norm(rotated, axis=1), np.linalg.norm(values.reshape(3, -1), axis=1), rtol=1e-5)
    assert np.allclose(rotation.restore(rotated).reshape(-1), values, atol=1e-5)


def test_signs_are_those_of_every_numpy() -> None:
    """Philox under a key, 64 signs a word from the lowest byte's highest bit: both ends must make the same ones."""
    signs = random_signs(0x0123456789ABCDEF, 1 << 12)
    assert set(signs) == {-1.0, 1.0}
    assert np.packbits(signs < 0)[:8].tobytes().hex() == GOLDEN_SIGNS
    assert abs(signs.mean()) < 0.06
    assert not np.array_equal(signs, random_signs(0x0123456789ABCDEF, 1 << 12, 1))


GOLDEN_SIGNS = "59b9a054c7bdf0da"


def test_numpys_buffer_is_left_as_it_was() -> None:
    before = np.getbufsize()
    with pytest.raises(KeyError), whole_rows():
        raise KeyError
    assert np.getbufsize() == before


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _beyond(x: float) -> float:
    return math.erfc(x / math.sqrt(2)) / 2


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_levels_are_the_best_of_the_normal_law(bits: int) -> None:
    """Each level is the mean of its cell, each threshold half-way between levels: Lloyd's conditions."""
    edges = [0.0, *thresholds(bits), 40.0]
    shares = [_beyond(low) - _beyond(high) for low, high in pairwise(edges)]
    means = [
        (_density(low) - _density(high)) / share for (low, high), share in zip(pairwise(edges), shares, strict=True)
    ]
    assert LEVELS[bits] == pytest.approx(means, abs=1e-9)
    energy = 2 * sum(share * level**2 for share, level in zip(shares, LEVELS[bits], strict=True))
    assert DISTORTION[bits] == pytest.approx(1 - energy, abs=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_each_value_is_packed_as_its_nearest_level(bits: int) -> None:
    values = normal(1024)
    planes = np.empty((bits, 128), np.uint8)
    packer = Packer(bits, 1024)
    packer.pack(values.copy(), planes)
    found = np.empty(1024, np.float32)
    packer.levels(planes, found)
    levels = np.array([*(-level for level in LEVELS[bits]), *LEVELS[bits]], np.float32)
    assert np.array_equal(found, levels[np.abs(values[:, None] - levels).argmin(axis=1)])
