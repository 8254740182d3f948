"""The numbers of a group: what every device works out, and what it refuses."""

from __future__ import annotations

import pytest

from argosy_common.secagg.parameters import MOST_CLIENTS, PRIMES, Parameters

MOST_HOLDERS = {65521: 256, 251: 166}
"""251 has points for so many, and for the pieces of a mask."""


def groups(p: int) -> list[Parameters]:
    """Return a group for each number of holders, its clients the holders where they may be so many."""
    return [Parameters.of(min(A, MOST_CLIENTS[p]), p, A=A) for A in range(4, MOST_HOLDERS[p] + 1)]


@pytest.mark.parametrize("p", PRIMES)
def test_thresholds_leave_room_for_one_another(p: int) -> None:
    """Q ≤ U ≤ A − T for every number of holders, and T ≥ 1."""
    for group in groups(p):
        assert group.T >= 1
        assert group.T < group.Q <= group.U <= group.A - group.T
        assert group.K == group.U - group.T >= 1


@pytest.mark.parametrize("p", PRIMES)
def test_two_certificates_share_an_honest_holder(p: int) -> None:
    """Two sets of Q among A holders overlap in more than T, and so do U answers and a certificate in one or more."""
    for group in groups(p):
        assert 2 * group.Q - group.A > group.T
        assert group.Q + group.U > group.A


@pytest.mark.parametrize("p", PRIMES)
def test_all_points_are_distinct_mod_p(p: int) -> None:
    """A piece of the mask at a holder's point would be known to that holder."""
    for group in groups(p):
        points = [point % p for point in (*group.alphas, *group.betas)]
        assert len(set(points)) == group.A + group.K


@pytest.mark.parametrize("p", PRIMES)
def test_every_client_has_a_share_for_every_holder(p: int) -> None:
    """U seeds, A − U of elements."""
    for group in groups(p):
        for client in range(group.n):
            seeded, explicit = group.seeded(client), list(group.explicit(client))
            assert len(seeded) == group.U
            assert sorted([*seeded, *explicit]) == list(range(group.A))


@pytest.mark.parametrize("n", range(4, 65))
def test_long_shares_are_spread_over_the_holders(n: int) -> None:
    """Of n clients, no holder of the group has more than two long shares over the mean."""
    group = Parameters.of(n, 65521)
    counts = [sum(holder in group.explicit(client) for client in range(n)) for holder in range(n)]
    assert sum(counts) == n * (group.A - group.U)
    assert max(counts) <= group.A - group.U + 2


@pytest.mark.parametrize(("d", "length"), [(1, 1), (15, 1), (16, 1), (17, 2), (1_000_000, 62_500)])
def test_pieces_cover_the_mask(d: int, length: int) -> None:
    """L = ⌈d/K⌉, K = 16 of 32 holders."""
    assert Parameters.of(32, 65521).L(d) == length


def test_the_specifications_example_has_its_numbers() -> None:
    """Section 8."""
    group = Parameters.of(32, 65521)
    assert (group.A, group.U, group.T, group.K, group.Q, group.n_min) == (32, 24, 8, 16, 21, 16)
    assert Parameters.of(4, 251).n_min == 3
    assert Parameters.of(8, 251).n_min == 4


@pytest.mark.parametrize("n", range(4, 65))
def test_a_sum_has_at_least_two_clients_that_do_not_collude(n: int) -> None:
    """n_min − T_clients of them, and never fewer than half of the group."""
    group = Parameters.of(n, 65521)
    assert group.n_min - group.T_clients >= 2
    assert 3 <= group.n_min <= n
    assert 2 * group.n_min >= n


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ((8, 8, 6, 2, 257), "not 65521 or 251"),
        ((8, 8, 6, 2, 65519), "not 65521 or 251"),
        ((3, 3, 3, 0, 65521), "4 to 64 clients"),
        ((65, 65, 49, 16, 65521), "4 to 64 clients"),
        ((33, 33, 25, 8, 251), "4 to 32 clients"),
        ((4, 3, 3, 0, 65521), "4 to 256 holders"),
        ((4, 257, 193, 64, 65521), "4 to 256 holders"),
        ((8, 8, 5, 2, 65521), "make U = 6 and T = 2"),
        ((8, 8, 7, 2, 65521), "make U = 6 and T = 2"),
        ((8, 8, 6, 1, 65521), "make U = 6 and T = 2"),
        ((8, 8, 6, 0, 65521), "make U = 6 and T = 2"),
        ((8, 8, 6, -2, 65521), "make U = 6 and T = 2"),
        ((32, 167, 126, 41, 251), "is safe mod 251"),
        ((32, 256, 192, 64, 251), "is safe mod 251"),
    ],
)
def test_other_numbers_are_refused(numbers: tuple[int, int, int, int, int], why: str) -> None:
    """A coordinator that sends a lower T, or a U of its liking, is not obeyed."""
    with pytest.raises(ValueError, match=why):
        Parameters(*numbers)
