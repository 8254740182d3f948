"""Decodes are right on average, and the errors of several senders have nothing to do with one another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from argosy_common.codec.lloyd_max import eden_nmse
from argosy_common.codec.registry import get_codec
from tests.common.codec.codes import nmse, normal, there_and_back
from tests.common.codec.vectors import EDEN, heavy

TIMES = 400


def mean_of_decodes(name: str, values: NDArray[np.float32], times: int) -> NDArray[np.float64]:
    codec = get_codec(name)
    total = np.zeros(len(values))
    for seed in range(times):
        total += there_and_back(codec, values, seed)
    return total / times


@pytest.mark.parametrize("name", EDEN)
@pytest.mark.parametrize("law", ["normal", "heavy tails"])
def test_the_mean_of_many_decodes_approaches_the_vector(name: str, law: str) -> None:
    """Without bias its squared error is the n-th part of one decode's, and chi-square with 4096 degrees of freedom.

    That has a standard deviation of 2.2 %; the bound is six of them, and 3 % more for how well one decode's error is
    known. A bias of 1.6 % of the vector is seen at one bit, of 0.2 % at four.
    """
    values = (normal if law == "normal" else heavy)(4096)
    single = float(np.mean([nmse(there_and_back(get_codec(name), values, 1000 + seed), values) for seed in range(20)]))
    mean = mean_of_decodes(name, values, TIMES)
    ratio = float(np.sum(np.square(mean - values)) / np.sum(np.square(values.astype(np.float64)))) * TIMES / single
    assert ratio == pytest.approx(1, abs=6 * np.sqrt(2 / 4096) + 0.03)


@pytest.mark.parametrize("name", EDEN)
def test_the_length_along_the_vector_is_exact_in_every_decode(name: str) -> None:
    """⟨decode, x⟩ = ‖x‖²: what makes EDEN's scale unbiased is seen at once and needs no average."""
    values = heavy(4096)
    exact = values.astype(np.float64)
    for seed in range(20):
        assert there_and_back(get_codec(name), values, seed) @ exact == pytest.approx(exact @ exact, rel=1e-5)


def test_each_value_of_int8_is_right_on_average() -> None:
    """A value between two whole numbers of units, at f from the lower, is binomial: variance f(1−f)·unit²."""
    values = normal(2000)
    units = np.repeat([np.abs(values[at : at + 256]).max() / 127.0 for at in range(0, 2000, 256)], 256)[:2000]
    fraction = np.mod(values / units, 1)
    apart = (fraction > 0.05) & (fraction < 0.95)  # where 400 draws are close to normal
    deviation = (units * np.sqrt(fraction * (1 - fraction) / TIMES))[apart]
    off = (mean_of_decodes("int8", values, TIMES) - values)[apart] / deviation
    assert np.abs(off).max() < 6
    assert abs(np.sum(np.square(off)) - len(off)) < 6 * np.sqrt(2 * len(off))


@pytest.mark.parametrize("name", [*EDEN, "int8"])
def test_errors_of_two_senders_are_uncorrelated(name: str) -> None:
    """The cosine between two independent errors of d coordinates has a standard deviation of 1/√d."""
    values = normal(1 << 15)
    first, second = (there_and_back(get_codec(name), values, seed).astype(np.float64) - values for seed in (1, 2))
    assert abs(first @ second) / (np.linalg.norm(first) * np.linalg.norm(second)) < 6 / np.sqrt(1 << 15)


@pytest.mark.parametrize("name", EDEN)
def test_errors_of_one_rotation_do_not_average_out(name: str) -> None:
    """Why each sender draws its own: under the same randomness equal updates have equal errors."""
    values = normal(4096)
    mean = np.mean([there_and_back(get_codec(name), values, 5) for _ in range(8)], axis=0)
    assert nmse(mean, values) == pytest.approx(eden_nmse(int(name[-1])), rel=0.15)


@pytest.mark.parametrize("name", EDEN)
@pytest.mark.parametrize("senders", [4, 32])
def test_the_error_of_a_mean_of_different_vectors_falls_with_their_number(name: str, senders: int) -> None:
    """As in a round: every sender's update is another, with its own rotation."""
    codec = get_codec(name)
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(1 << 14, dtype=np.float32) for _ in range(senders)]
    decoded = [there_and_back(codec, vector, seed) for seed, vector in enumerate(vectors)]
    error = np.mean(decoded, axis=0, dtype=np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    assert np.mean(np.square(error)) == pytest.approx(eden_nmse(int(name[-1])) / senders, rel=0.1)
