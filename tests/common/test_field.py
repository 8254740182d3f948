"""The field against Python's integers, at its extremes too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from argosy_common.field import Field, Matrix
from argosy_common.prg import Elements

PRIMES = (3, 5, 7, 127, 251, 257, 32771, 65521)
STRETCH, BLOCK = 2048, 1 << 15
"""What `Field` takes at a time: sizes around these, and around twice these, are the odd ones."""


def random_elements(field: Field, *shape: int, seed: int = 0) -> Elements:
    """Return uniform elements."""
    drawn: Elements = np.random.default_rng(seed).integers(field.p, size=shape).astype(field.dtype)
    return drawn


def exact(matrix: Matrix, vectors: NDArray[Any], p: int) -> NDArray[Any]:
    """Return the product in int64, which holds every sum here."""
    return matrix @ vectors.astype(np.int64) % p


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Field, Elements, Elements]:
    """A field, and two vectors of it."""
    field = Field(draw(st.sampled_from(PRIMES)))
    extremes = st.sampled_from([0, 1, field.p - 1])
    elements = st.lists(st.tuples(*[st.integers(0, field.p - 1) | extremes] * 2), max_size=20)
    both = np.array(draw(elements), field.dtype).reshape(-1, 2)
    return field, np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])


@given(pairs())
def test_sums_and_differences_are_those_of_integers(given_: tuple[Field, Elements, Elements]) -> None:
    """In elements of the field's own type."""
    field, one, other = given_
    both = list(zip(one.tolist(), other.tolist(), strict=True))
    for found, expected in (
        (field.add(one, other), [(a + b) % field.p for a, b in both]),
        (field.subtract(one, other), [(a - b) % field.p for a, b in both]),
        (field.total([one, other, one]), [(2 * a + b) % field.p for a, b in both]),
    ):
        assert found.dtype == field.dtype
        assert found.tolist() == expected


@pytest.mark.parametrize("p", PRIMES)
def test_sums_and_differences_of_all_pairs_of_extremes_are_right(p: int) -> None:
    """Where a wrap would show; for small primes these are all pairs there are."""
    field = Field(p)
    values = sorted({*range(min(p, 9)), p // 2, p // 2 + 1, *range(max(0, p - 9), p)})
    one, other = (np.ascontiguousarray(each.ravel(), field.dtype) for each in np.meshgrid(values, values))
    before = one.copy(), other.copy()
    assert np.array_equal(field.add(one, other), (one.astype(int) + other) % p)
    assert np.array_equal(field.subtract(one, other), (one.astype(int) - other) % p)
    assert np.array_equal(before, (one, other))


@pytest.mark.parametrize("p", [251, 65521])
@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_long_vectors_are_added_to_their_last_element(p: int, length: int) -> None:
    """They are taken block by block."""
    field = Field(p)
    one, other = random_elements(field, 2, length)
    before = one.copy(), other.copy()
    assert np.array_equal(field.add(one, other), (one.astype(int) + other) % p)
    assert np.array_equal(field.subtract(one, other), (one.astype(int) - other) % p)
    assert np.array_equal(field.total([one, other]), (one.astype(int) + other) % p)
    assert np.array_equal(before, (one, other))


def test_the_total_of_as_many_vectors_as_may_be_does_not_overflow() -> None:
    """65,536 times p − 1, from an iterator."""
    field = Field(65521)
    most = np.full(3, field.p - 1, field.dtype)
    assert field.total(most for _ in range(65536)).tolist() == [65536 * (field.p - 1) % field.p] * 3


@pytest.mark.parametrize("p", PRIMES)
def test_integers_are_reduced(p: int) -> None:
    """Those around each multiple of p, and the largest of their type."""
    field = Field(p)
    for dtype in (np.uint32, np.uint64):
        most = int(np.iinfo(dtype).max)
        whole = [0, 1, p - 1, p, p + 1, 7 * p - 1, 7 * p, most // p * p - 1, most // p * p, most]
        found = field.reduced(np.array(whole, dtype))
        assert found.dtype == field.dtype
        assert found.tolist() == [each % p for each in whole]


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("terms", [1, 2, 24, 66, 67, 192])
@pytest.mark.parametrize("length", [0, 1, 63, STRETCH - 1, STRETCH, STRETCH + 1, 2 * STRETCH + 5])
def test_matrix_products_are_exact(p: int, terms: int, length: int) -> None:
    """In float32 and float64, on both sides of a stretch; 66 terms are the most that float32 takes mod 251."""
    field = Field(p)
    matrix = random_elements(field, 5, terms, seed=1).astype(np.int64)
    vectors = random_elements(field, terms, length, seed=2)
    found = field.apply(matrix, vectors)
    assert found.dtype == field.dtype
    assert np.array_equal(found, exact(matrix, vectors, p))
    assert np.array_equal(field.apply(matrix, list(vectors)), found)


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize("terms", [1, 24, 66, 67, 256])
def test_matrix_products_are_exact_around_every_multiple_of_p(p: int, terms: int) -> None:
    """Products of p − 1 are the largest there are; one more term takes them to each side of a multiple."""
    field = Field(p)
    matrix = np.full((3, terms), p - 1, np.int64)
    matrix[1, -1] = 1
    matrix[2, -1] = 0
    vectors = np.full((terms, p), p - 1, field.dtype)
    vectors[-1] = np.arange(p)  # so every rest occurs, next to the largest of quotients
    assert np.array_equal(field.apply(matrix, vectors), exact(matrix, vectors, p))


@given(st.data())
def test_matrix_products_are_those_of_integers(data: st.DataObject) -> None:
    """Small ones, of any values."""
    field = Field(data.draw(st.sampled_from(PRIMES)))
    rows, terms, length = (data.draw(st.integers(1, 4)) for _ in range(3))
    value = st.integers(0, field.p - 1)
    matrix = [[data.draw(value) for _ in range(terms)] for _ in range(rows)]
    vectors = [[data.draw(value) for _ in range(length)] for _ in range(terms)]
    expected = [
        [sum(row[k] * vectors[k][column] for k in range(terms)) % field.p for column in range(length)] for row in matrix
    ]
    assert field.apply(np.array(matrix), np.array(vectors, field.dtype)).tolist() == expected
    assert field.product(np.array(matrix), np.array(vectors)).tolist() == expected


def test_products_of_more_terms_than_a_float_holds_are_refused() -> None:
    """And those of a matrix and vectors that do not go together."""
    field = Field(65521)
    many = 2**51 // 65521**2 + 1
    with pytest.raises(ValueError, match="do not fit"):
        field.apply(np.ones((1, many), np.int64), np.ones((many, 1), field.dtype))
    with pytest.raises(ValueError, match="as many vectors"):
        field.apply(np.ones((1, 3), np.int64), np.ones((2, 1), field.dtype))
    with pytest.raises(ValueError, match="do not fit"):
        field.product(np.ones((1, 2**22), np.int64), np.ones((2**22, 1), np.int64))


@pytest.mark.parametrize("p", PRIMES)
def test_an_inverse_times_its_element_is_one(p: int) -> None:
    """For all of them."""
    values = np.arange(1, p, dtype=np.int64)
    assert np.all(Field(p).inverse(values) * values % p == 1)


@given(st.data())
def test_lagrange_takes_a_polynomials_values_to_its_other_values(data: st.DataObject) -> None:
    """Known points among the wanted ones included."""
    p = data.draw(st.sampled_from(PRIMES))
    point = st.integers(0, p - 1)
    known = data.draw(st.lists(point, min_size=1, max_size=min(p, 12), unique=True))
    wanted = data.draw(st.lists(point, max_size=8))
    coefficients = data.draw(st.lists(point, min_size=len(known), max_size=len(known)))

    def value(x: int) -> int:
        return sum(c * pow(x, power, p) for power, c in enumerate(coefficients)) % p

    matrix = Field(p).lagrange(known, wanted)
    values = np.array([[value(x)] for x in known], np.int64)
    assert Field(p).product(matrix, values).ravel().tolist() == [value(x) for x in wanted]


def test_a_point_that_is_given_twice_is_refused() -> None:
    """Also where it is the same only mod p."""
    with pytest.raises(ValueError, match="twice"):
        Field(5).lagrange([1, 6], [2])


@pytest.mark.parametrize("p", [-7, 0, 2, 65537])
def test_a_prime_out_of_range_is_refused(p: int) -> None:
    """Two bytes an element are the most."""
    with pytest.raises(ValueError, match="prime"):
        Field(p)
