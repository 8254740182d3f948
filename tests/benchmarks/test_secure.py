"""The benchmark of secure aggregation: both sides compute the mean they are timed for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cpu import Cpu
from benchmarks.secagg_plus import run_secagg_plus
from benchmarks.secure import Case, updates
from benchmarks.secure_round import Group

CASE = Case(6, 5000, 1)


def spin() -> None:
    """Use the CPU for longer than its clock's step."""
    for _ in range(20):
        np.sort(np.arange(50_000)[::-1])


def test_time_is_counted_for_whose_turn_it_is() -> None:
    """A turn inside a turn is not counted twice, and nobody's is not counted at all."""
    cpu = Cpu()
    with cpu.of("server"):
        spin()
        outside = cpu.seconds.copy()
        with cpu.of(3):
            spin()
        with cpu.of(None):
            before = cpu.seconds["server"]
            spin()
            assert cpu.seconds["server"] == before
    assert not outside
    assert set(cpu.seconds) == {"server", 3}
    assert all(seconds > 0 for seconds in cpu.seconds.values())


@pytest.mark.parametrize("dropping", [0, 1])
def test_flowers_secagg_plus_returns_the_mean_of_those_that_stay(dropping: int) -> None:
    """By its own workflow and mod."""
    vectors = updates(CASE)
    found = run_secagg_plus(vectors, 5, dropping)
    assert np.allclose(found.mean, np.mean(vectors[: CASE.n - dropping], axis=0), atol=1e-5)
    assert found.messages == 4
    assert found.bytes_up > 8 * CASE.d
    assert found.client_s > 0
    assert found.server_s > 0


def test_a_round_that_too_few_are_left_for_is_said_to_be_given_up() -> None:
    """The benchmark then leaves its bars out."""
    with pytest.raises(RuntimeError, match="gave the round up"):
        run_secagg_plus(updates(CASE), 5, 2)


@pytest.mark.parametrize(("p", "error"), [(65521, 1e-6), (251, 0.01)])
@pytest.mark.parametrize("dropping", [0, 1])
def test_rounds_of_ours_return_the_mean_of_those_that_stay(p: int, error: float, dropping: int) -> None:
    """With the scales of a second round."""
    vectors = updates(CASE)
    found = Group(vectors, dropping).rounds(p, 1)
    exact = np.mean(vectors[: CASE.n - dropping], axis=0, dtype=np.float64)
    assert np.sum(np.square(found.sum.mean - exact)) <= error * np.sum(np.square(exact))
    assert not found.sum.ring.flagged.any()
    assert found.sum.checked is (dropping == 0)
    assert min(found.client_s, found.holder_s, found.server_s) > 0
    assert found.bytes_up < 8 * CASE.d
