"""The fractional-repetition code: exact for whichever boards answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from argosy_common.coding.repetition import Repetition, fitting

SIZES = [(2, 1), (4, 1), (6, 1), (10, 1), (3, 2), (6, 2), (9, 2), (5, 0)]


def answers(code: Repetition, dtype: type[np.floating]) -> dict[int, np.ndarray]:
    """What each board computes: the same for the boards of a shard, with sums that round."""
    shards = [
        np.random.default_rng(shard).normal(size=(7, 3)).astype(dtype) * 10.0**shard for shard in range(code.shards)
    ]
    return {board: shards[code.shard_of(board)].astype(dtype) for board in range(code.boards)}


@pytest.mark.parametrize(("boards", "stragglers"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sum_is_the_same_to_the_bit_for_every_choice_of_n_minus_s_boards(
    boards: int, stragglers: int, dtype: type[np.floating]
) -> None:
    code = Repetition(boards, stragglers)
    all_of_them = answers(code, dtype)
    whole = code.decode(all_of_them)
    assert whole.dtype == dtype
    for chosen in itertools.combinations(range(boards), boards - stragglers):
        assert code.complete(chosen)
        decoded = code.decode({board: all_of_them[board] for board in reversed(chosen)})
        assert decoded.tobytes() == whole.tobytes()


@pytest.mark.parametrize(("boards", "stragglers"), SIZES)
def test_it_is_the_sum_over_the_shards_and_each_counts_once(boards: int, stragglers: int) -> None:
    code = Repetition(boards, stragglers)
    ones = {board: np.array([10 ** code.shard_of(board)]) for board in range(boards)}
    assert code.decode(ones)[0] == sum(10**shard for shard in range(code.shards))


@pytest.mark.parametrize(("boards", "stragglers"), SIZES)
def test_every_shard_is_held_by_s_plus_1_boards_and_every_board_holds_one(boards: int, stragglers: int) -> None:
    code = Repetition(boards, stragglers)
    held = [code.holders(shard) for shard in range(code.shards)]
    assert {len(holders) for holders in held} == {stragglers + 1}
    assert sorted(itertools.chain(*held)) == list(range(boards))
    assert all(code.shard_of(board) == shard for shard, holders in enumerate(held) for board in holders)


@given(st.sampled_from(SIZES), st.data())
def test_of_any_boards_the_sum_is_had_or_what_is_missing_is_named(size: tuple[int, int], data: st.DataObject) -> None:
    code = Repetition(*size)
    chosen = data.draw(st.sets(st.integers(0, code.boards - 1)))
    values = {
        board: data.draw(st_np.arrays(np.int64, 3, elements=st.integers(-99, 99))) for board in range(code.shards)
    }
    given_ = {board: values[code.shard_of(board)] for board in chosen}
    if code.complete(chosen):
        assert np.array_equal(code.decode(given_), sum(values.values()))
    else:
        with pytest.raises(ValueError, match="is missing: none of the boards"):
            code.decode(given_)


@given(st.sampled_from(SIZES), st.sampled_from([np.float32, np.float64]), st.data())
def test_of_random_reals_any_n_minus_s_boards_give_the_same_bits(
    size: tuple[int, int], dtype: type[np.floating], data: st.DataObject
) -> None:
    code = Repetition(*size)
    finite = st.floats(-(2.0**99), 2.0**99, width=32)
    values = [data.draw(st_np.arrays(dtype, 5, elements=finite)) for _ in range(code.shards)]
    all_of_them = {board: values[code.shard_of(board)] for board in range(code.boards)}
    silent = data.draw(st.sets(st.integers(0, code.boards - 1), max_size=code.stragglers))
    some = {board: answer for board, answer in all_of_them.items() if board not in silent}
    assert code.decode(some).tobytes() == code.decode(all_of_them).tobytes()


def test_the_answers_are_left_as_they_are() -> None:
    code = Repetition(4, 1)
    given_ = {board: np.ones(2) for board in range(4)}
    code.decode(given_)
    assert all(np.array_equal(each, np.ones(2)) for each in given_.values())


def test_answers_of_other_shapes_or_types_are_refused() -> None:
    code = Repetition(2, 0)
    for other in (np.ones(3), np.ones(2, np.float32)):
        with pytest.raises(ValueError, match="one shape and one dtype"):
            code.decode({0: np.ones(2), 1: other})


@pytest.mark.parametrize(
    ("boards", "stragglers", "told"),
    [(5, 1, "4 or 6"), (4, 2, "3 or 6"), (1, 1, "such as 2"), (8, 3, "0 to 2"), (4, -1, "0 to 2"), (0, 0, "multiple")],
)
def test_sizes_without_a_code_are_refused_with_those_that_fit(boards: int, stragglers: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Repetition(boards, stragglers)


def test_boards_and_shards_that_are_not_there_are_refused() -> None:
    code = Repetition(4, 1)
    for call in (lambda: code.shard_of(4), lambda: code.holders(2), lambda: code.complete([0, 9])):
        with pytest.raises(ValueError, match="has no"):
            call()


def test_what_fits_is_told_in_words() -> None:
    assert fitting(7, 1) == "6 or 8"
    assert fitting(1, 2) == "3"
