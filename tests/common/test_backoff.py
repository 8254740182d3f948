"""Back-off: growing, bounded, jittered, forgotten on success."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from argosy_common.backoff import Backoff


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_every_wait_is_within_its_bounds(seed: int, count: int) -> None:
    backoff = Backoff(random.Random(seed), base=0.5, cap=60.0, floor=0.05)
    for failure in range(count):
        assert 0.05 <= backoff.next() <= min(60.0, 0.5 * 2.0 ** min(failure, 32))


def test_two_devices_do_not_come_back_in_step() -> None:
    first, second = (Backoff(random.Random(seed)) for seed in (1, 2))
    assert [first.next() for _ in range(5)] != [second.next() for _ in range(5)]


def test_success_starts_over() -> None:
    backoff = Backoff(random.Random(0), base=0.5)
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.5
