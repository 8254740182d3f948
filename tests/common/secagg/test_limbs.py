"""Weights and metrics in limbs: sums are exact, and what honest clients cannot have sent is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.field import Field
from argosy_common.secagg.limbs import Limbs, Weighting

GROUPS = [(4, 251), (32, 251), (4, 65521), (64, 65521)]


@pytest.mark.parametrize(("n", "p", "bits", "weight_limbs"), [(32, 251, 3, 11), (32, 65521, 11, 3), (64, 65521, 10, 4)])
def test_widths_are_those_of_the_specification(n: int, p: int, bits: int, weight_limbs: int) -> None:
    """The table of section 4."""
    limbs = Limbs(n, p, 0)
    assert limbs.bits == bits
    assert limbs.count == weight_limbs + 1  # and the flag
    assert n * (2**bits - 1) <= p - 1


@given(st.data())
def test_the_sum_of_limbs_is_the_sum_of_numbers(data: st.DataObject) -> None:
    """For every group, weight and metric."""
    n, p = data.draw(st.sampled_from(GROUPS))
    limbs, cap = Limbs(n, p, 2), data.draw(st.integers(1, 2**32 - 1))
    weights = data.draw(st.lists(st.integers(0, cap), min_size=1, max_size=n))
    if not sum(weights):
        return
    values = [data.draw(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e-3, 1e-3))) for _ in weights]
    coded = [limbs.encode(w, capped=w == cap, cap=cap, metrics=v) for w, v in zip(weights, values, strict=True)]
    tally = limbs.decode(Field(p).total(coded), len(weights), cap)
    assert tally.weight == sum(weights)
    assert tally.capped == sum(w == cap for w in weights)
    for slot, mean in enumerate(tally.means):
        exact = math.fsum(w * v[slot] for w, v in zip(weights, values, strict=True)) / sum(weights)
        # each value is rounded to half a unit of 2^-32, once it is multiplied by w / cap
        assert mean == pytest.approx(exact, rel=1e-12, abs=len(weights) * 2**-33 * cap / sum(weights) + 1e-12)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 2.0**31, None], ids=str)
def test_a_metric_that_cannot_be_told_is_absent_from_the_whole_sum(odd: float | None) -> None:
    """A mean over some of the clients would be one over others than the weight says."""
    limbs = Limbs(4, 65521, 2)
    coded = [limbs.encode(1, capped=False, cap=1, metrics=[0.5, each]) for each in (1.0, odd, 2.0)]
    assert limbs.decode(Field(65521).total(coded), 3, 1).means == (0.5, None)


def test_sums_that_honest_clients_cannot_make_are_refused() -> None:
    """A digit above what so many clients can reach; weights above the cap; no weight at all."""
    limbs = Limbs(8, 65521, 0)
    honest = Field(65521).total([limbs.encode(3, capped=False, cap=4, metrics=[])] * 2)
    assert limbs.decode(honest, 2, 4).weight == 6
    with pytest.raises(ValueError, match="exceed the cap"):
        limbs.decode(honest, 2, 2)
    with pytest.raises(ValueError, match="weigh nothing"):
        limbs.decode(np.zeros_like(honest), 2, 4)
    huge = honest.copy()
    huge[0] = 2 * (2**limbs.bits - 1) + 1
    with pytest.raises(ValueError, match="not one of honest clients"):
        limbs.decode(huge, 2, 4)
    with pytest.raises(ValueError, match="not one of honest clients"):
        limbs.decode(honest[:-1], 2, 4)


def test_weights_are_rounded_as_the_run_says() -> None:
    """Powers of two by default: exact ones give every client's number away after some rounds."""
    assert Weighting.POWERS.of(300, 1024) == (256, False)
    assert Weighting.POWERS.of(400, 1024) == (512, False)
    assert Weighting.POWERS.of(1e9, 1024) == (1024, True)
    assert Weighting.EXACT.of(300, 1024) == (300, False)
    assert Weighting.EQUAL.of(300, 1) == (1, False)
    assert {each.of(0, 1024) for each in Weighting} == {(0, False)}
    for odd in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="number of examples"):
            Weighting.POWERS.of(odd, 1024)
