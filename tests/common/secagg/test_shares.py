"""Masks and their seed-compressed shares: any U reconstruct, any T say nothing, and malformed ones are refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from argosy_common.field import Field, Matrix
from argosy_common.prg import Elements, Suite, derive, uniform
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.shares import ELEMENTS, SEED, make_sharing, open_share
from tests.common.secagg.sharings import DIGEST, SID, generator, opened, sharing

PRIMES = (65521, 251)


def reconstructed(group: Parameters, shares: tuple[bytes, ...], client: int, size: int, holders: list[int]) -> Elements:
    """Return the mask that some holders' shares make."""
    values = [opened(group, shares[j], client, j, size) for j in holders]
    return Field(group.p).apply(Field(group.p).lagrange(holders, group.betas), values).reshape(-1)[:size]


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
def test_any_u_shares_make_the_mask(n: int, p: int) -> None:
    """All subsets of exactly U holders, of every client."""
    group, size = Parameters.of(n, p), 50
    for client in range(n):
        made = sharing(group, client, size)
        for holders in itertools.combinations(range(group.A), group.U):
            assert np.array_equal(reconstructed(group, made.shares, client, size, list(holders)), made.mask)


@pytest.mark.parametrize(("n", "p", "holders"), [(32, 65521, 32), (32, 251, 32), (64, 65521, 64), (10, 65521, 256)])
def test_any_u_shares_of_a_large_group_make_the_mask(n: int, p: int, holders: int) -> None:
    """Random subsets; the holders may be others than the clients, and more."""
    group, size, rng = Parameters.of(n, p, A=holders), 5000, generator()
    made = sharing(group, 3, size)
    for _ in range(4):
        some = rng.permutation(group.A)[: group.U].tolist()
        assert np.array_equal(reconstructed(group, made.shares, 3, size, some), made.mask)


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 2048 * 16 + 1])
def test_a_mask_of_any_size_is_shared(p: int, size: int) -> None:
    """Also of fewer elements than it has pieces: K = 16."""
    group = Parameters.of(32, p)
    made = sharing(group, 1, size)
    assert made.mask.shape == (size,)
    assert made.mask.dtype == Field(p).dtype
    assert made.mask.max() < p
    length = group.L(size)
    assert all(opened(group, share, 1, j, size).shape == (length,) for j, share in enumerate(made.shares))
    assert np.array_equal(reconstructed(group, made.shares, 1, size, list(range(8, 32))), made.mask)


@pytest.mark.parametrize("p", PRIMES)
def test_u_holders_get_seeds_and_the_others_elements(p: int) -> None:
    """Which is the rotation's doing; a seed is 33 bytes whatever the size."""
    group, size = Parameters.of(8, p), 1000
    for client in range(8):
        shares = sharing(group, client, size).shares
        long = 1 + group.L(size) * Field(p).dtype.itemsize
        assert [j for j, share in enumerate(shares) if share[:1] == SEED] == group.seeded(client)
        assert {len(share) for share in shares if share[:1] == SEED} == {33}
        assert {len(share) for share in shares if share[:1] == ELEMENTS} == {long}


def test_seeds_and_streams_are_derived_as_the_specification_says() -> None:
    """Spelt out, since a holder may run another version."""
    group, size, secret = Parameters.of(8, 65521), 100, bytes(31) + b"\5"
    shares = sharing(group, 2, size, seed=5).shares
    for j in group.seeded(2):
        expected = derive(secret, "share", SID, DIGEST, 2, j)
        assert shares[j] == b"\0" + expected
        stream = uniform(Suite.AES, derive(expected, "mask", SID, 2, j), group.L(size), 65521)
        assert np.array_equal(opened(group, shares[j], 2, j, size), stream)


def test_elements_travel_little_endian() -> None:
    """Whatever the machine."""
    group = Parameters.of(4, 65521)
    (holder,) = group.explicit(0)
    assert opened(group, b"\1\x02\x01\xf0\xff", 0, holder, 4).tolist() == [0x0102, 0xFFF0]


def test_the_same_seed_makes_another_mask_for_another_round_client_or_update() -> None:
    """Of a device whose randomness repeats itself, no two updates have the same mask."""
    group = Parameters.of(8, 65521)
    given: dict[str, Any] = {"seed": bytes(32), "sid": SID, "client": 0, "digest": DIGEST, "size": 64}
    changed: list[dict[str, Any]] = [
        {},
        {"sid": DIGEST},
        {"client": 1},
        {"digest": SID},
        {"seed": b"\1" + bytes(31)},
    ]
    masks = {make_sharing(group, Suite.AES, **given | change).mask.tobytes() for change in changed}
    masks.add(make_sharing(group, Suite.CHACHA, **given).mask.tobytes())
    assert len(masks) == len(changed) + 1
    again = make_sharing(group, Suite.AES, **given)
    assert again.mask.tobytes() in masks


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": bytes(16)}, "32 bytes"),
        ({"client": 8}, "no client 8"),
        ({"client": -1}, "no client -1"),
        ({"size": 0}, "one element"),
    ],
)
def test_what_cannot_be_shared_is_refused(change: dict[str, Any], why: str) -> None:
    """A short seed above all."""
    given: dict[str, Any] = {"seed": bytes(32), "sid": SID, "client": 0, "digest": DIGEST, "size": 64}
    with pytest.raises(ValueError, match=why):
        make_sharing(Parameters.of(8, 65521), Suite.AES, **given | change)


@pytest.mark.parametrize(
    ("p", "explicit", "share", "why"),
    [
        (65521, False, b"", "begins with"),
        (65521, True, b"", "begins with"),
        (65521, False, b"\2" + bytes(32), "begins with"),
        (65521, False, b"\0" + bytes(31), "32 bytes is due"),
        (65521, False, b"\0" + bytes(33), "32 bytes is due"),
        (65521, False, b"\1" + bytes(32), "due a seed"),
        (65521, True, b"\0" + bytes(32), "due elements"),
        (65521, True, b"\1" + bytes(30), "32 bytes is due"),
        (65521, True, b"\1" + bytes(31), "32 bytes is due"),
        (65521, True, b"\1" + bytes(34), "32 bytes is due"),
        (65521, True, b"\1" + bytes(30) + b"\xf1\xff", "not below 65521"),
        (251, True, b"\1" + bytes(17), "16 bytes is due"),
        (251, True, b"\1" + bytes(15) + b"\xfb", "not below 251"),
    ],
)
def test_a_malformed_share_is_refused(p: int, explicit: bool, share: bytes, why: str) -> None:
    """16 elements are due, which mod 65521 are as many bytes as a seed."""
    group = Parameters.of(8, p)
    holder = next(iter(group.explicit(0))) if explicit else group.seeded(0)[0]
    with pytest.raises(ValueError, match=why):
        open_share(group, Suite.AES, share, sid=SID, client=0, holder=holder, size=16 * group.K)


# --- secrecy


def known_and_hidden(group: Parameters, client: int, holders: tuple[int, ...]) -> Matrix:
    """Return what takes the U values that a client draws to some holders' shares and the mask's pieces."""
    return Field(group.p).lagrange(group.seeded(client), [*holders, *group.betas])


def rank(matrix: Matrix, p: int) -> int:
    """Return the rank mod p, by elimination."""
    rows, found = matrix % p, 0
    for column in range(rows.shape[1]):
        below = np.flatnonzero(rows[found:, column])
        if not len(below):
            continue
        pivot = found + int(below[0])
        rows[[found, pivot]] = rows[[pivot, found]]
        rows[found] = rows[found] * pow(int(rows[found, column]), -1, p) % p
        rows[found + 1 :] = (rows[found + 1 :] - np.outer(rows[found + 1 :, column], rows[found])) % p
        found += 1
        if found == len(rows):
            break
    return found


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("n", range(4, 65))
def test_any_t_shares_have_full_rank_against_the_mask(n: int, p: int) -> None:
    """So for whatever T holders see there is one set of drawn values for every mask: they learn nothing of it."""
    group, rng = Parameters.of(min(n, 32), p, A=n), generator(n)
    client = int(rng.integers(group.n))
    subsets = list(itertools.combinations(range(group.A), group.T)) if n <= 8 else []
    subsets = subsets or [tuple(rng.permutation(group.A)[: group.T].tolist()) for _ in range(5)]
    for holders in subsets:
        assert rank(known_and_hidden(group, client, holders), p) == group.T + group.K == group.U


def test_a_rank_that_is_not_full_would_be_seen() -> None:
    """T + 1 shares do say something of the mask."""
    group = Parameters.of(8, 251)
    matrix = known_and_hidden(group, 0, (0, 1, 2))
    assert matrix.shape[0] == group.U + 1
    assert rank(matrix, 251) == group.U
    assert rank(np.array([[1, 2], [2, 4]]), 251) == 1


@pytest.mark.parametrize(
    ("p", "seeded", "holders", "pieces", "T"),
    [
        (5, (0, 1), range(3), (4,), 1),
        (5, (0, 2), range(3), (4,), 1),
        (5, (1, 2), range(3), (3,), 1),
        (5, (0, 1, 2), range(4), (4,), 2),
        (5, (0, 2, 3), range(4), (4,), 2),
        (5, (0, 1, 2), range(3), (3, 4), 1),
        (5, (0, 1, 2, 3), range(4), (4,), 3),
        (7, (0, 1, 3), range(4), (5, 6), 1),  # four holders, at the points that `Parameters` gives them
    ],
)
def test_all_polynomials_together_show_any_t_holders_every_mask_equally_often(
    p: int,
    seeded: tuple[int, ...],
    holders: range,
    pieces: tuple[int, ...],
    T: int,  # noqa: N803
) -> None:
    """Every value of (T shares, all pieces) occurs exactly once: uniform, and the shares independent of the pieces."""
    drawn = np.array(list(itertools.product(range(p), repeat=len(seeded))), Field(p).dtype).T
    every = p ** len(seeded)
    for some in itertools.combinations(holders, T):
        matrix = Field(p).lagrange(seeded, [*some, *pieces])
        seen = set(zip(*Field(p).apply(matrix, np.ascontiguousarray(drawn)).tolist(), strict=True))
        assert len(seen) == every == p ** (T + len(pieces))


def chi_square_is_plausible(counts: np.ndarray[Any, Any]) -> bool:
    """Tell whether counts are those of a uniform law: within five standard deviations of chi-square's mean."""
    expected, free = counts.sum() / counts.size, counts.size - 1
    return bool(abs(float(np.sum(np.square(counts - expected) / expected)) - free) < 5 * (2 * free) ** 0.5)


def counted(p: int, *vectors: Elements) -> np.ndarray[Any, Any]:
    """Return how often each tuple of ten equal cells occurs; ten cells leave one value of either prime out."""
    cells = np.stack([vector.astype(np.int64) // (p // 10) for vector in vectors])
    cells = cells[:, (cells < 10).all(axis=0)]
    places = np.ravel_multi_index(tuple(cells), (10,) * len(vectors))
    return np.bincount(places, minlength=10 ** len(vectors))


@pytest.mark.parametrize("p", PRIMES)
def test_shares_and_masked_updates_are_uniform_and_independent(p: int) -> None:
    """Over many seeds, of an update that is anything but: y, each share, and each piece of y beside any T shares."""
    group, size, client = Parameters.of(8, p), 200, 3
    field, length = Field(p), Parameters.of(8, p).L(200)
    q = np.full(size, 7, field.dtype)
    made = [sharing(group, client, size, seed=seed) for seed in range(400)]
    ys = np.stack([field.add(q, each.mask) for each in made])
    shares = [np.concatenate([opened(group, each.shares[j], client, j, size) for each in made]) for j in range(group.A)]
    assert all(chi_square_is_plausible(counted(p, each)) for each in (ys.ravel(), *shares))
    for piece in range(group.K):
        masked = ys[:, piece * length : (piece + 1) * length].ravel()
        for some in itertools.combinations(shares, group.T):  # T = 2 holders who compare what they have
            assert chi_square_is_plausible(counted(p, masked, *some))


def test_a_law_that_is_not_uniform_would_be_seen() -> None:
    """What the chi-square test above is worth: U + 1 shares of one polynomial depend on one another."""
    field, drawn = Field(251), generator().integers(251, size=(2, 20_000)).astype(np.uint8)
    third = field.apply(field.lagrange([0, 1], [2]), drawn)[0]
    assert chi_square_is_plausible(counted(251, *drawn))
    assert chi_square_is_plausible(counted(251, drawn[1], third))
    assert not chi_square_is_plausible(counted(251, *drawn, third))
    assert not chi_square_is_plausible(counted(251, drawn[0] % 240))


def test_sharings_of_equal_numbers_are_equal_and_of_others_are_not_mixed_up() -> None:
    """The interpolation is kept for each group and client."""
    first, second = Parameters.of(8, 65521), Parameters.of(8, 65521, A=9)
    made = [sharing(group, 0, 40) for group in (first, second, first, replace(first, p=251))]
    assert np.array_equal(made[0].mask, made[2].mask)
    assert len({each.mask.tobytes() for each in made}) == 3
