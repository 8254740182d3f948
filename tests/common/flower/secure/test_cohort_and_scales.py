"""Groups, the ledger of attempts, and scales from round to round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.codec.ring import MARGIN, RingRound, RingSum
from argosy_common.errors import SecureMessageMalformed
from argosy_common.flower.secure.cohort import in_groups
from argosy_common.flower.secure.scales import Scales
from argosy_common.secagg.messages import Prekey
from argosy_common.secagg.sealing import fingerprint
from argosy_common.secure_ledger import Attempt, Ledger


def prekeys(count: int) -> dict[int, Prekey]:
    """Prekeys of nodes 0 … count − 1; nobody looks at their signatures here."""
    return {
        node: Prekey(identity=node.to_bytes(40, "big"), key=bytes(32), signature=bytes(64)) for node in range(count)
    }


def prints(*nodes: int) -> tuple[bytes, ...]:
    """Their fingerprints."""
    return tuple(fingerprint(prekeys(200)[node].identity) for node in nodes)


@given(st.integers(0, 200), st.sampled_from([(65521, 64), (251, 32)]))
def test_groups_are_within_bounds_and_of_nearly_equal_size(count: int, prime: tuple[int, int]) -> None:
    """Nobody is in two, nobody is left out unless there are fewer than four."""
    p, most = prime
    groups = [cohort.nodes for cohort in in_groups(prekeys(count), p, [])]
    sizes = [len(nodes) for nodes in groups]
    assert all(4 <= size <= most for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert sorted(node for nodes in groups for node in nodes) == (list(range(count)) if count >= 4 else [])


def test_groups_are_drawn_anew_but_those_of_an_earlier_attempt_stay_together() -> None:
    """Each group's set must be the same again."""
    attempt = Attempt(sid=bytes(32), attempt=0, members=prints(1, 3, 5, 7, 199))
    first, *others = in_groups(prekeys(100), 65521, [attempt])
    assert first.nodes == (1, 3, 5, 7)
    assert first.before == attempt
    assert all(cohort.before is None for cohort in others)
    draws = {in_groups(prekeys(100), 65521, [])[0].nodes for _ in range(5)}
    assert len(draws) > 1


@pytest.mark.parametrize("on_disk", [True, False])
def test_the_ledger_keeps_the_last_attempt_of_each_group(tmp_path: Path, *, on_disk: bool) -> None:
    """Also for the next coordinator process, where it has a folder."""
    folder = tmp_path / "secure" if on_disk else None
    ledger = Ledger(folder)
    one = Attempt(sid=b"1" * 32, attempt=0, members=prints(1, 2))
    other = Attempt(sid=b"2" * 32, attempt=0, members=prints(3, 4))
    certified = Attempt(sid=b"1" * 32, attempt=0, members=prints(1, 2), root=bytes(32), certificate=b"c")
    again = Attempt(sid=b"3" * 32, attempt=1, members=prints(1, 2))
    for each in (one, other, certified):
        ledger.write(b"i" * 32, each)
    assert set(ledger.attempts(b"i" * 32)) == {other, certified}
    ledger.write(b"i" * 32, again)
    assert ledger.attempts(b"i" * 32) == (certified, other, again)
    again = again.changed(root=bytes(32))
    ledger.write(b"i" * 32, again)
    assert ledger.attempts(b"j" * 32) == ()
    if folder is not None:
        assert set(Ledger(folder).attempts(b"i" * 32)) == {other, again}
        (folder / (b"i" * 32).hex()).write_bytes(b"damaged")
        with pytest.raises(SecureMessageMalformed, match="ledger"):
            Ledger(folder).attempts(b"i" * 32)


def seen(spread: float, *, flagged: bool = False, clients: int = 4) -> tuple[RingRound, RingSum]:
    """A round of one block, and what its sum looked like."""
    shared = RingRound(bytes(32), 100, clients, np.full(1, 0.4, np.float32))
    return shared, RingSum(np.zeros(100, np.float32), np.array([flagged]), np.full(1, spread, np.float32), clients)


def test_the_first_round_is_wide_and_fine_and_the_others_follow_what_was_seen() -> None:
    """With the small prime as soon as every block is known."""
    scales = Scales(251, bound=0.1)
    assert scales.start(100) == (65521, 2)
    assert scales.of(100, 4) == pytest.approx(0.4)
    scales.learn([seen(0.02)])
    assert scales.start(100) == (251, 1)
    assert scales.of(100, 8) == pytest.approx(2 * 0.02 * MARGIN)
    assert scales.start(0) == (251, 1)
    assert len(scales.of(0, 4)) == 0


def test_a_block_that_never_decoded_grows_fast_and_the_widest_group_counts() -> None:
    """16 times, until it is known; then twice."""
    scales = Scales(65521, bound=0.1)
    scales.start(100)
    scales.learn([seen(5.0, flagged=True)])
    assert scales.start(100) == (65521, 2)
    assert scales.of(100, 4) == pytest.approx(16 * 0.4)
    scales.learn([seen(0.02), seen(0.08)])
    assert scales.start(100) == (65521, 1)
    assert scales.of(100, 4) == pytest.approx(0.08 * MARGIN)
    scales.learn([seen(9.0, flagged=True)])
    assert scales.of(100, 4) == pytest.approx(2 * 0.4)  # of the round that wrapped
    scales.learn([])


def test_another_model_begins_anew() -> None:
    """Another number of blocks."""
    scales = Scales(65521, bound=0.1)
    scales.start(100)
    scales.learn([seen(0.02)])
    assert scales.start(5000) == (65521, 2)
