"""Sums of ring codes: their error against theory, blocks that wrap, false flags, and the law of single codes."""

from __future__ import annotations

import hashlib
import warnings
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.codec.base import Vector
from argosy_common.codec.hadamard import BLOCK, Rotation, block_count
from argosy_common.codec.ring import MARGIN, Ring, RingRound, RingSum, next_scales
from argosy_common.prg import derive
from tests.common.codec.codes import nmse, noise, normal, seeded
from tests.common.codec.vectors import SMALL, same_each_time

PRIMES = (65521, 251)


def updates(size: int, clients: int) -> list[Vector]:
    """Return updates that have something in common."""
    rng = np.random.default_rng(7)
    common = rng.standard_normal(size, dtype=np.float32)
    return [common + rng.standard_normal(size, dtype=np.float32) for _ in range(clients)]


def summed(codec: Ring, shared: RingRound, vectors: list[Vector]) -> RingSum:
    codes = [codec.encode_shared(vector, shared, client, noise(client)) for client, vector in enumerate(vectors)]
    return codec.decode_sum(codec.add(codes), shared)


VARIANCE = {65521: 6, 251: 12}
"""One over the variance of a code's rounding error, in steps: at random, and after a dither that comes off."""


def rotation_of(shared: RingRound) -> Rotation:
    """Return the rotation that a round's seed makes."""
    return Rotation(int.from_bytes(derive(shared.seed, "argosy/ring/rotation")[:8], "big"), shared.size)


def mean_of(vectors: list[Vector]) -> Vector:
    mean: Vector = np.stack(vectors).astype(np.float64).mean(axis=0).astype(np.float32)
    return mean


def settled(codec: Ring, vectors: list[Vector], seed: int = 3) -> RingRound:
    """Return a round whose scales come from a round before it, with the same updates."""
    first = RingRound.first(seeded(seed), len(vectors[0]), len(vectors), bound=2.0)
    return RingRound(seeded(seed + 1), first.size, first.clients, next_scales(first, summed(codec, first, vectors)))


@lru_cache(maxsize=4)
def small_round(p: int) -> tuple[Ring, RingRound, list[Vector]]:
    """Five blocks, the last one short, and four clients."""
    vectors = updates(4 * BLOCK + 70, 4)
    return Ring(p), settled(Ring(p), vectors), vectors


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("clients", [8, 32])
def test_the_error_of_the_mean_is_what_theory_says(p: int, clients: int) -> None:
    codec = Ring(p)
    vectors = updates(100_000, clients)
    seen = summed(codec, settled(codec, vectors), vectors)
    theory = clients * (2 * codec.k * MARGIN) ** 2 / (VARIANCE[p] * p**2)
    assert not seen.flagged.any()
    assert nmse(seen.mean, mean_of(vectors)) == pytest.approx(theory, rel=0.05)


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("size", SMALL)
def test_every_size_decodes_within_six_deviations(p: int, size: int) -> None:
    codec, vectors = Ring(p), updates(size, 3)
    seen = summed(codec, RingRound.first(seeded(5), size, 3, bound=2.0), vectors)
    assert seen.flagged.shape == seen.spreads.shape == (block_count(size),)
    assert not seen.flagged.any()
    step = 2 * codec.k * 6.0 / p
    assert np.abs(seen.mean - mean_of(vectors)).max(initial=0) <= 6 * step * np.sqrt(3 / VARIANCE[p]) / 3 + 1e-5


@pytest.mark.parametrize("p", PRIMES)
@same_each_time
@given(st.permutations(range(4)), st.integers(1, 3))
def test_order_and_grouping_of_the_additions_do_not_matter(p: int, order: list[int], split: int) -> None:
    codec, shared, vectors = small_round(p)
    codes = [codec.encode_shared(vector, shared, client, noise(client)) for client, vector in enumerate(vectors)]
    some = [codes[client] for client in order]
    assert np.array_equal(codec.add([codec.add(some[:split]), codec.add(some[split:])]), codec.add(codes))


@pytest.mark.parametrize("p", PRIMES)
def test_masks_that_cancel_leave_the_sum_as_it_is(p: int) -> None:
    codec, shared, vectors = small_round(p)
    codes = [codec.encode_shared(vector, shared, client, noise(client)) for client, vector in enumerate(vectors)]
    mask = np.random.default_rng(2).integers(0, p, len(codes[0]))
    masked = [
        codec.add([codes[0], mask.astype(codec.dtype)]),
        codec.add([codes[1], ((p - mask) % p).astype(codec.dtype)]),
        *codes[2:],
    ]
    assert np.array_equal(codec.add(masked), codec.add(codes))


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("factor", [3.0, 10.0, 1e3, 1e6])
def test_a_block_that_outgrew_its_scale_is_flagged_and_costs_no_other(p: int, factor: float) -> None:
    codec, shared, vectors = small_round(p)
    usual = summed(codec, shared, vectors)
    larger = [vector.copy() for vector in vectors]
    for vector in larger:
        vector[BLOCK : 2 * BLOCK] *= np.float32(factor)
    seen = summed(codec, shared, larger)
    assert seen.flagged.tolist() == [False, True, False, False, False]
    assert not seen.mean[BLOCK : 2 * BLOCK].any()
    others = np.arange(shared.size) // BLOCK != 1
    assert np.array_equal(seen.mean[others], usual.mean[others])
    scales, unhurt = next_scales(shared, seen), next_scales(shared, usual)
    assert scales[1] == 2 * shared.scales[1]
    assert np.allclose(np.delete(scales, 1), np.delete(unhurt, 1), rtol=1e-6)


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize(("share", "flagged"), [(0.9, False), (0.99, True), (-0.9, False), (-0.99, True)])
def test_a_coordinate_at_the_edge_is_flagged_though_it_did_not_wrap(p: int, share: float, flagged: bool) -> None:
    """Of the three signs only this one shows: the block is small and its projections agree."""
    codec, shared = Ring(p), RingRound.first(seeded(9), BLOCK, 1, bound=1.0)
    rotated = np.zeros((1, BLOCK), np.float32)
    rotated[0, 77] = share * codec.k  # ±p/2 is k times the scale
    values = rotation_of(shared).restore(rotated).reshape(-1).copy()
    assert summed(codec, shared, [values]).flagged.tolist() == [flagged]


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("magnitude", [1e6, 1e9, 1e20, 1e30])
def test_a_huge_spike_is_flagged_and_leaves_scales_finite(p: int, magnitude: float) -> None:
    codec, shared, vectors = small_round(p)
    spiked = [vector.copy() for vector in vectors]
    spiked[0][2 * BLOCK + 9] += np.float32(magnitude)
    seen = summed(codec, shared, spiked)
    assert seen.flagged.tolist() == [False, False, True, False, False]
    assert np.isfinite(seen.mean).all()
    assert np.isfinite(next_scales(shared, seen)).all()


@pytest.mark.parametrize("p", PRIMES)
def test_a_doubled_scale_catches_up_with_a_block_that_grew(p: int) -> None:
    codec, shared, vectors = small_round(p)
    larger = [vector.copy() for vector in vectors]
    for vector in larger:
        vector[:BLOCK] *= 30
    wrapped = 0
    for turn in range(10):
        seen = summed(codec, shared, larger)
        if not seen.flagged.any():
            break
        wrapped += 1
        assert seen.flagged.tolist() == [True, False, False, False, False]
        shared = RingRound(seeded(50 + turn), shared.size, shared.clients, next_scales(shared, seen))
    assert 3 <= wrapped <= 6
    assert nmse(seen.mean, mean_of(larger)) < 1e-2


@pytest.mark.parametrize("p", PRIMES)
def test_nothing_is_flagged_for_nothing(p: int) -> None:
    codec, shared, vectors = small_round(p)
    for seed in range(100, 160):
        again = RingRound(seeded(seed), shared.size, shared.clients, shared.scales)
        assert not summed(codec, again, vectors).flagged.any()


@pytest.mark.parametrize("p", PRIMES)
def test_zero_blocks_among_others_may_move_again(p: int) -> None:
    codec, size = Ring(p), 3 * BLOCK
    vectors = updates(size, 4)
    still = [vector.copy() for vector in vectors]
    for vector in still:
        vector[BLOCK : 2 * BLOCK] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = settled(codec, still)
        seen = summed(codec, shared, still)
        assert np.all(shared.scales > 0)
        assert np.isfinite(seen.mean).all()
        assert not seen.flagged.any()
        for turn in range(20):
            seen = summed(codec, shared, vectors)
            shared = RingRound(seeded(60 + turn), size, 4, next_scales(shared, seen))
    assert not seen.flagged.any()
    assert nmse(seen.mean, mean_of(vectors)) < 1e-2


@pytest.mark.parametrize("p", PRIMES)
def test_one_zero_scale_silences_its_block_only_and_for_one_round(p: int) -> None:
    codec, shared, vectors = small_round(p)
    scales = shared.scales.copy()
    scales[3] = 0
    dead = RingRound(shared.seed, shared.size, shared.clients, scales)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = summed(codec, dead, vectors)
        assert next_scales(dead, seen)[3] > 0
    assert not seen.flagged.any()
    assert not seen.mean[3 * BLOCK : 4 * BLOCK].any()
    assert nmse(seen.mean[: 3 * BLOCK], mean_of(vectors)[: 3 * BLOCK]) < 1e-2


@pytest.mark.parametrize("p", PRIMES)
def test_next_scales_are_the_spread_with_a_margin(p: int) -> None:
    codec, shared, vectors = small_round(p)
    blocks = np.sum(vectors, axis=0)[: 4 * BLOCK].reshape(4, BLOCK)
    spreads = np.sqrt(np.mean(np.square(blocks), axis=1))
    assert next_scales(shared, summed(codec, shared, vectors))[:4] == pytest.approx(MARGIN * spreads, rel=0.02)


def test_where_every_block_wrapped_every_scale_doubles_without_a_warning() -> None:
    shared = RingRound.first(seeded(1), 2 * BLOCK, 2, bound=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = summed(Ring(251), shared, [normal(2 * BLOCK) * np.float32(1e6)] * 2)
        assert seen.flagged.all()
        assert np.array_equal(next_scales(shared, seen), 2 * shared.scales)


def test_scales_never_outgrow_what_a_round_takes() -> None:
    largest = np.where(np.arange(BLOCK) % 3, 1e30, -1e30).astype(np.float32)
    shared = RingRound(seeded(1), BLOCK, 2, np.full(1, 9e29, np.float32))
    seen = summed(Ring(251), shared, [largest, largest])
    assert seen.flagged.all()
    assert RingRound(seeded(2), BLOCK, 2, next_scales(shared, seen)).scales[0] == np.float32(1e30)


@pytest.mark.parametrize("p", PRIMES)
def test_codes_are_uniform_where_a_value_goes_round_many_times(p: int) -> None:
    """Pearson's test on 16 equal parts of the range; beyond 50 once in 10^5, with 15 degrees of freedom."""
    codes = Ring(p).encode_shared(normal(1 << 17), RingRound.first(seeded(2), 1 << 17, 1, bound=1e-4), 0, noise(0))
    edges = np.linspace(0, p, 17)
    expected = np.histogram(np.arange(p), bins=edges)[0] / p * len(codes)
    counts = np.histogram(codes, bins=edges)[0]
    assert float(np.sum(np.square(counts - expected) / expected)) < 50


def test_each_clients_dither_is_its_own_so_that_errors_of_equal_updates_do_not_add_up() -> None:
    codec, values = Ring(251), normal(1 << 16)
    shared = RingRound.first(seeded(6), len(values), 2, bound=1.0)
    first, second = (codec.encode_shared(values, shared, client, noise(client)) for client in range(2))
    assert np.mean(first != second) > 0.1
    step = 2 * codec.k * 2.0 / 251
    error = 2 * (summed(codec, shared, [values, values]).mean - values)
    assert np.mean(np.square(error)) == pytest.approx(2 * step**2 / 12, rel=0.05)


@pytest.mark.parametrize("p", PRIMES)
def test_the_sum_is_unbiased(p: int) -> None:
    """Each coordinate's mean error over many rounds, in standard deviations of it."""
    codec, size, rounds = Ring(p), 1000, 200
    values = normal(size)
    decoded = []
    for turn in range(rounds):
        shared = RingRound.first(seeded(turn), size, 1, bound=1.5)
        decoded.append(codec.decode_sum(codec.encode_shared(values, shared, 0, noise(turn)), shared).mean)
    step = 2 * codec.k * 1.5 / p
    off = (np.mean(decoded, axis=0, dtype=np.float64) - values) / (step / np.sqrt(VARIANCE[p] * rounds))
    assert np.abs(off).max() < 6
    assert abs(np.sum(np.square(off)) - size) < 6 * np.sqrt(2 * size)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 2e30])
def test_a_round_of_absurd_scales_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        RingRound(seeded(1), 100, 2, np.full(1, scale, np.float32))


def test_a_round_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        RingRound(seeded(1), BLOCK + 1, 2, np.ones(1, np.float32))
    for clients in (0, -1, 4097):
        with pytest.raises(ValueError, match="clients"):
            RingRound(seeded(1), 1, clients, np.ones(1, np.float32))


@pytest.mark.parametrize("p", PRIMES)
@same_each_time
@given(st.integers(0, 2**32), st.sampled_from([1, 64, 65, 300, 4097]))
def test_any_sum_decodes_to_finite_values(p: int, seed: int, size: int) -> None:
    codec, rng = Ring(p), np.random.default_rng(seed)
    scales = np.power(10.0, rng.uniform(-44, 29, block_count(size))).astype(np.float32)
    shared = RingRound(rng.bytes(32), size, 3, scales)
    seen = codec.decode_sum(rng.integers(0, p, codec.code_count(size)).astype(codec.dtype), shared)
    assert np.isfinite(seen.mean).all()
    assert np.isfinite(seen.spreads).all()


def test_codes_take_one_byte_where_p_allows_and_four_more_a_block() -> None:
    assert (Ring(251).dtype, Ring(257).dtype, Ring(65521).dtype) == (np.uint8, np.uint16, np.uint16)
    assert [Ring(251).code_count(size) for size in (0, 1, 64, 65, 4096, 4097)] == [0, 68, 68, 132, 4100, 4168]


@pytest.mark.parametrize("p", PRIMES)
def test_the_codes_are_as_they_were(p: int) -> None:
    """Whole numbers in a block of 64 rotate to whole eighths without any rounding, so that every machine agrees."""
    values = np.random.default_rng(7).integers(-8, 9, 64).astype(np.float32)
    rotated = rotation_of(RingRound.first(seeded(7), 64, 3, 1.0)).rotate(values.reshape(1, -1))
    assert np.array_equal(rotated * 8, np.rint(rotated * 8))
    codes = Ring(p).encode_shared(values, RingRound(seeded(7), 64, 3, np.full(1, 16.0, np.float32)), 1, noise(1))
    assert hashlib.sha256(codes.astype(f"<u{codes.itemsize}").tobytes()).hexdigest()[:32] == GOLDEN[p]


GOLDEN = {65521: "32d8565e7a1eb8dda68214f8df5c991a", 251: "9ee81d9718dd5e25c1c638faa588b668"}
"""The first half of the SHA-256 of the codes."""


@pytest.mark.parametrize("clients", [1, 4, 64])
def test_two_digits_need_no_good_guess(clients: int) -> None:
    """With scales a thousand times too large one digit is noise; two are nearly exact."""
    codec, size = Ring(65521), 4096 + 100
    vectors = updates(size, clients)
    guess = np.full(2, 1500.0 * clients, np.float32)
    noisy = summed(codec, RingRound(seeded(1), size, clients, guess), vectors)
    exact = summed(codec, RingRound(seeded(1), size, clients, guess, digits=2), vectors)
    assert nmse(exact.mean, mean_of(vectors)) < 1e-6 < nmse(noisy.mean, mean_of(vectors)) / 1000
    assert not exact.flagged.any()
    assert exact.spreads[0] == pytest.approx(np.sqrt(clients + clients**2), rel=0.05)


def test_two_digits_flag_what_wraps_and_a_scale_that_was_a_guess_grows_fast() -> None:
    """By 16 where the spread was never known, by 2 where it was."""
    codec, size = Ring(65521), 2 * BLOCK
    vectors = [np.concatenate([normal(BLOCK), 100 * normal(BLOCK)]).astype(np.float32)]
    shared = RingRound(seeded(1), size, 1, np.full(2, 1.5, np.float32), digits=2)
    seen = summed(codec, shared, vectors)
    assert seen.flagged.tolist() == [False, True]
    assert nmse(seen.mean[:BLOCK], vectors[0][:BLOCK]) < 1e-10
    assert next_scales(shared, seen, np.array([False, False]))[1] == 16 * shared.scales[1]
    assert next_scales(shared, seen, np.array([True, True]))[1] == 2 * shared.scales[1]


def test_a_round_without_values_has_no_codes() -> None:
    """As an evaluation, where only metrics are summed."""
    codec, shared = Ring(251), RingRound(seeded(1), 0, 4, np.empty(0, np.float32))
    codes = codec.encode_shared(np.empty(0, np.float32), shared, 0, noise(0))
    seen = codec.decode_sum(codes, shared, [0, 2])
    assert (len(codes), len(seen.mean), len(next_scales(shared, seen))) == (0, 0, 0)


def test_seeds_and_digits_that_are_none_are_refused() -> None:
    """They come from another machine."""
    for seed, digits in ((b"short", 1), (seeded(1), 3), (seeded(1), 0)):
        with pytest.raises(ValueError, match="digit"):
            RingRound(seed, 1, 1, np.ones(1, np.float32), digits=digits)
