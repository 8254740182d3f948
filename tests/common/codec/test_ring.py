from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from argosy_common.codec.base import Vector
from argosy_common.codec.hadamard import Group
from argosy_common.codec.ring import Ring, RingRound, RingSum, next_scales
from argosy_common.codec.ring_grid import Dither, Walk
from argosy_common.prg import Suite
from tests.common.codec.codes import nmse, noise, normal, rng, seeded
from tests.common.codec.vectors import same_each_time

PRIMES = (65521, 251)
SIZE = 2 * 4096 + 500


def updates(clients: int, size: int = SIZE) -> list[Vector]:
    """Return updates that agree in part."""
    common = normal(size, 99)
    return [common + normal(size, client) * np.float32(0.5) for client in range(clients)]


def summed(codec: Ring, shared: RingRound, given: dict[int, Vector]) -> RingSum:
    """Return what the sum of these clients' codes decodes to."""
    total = codec.add([codec.encode_shared(values, shared, client, noise(client)) for client, values in given.items()])
    return codec.decode_sum(total, shared, list(given))


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("size", [0, 1, 64, 4096, 4097, SIZE])
def test_the_sum_of_codes_decodes_to_the_mean_of_updates(p: int, size: int) -> None:
    given = dict(enumerate(updates(5, size)))
    found = summed(Ring(p), RingRound.first(seeded(3), size, 5, 1.6), given)
    assert found.mean.shape == (size,)
    assert not found.flagged.any()
    if size:
        assert nmse(found.mean, np.mean(list(given.values()), axis=0)) <= (1e-5 if p == 65521 else 0.05)


def layered(clients: int) -> list[Vector]:
    """Return heavy-tailed updates (Student's t, no kurtosis at all) of layers whose spreads differ a hundred times."""
    spread = np.repeat(np.array([1, 0.01, 10], np.float32), [4096 + 300, 4096 - 300, SIZE - 2 * 4096])
    return [rng(client).standard_t(3, SIZE).astype(np.float32) * spread for client in range(clients)]


@pytest.mark.parametrize(("p", "bound"), [(65521, 1e-6), (251, 1e-2)])
@pytest.mark.parametrize("made", [updates, layered])
@pytest.mark.parametrize("there", [32, 24])
def test_with_scales_from_the_round_before_the_error_is_within_its_bar(
    p: int, bound: float, made: Callable[[int], list[Vector]], there: int
) -> None:
    """Also where a quarter of 32 clients drop out, whose share of the scales is then wasted.

    The round before is one of two digits at the large prime, as a run's first is.
    """
    given = dict(enumerate(made(32)))
    guess = RingRound(seeded(3), SIZE, 32, np.full(3, 32 * 20, np.float32), digits=2)
    shared = RingRound(seeded(4), SIZE, 32, next_scales(guess, summed(Ring(65521), guess, given)))
    given = dict(list(given.items())[:there])
    found = summed(Ring(p), shared, given)
    assert not found.flagged.any()
    assert nmse(found.mean, np.mean(list(given.values()), axis=0)) <= bound


def test_the_mean_of_those_who_are_there_decodes_when_others_drop_out() -> None:
    codec, all_of_them = Ring(65521), updates(6)
    there = {client: all_of_them[client] for client in (4, 0, 3)}
    shared = RingRound.first(seeded(3), SIZE, 6, 1.6)
    found = summed(codec, shared, there)
    assert nmse(found.mean, np.mean(list(there.values()), axis=0)) <= 1e-5
    full = summed(codec, shared, dict(enumerate(all_of_them)))
    assert next_scales(shared, found) == pytest.approx(next_scales(shared, full), rel=0.2)


@pytest.mark.parametrize("p", PRIMES)
def test_a_spike_of_any_size_is_decoded_or_flagged(p: int) -> None:
    """Also one of a whole number of turns, after which every coordinate looks small."""
    codec, draw = Ring(p), rng()
    shared = RingRound(seeded(3), 4096, 2, np.ones(1, np.float32))
    turn = 64 * 2 * codec.k
    for height in (*(turn * whole for whole in (1, 2, 3, 7, 2**10, 2**12)), *(turn * draw.uniform(0.05, 4, 60)), 1e29):
        spike = np.zeros(4096, np.float32)
        spike[draw.integers(4096)] = height
        other = normal(4096) * np.float32(0.25)
        found = summed(codec, shared, {0: spike, 1: other})
        if found.flagged[0]:
            assert not found.mean.any()
        else:
            assert nmse(found.mean * np.float32(2), spike + other) <= 0.05


def test_one_wrapped_block_counts_as_zero_and_its_scale_doubles() -> None:
    codec, values = Ring(65521), normal(SIZE)
    values[4096:8192] *= 1000
    shared = RingRound.first(seeded(3), SIZE, 1, 1.2)
    found = summed(codec, shared, {0: values})
    assert found.flagged.tolist() == [False, True, False]
    assert not found.mean[4096:8192].any()
    assert nmse(found.mean[:4096], values[:4096]) <= 1e-6
    assert next_scales(shared, found)[1] == 2 * shared.scales[1]


def test_scales_are_found_again_when_every_block_wrapped() -> None:
    codec, values = Ring(65521), normal(SIZE)
    shared = RingRound.first(seeded(3), SIZE, 1, 1e-3)
    for turn in range(20):
        found = summed(codec, shared, {0: values})
        if not found.flagged.any():
            break
        shared = RingRound(seeded(turn), SIZE, 1, next_scales(shared, found))
    assert nmse(found.mean, values) <= 1e-6


def test_zeros_stay_zeros_and_scales_stay() -> None:
    codec = Ring(251)
    shared = RingRound.first(seeded(3), SIZE, 3, 1.0)
    found = summed(codec, shared, dict.fromkeys(range(3), np.zeros(SIZE, np.float32)))
    assert not found.flagged.any()
    assert np.abs(found.mean).max() <= 0.1 * shared.scales[0]
    assert np.isfinite(next_scales(shared, found)).all()


def test_a_block_of_no_scale_gives_zeros_and_no_nan() -> None:
    shared = RingRound(seeded(3), 100, 1, np.zeros(1, np.float32))
    found = summed(Ring(251), shared, {0: np.zeros(100, np.float32)})
    assert not found.mean.any()
    assert np.array_equal(next_scales(shared, found), shared.scales)


@pytest.mark.parametrize("p", PRIMES)
def test_single_codes_look_uniform_and_are_below_p(p: int) -> None:
    codec = Ring(p)
    codes = codec.encode_shared(normal(SIZE) * np.float32(1e6), RingRound.first(seeded(3), SIZE, 1, 1.0), 0, noise(0))
    assert codes.dtype == (np.uint8 if p == 251 else np.uint16)
    assert codes.shape == (codec.code_count(SIZE),)
    assert codes.max() < p


def test_what_is_no_sum_of_the_round_is_refused() -> None:
    codec, shared = Ring(251), RingRound.first(seeded(3), SIZE, 2, 1.0)
    good = codec.encode_shared(normal(SIZE), shared, 0, noise(0))
    too_large = good.copy()
    too_large[-1] = 251
    for total in (good[:-1], good.astype(np.uint16), too_large):
        with pytest.raises(ValueError, match="code"):
            codec.decode_sum(total, shared)
    for members in ([], [0, 0], [2], [-1]):
        with pytest.raises(ValueError, match="different clients"):
            codec.decode_sum(good, shared, members)
    with pytest.raises(ValueError, match="NaN"):
        codec.encode_shared(np.full(SIZE, np.nan, np.float32), shared, 0, noise(0))
    with pytest.raises(ValueError, match="2 clients"):
        codec.encode_shared(normal(SIZE), shared, 2, noise(2))


def test_one_updates_codes_mean_nothing_without_the_round() -> None:
    with pytest.raises(ValueError, match="clients of a round"):
        Ring(251).encode(normal(4), rng())
    with pytest.raises(ValueError, match="sum"):
        list(Ring(251).decode(memoryview(b""), 4))


@pytest.mark.parametrize("parameter", [None, "", "1", "113", "253", "65536", "65537", "0251", "x", "9" * 5000])
def test_what_is_no_prime_in_range_is_refused(parameter: str | None) -> None:
    with pytest.raises(ValueError, match="prime"):
        Ring.parse(parameter)


@pytest.mark.parametrize("suite", Suite)
def test_the_dither_is_that_of_every_board(suite: Suite) -> None:
    """Of a seed, a client and a cipher; the receiver's sum of dithers is the sum of the senders', to the last bit."""
    shared = RingRound(seeded(7), 64, 3, np.ones(1, np.float32), suite=suite)
    drawn = [Dither(shared, client).draw(70) for client in range(3)]
    words = ((drawn[1] + np.float32(0.5)) * 256 - np.float32(0.5)).astype(np.uint8)
    assert words[:16].tobytes().hex() == GOLDEN_DITHER[suite]
    assert np.array_equal(Dither.total([Dither(shared, client) for client in range(3)], 70), np.sum(drawn, axis=0))


GOLDEN_DITHER = {
    Suite.AES: "7b293209e0fb4d94c2b1ec132c11170b",
    Suite.CHACHA: "e8d0146c41bb73cca12cafb076350574",
}
"""The first bytes of client 1's."""


def test_the_rotation_and_the_projections_are_those_of_every_board() -> None:
    """The signs that follow from a seed: of the rotation, and of a block of 64's first projection."""
    walk, group = Walk(251, 5, RingRound(seeded(7), 64, 1, np.ones(1, np.float32))), Group(0, 64, 1, 64)
    spikes = np.eye(64, dtype=np.float32).reshape(64, 1, 64)
    turned = np.array([walk.rotation.rotate(spike)[0, 0] for spike in spikes])
    assert np.packbits(turned < 0).tobytes().hex() == "7fa3a6a8d6e66257"
    unturned = [walk.rotation.restore(spike).reshape(-1) for spike in spikes]
    projected = np.array([walk.on_grid(values, group)[group.padded] for values in unturned])
    assert np.packbits(projected < 0).tobytes().hex() == "6f409cce44fd4c0e"


@pytest.mark.parametrize("p", PRIMES)
@same_each_time
@given_any(st.data())
def test_whatever_was_sent_is_decoded_or_flagged(p: int, data: st.DataObject) -> None:
    """Any size, members, digits and scales, and values from nothing to far beyond the grid."""
    codec, n = Ring(p), data.draw(st.integers(1, 40))
    size = data.draw(st.sampled_from((1, 63, 65, 300, 4096, 4097)))
    members = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    digits = data.draw(st.sampled_from((1, 2)))
    draw = rng(data.draw(st.integers(0, 2**32)))
    scales = np.power(10.0, draw.uniform(-20, 20, -(-size // 4096))).astype(np.float32)
    shared = RingRound(draw.bytes(32), size, n, scales, digits=digits)
    units = np.repeat(scales, 4096)[:size] / np.float32(n)
    given = {client: draw.standard_normal(size).astype(np.float32) * units for client in members}
    one = given[members[0]]
    one[draw.integers(size)] *= np.float32(10 ** draw.uniform(0, 10))
    found = summed(codec, shared, given)
    off = np.abs(found.mean - np.mean(list(given.values()), axis=0))
    # an orthonormal rotation spreads the steps' errors; eight of their deviations, were all of them the same
    allowed = 8 * len(members) ** 0.5 * units * n * (2 * codec.k / p) / 2 / len(members) + 1e-5 * np.abs(one).max()
    assert np.all((off <= allowed) | np.repeat(found.flagged, 4096)[:size])
    assert not found.mean[np.repeat(found.flagged, 4096)[:size]].any()


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("scale", [1e-8, 1e-20, 1e-44])
@pytest.mark.parametrize("spread", [False, True])
def test_a_value_too_far_off_its_grid_for_float32_is_flagged(p: int, scale: float, spread: bool) -> None:
    values = np.zeros(2 * 4096, np.float32)
    values[4096:] = normal(4096) * np.float32(1e29 * spread)
    values[4096 + 5] = 1e30
    shared = RingRound(seeded(3), 2 * 4096, 2, np.full(2, scale, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = summed(Ring(p), shared, {0: values})
    assert found.flagged.tolist() == [False, True]


@pytest.mark.parametrize(("p", "clients"), [(65521, 8), (65521, 32), (65521, 64), (251, 8), (251, 32)])
def test_in_a_round_of_two_digits_equal_updates_are_sound(p: int, clients: int) -> None:
    """Their rounding errors are equal as well, so that they add up."""
    given = dict.fromkeys(range(clients), normal(20 * 4096))
    shared = RingRound(seeded(9), 20 * 4096, clients, np.full(20, 1.3 * clients, np.float32), digits=2)
    found = summed(Ring(p), shared, given)
    assert not found.flagged.any()
    assert nmse(found.mean, given[0]) <= (1e-9 if p == 65521 else 1e-2)
