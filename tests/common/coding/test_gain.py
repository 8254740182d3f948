"""What waiting differently would gain: against closed forms, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from argosy_common.coding.gain import Boards, Outcome, outcomes


def found(boards: Boards, devices: int, *, quorum: int | None = None, site: int | None = None) -> dict[str, Outcome]:
    told = outcomes(
        boards,
        devices=devices,
        quorum=quorum or devices,
        site_boards=site or devices,
        rng=np.random.default_rng(1),
    )
    return {one.name: one for one in told}


def exponential(mean: float) -> Boards:
    """Boards whose times are exponential, by their quantiles."""
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    return Boards.measured([-mean * np.log1p(-quantiles)] * 10, compute=0.0)


def test_of_exponential_times_the_slowest_of_n_takes_the_harmonic_number() -> None:
    told = found(exponential(2.0), 10, quorum=8)
    harmonic = sum(1 / k for k in range(1, 11))
    assert told["wait-for-all"].expected == pytest.approx(2.0 * harmonic, rel=0.03)
    eighth = sum(1 / k for k in range(3, 11))
    assert told["quorum"].expected == pytest.approx(2.0 * eighth, rel=0.03)
    assert told["asynchronous"].expected == pytest.approx(2.0, rel=0.03)


def test_of_exponential_delays_the_code_takes_the_slowest_of_the_faster_halves() -> None:
    told = found(exponential(2.0), 10)
    # the minimum of two is exponential with half the mean, and there are five such
    assert told["repetition-1"].expected == pytest.approx(1.0 * sum(1 / k for k in range(1, 6)), rel=0.03)


def test_where_computing_is_all_and_boards_are_alike_the_code_is_a_loss_by_its_copies() -> None:
    told = found(Boards.measured([[3.0]] * 6), 6)
    assert told["repetition-1"].gain == pytest.approx(1 / 2)
    assert told["repetition-2"].gain == pytest.approx(1 / 3)
    assert told["asynchronous"].gain == pytest.approx(1.0)


def test_where_the_network_is_slow_for_a_tenth_the_code_gains() -> None:
    told = found(Boards.described(2.0, slow_share=0.1, slow_factor=10, compute=0.1), 20)
    assert told["repetition-1"].gain > 1.5
    assert told["quorum"].gain == 1.0, "it is all of them"


def test_half_of_the_time_that_grows_makes_one_and_a_half_times_the_time() -> None:
    assert found(Boards.measured([[2.0]] * 4, 0.5), 4)["repetition-1"].expected == pytest.approx(3.0)


def test_known_boards_are_each_there_once() -> None:
    told = found(Boards.measured([[1.0], [1.0], [1.0], [20.0]]), 4, quorum=3)
    assert told["wait-for-all"].expected == 20.0
    assert told["quorum"].expected == 1.0
    assert told["quorum"].p90 == 1.0


def test_a_site_of_fewer_boards_is_compared_with_waiting_for_all_of_it() -> None:
    told = found(Boards.described(1.0, slow_share=0.2, slow_factor=5, compute=0.0), 20, site=4)
    assert told["site-wait-for-all"].boards == 4
    assert told["repetition-1"].gain == pytest.approx(
        told["site-wait-for-all"].expected / told["repetition-1"].expected
    )
    assert "repetition-2" not in told, "four boards cannot hold shards three times"


def test_the_same_seed_gives_the_same() -> None:
    boards = Boards.described(1.0, slow_share=0.3, slow_factor=4)
    assert found(boards, 10) == found(boards, 10)


@pytest.mark.parametrize(
    ("seconds", "compute", "told"),
    [
        ([], 1.0, "at least one time"),
        ([[1.0], []], 1.0, "at least one time"),
        ([[0.0]], 1.0, "above zero"),
        ([[-1.0]], 1.0, "above zero"),
        ([[float("nan")]], 1.0, "finite"),
        ([[1.0]], 1.5, "between 0 and 1"),
        ([[1.0]], float("nan"), "between 0 and 1"),
    ],
)
def test_times_that_cannot_be_are_refused(seconds: list[list[float]], compute: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Boards.measured(seconds, compute)


@pytest.mark.parametrize(("devices", "quorum", "site"), [(1, 1, 2), (4, 5, 4), (4, 0, 4), (4, 4, 1)])
def test_questions_that_make_no_sense_are_refused(devices: int, quorum: int, site: int) -> None:
    with pytest.raises(ValueError, match=r"fewer than two|a quorum of"):
        outcomes(Boards.described(1.0), devices=devices, quorum=quorum, site_boards=site, rng=np.random.default_rng(1))
