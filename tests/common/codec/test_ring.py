from __future__ import annotations

import zlib

import numpy as np
import pytest

from argosy_common.codec.base import Vector
from argosy_common.codec.ring import Ring, RingRound, RingSum, next_scales
from tests.common.codec.codes import nmse, noise, normal, rng, seeded

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


@pytest.mark.parametrize(("p", "clients", "bound"), [(65521, 32, 1e-6), (251, 32, 1e-2)])
def test_with_scales_from_the_round_before_the_error_is_within_its_bar(p: int, clients: int, bound: float) -> None:
    codec, given = Ring(p), dict(enumerate(updates(clients)))
    shared = RingRound.first(seeded(3), SIZE, clients, 1.6)
    shared = RingRound(seeded(4), SIZE, clients, next_scales(shared, summed(codec, shared, given)))
    found = summed(codec, shared, given)
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
    for height in (*(turn * whole for whole in (1, 2, 3, 7)), *(turn * draw.uniform(0.05, 4, 60)), 1e29):
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


def test_the_format_is_as_it_was() -> None:
    """A value in the middle of a grid's cell after the dither: none that rounding errors move."""
    shared = RingRound(seeded(7), 64, 1, np.full(1, 2**20, np.float32))
    codes = Ring(251).encode_shared(np.zeros(64, np.float32), shared, 0, noise(0))
    assert codes.shape == (68,)
    assert (codes.tolist().count(0), zlib.crc32(codes.tobytes())) == (68, zlib.crc32(bytes(68)))
