"""When a certificate is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from argosy_common.renewal import Standing

LIVES = st.floats(10, 1e8)
SHARES = st.floats(0, 1)


@given(LIVES, SHARES, SHARES)
def test_it_is_due_from_two_thirds_of_its_life_and_long_before_its_end(life: float, over: float, jitter: float) -> None:
    standing = Standing(left_s=life * (1 - over), life_s=life)
    due_at = (life * over + standing.due_in_s(jitter)) / life
    assert 2 / 3 - 1e-6 <= due_at <= 3 / 4 + 1e-6
    assert standing.ended == (over >= 1)


@given(LIVES, SHARES)
def test_one_that_has_ended_is_due(life: float, jitter: float) -> None:
    assert Standing(left_s=-life, life_s=life).due_in_s(jitter) < 0
