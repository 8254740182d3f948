"""Exact arithmetic on vectors over the integers mod a small prime p, through floating-point BLAS.

A product is a sum of k terms below p², a whole number that a float holds exactly: float64 up to 2^53, float32, which is
twice as fast and enough for p = 251, up to 2^24. Its rest mod p is found with a quarter of that range to spare; see
`Field.apply`. Matrices are small, vectors long: products go by stretches of columns that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy_common.prg import Elements

_STRETCH = 2048
"""Columns at a time: some sixty rows of these, as float64, are a megabyte."""

_BLOCK = 1 << 15
"""Elements at a time where there are no products: what is needed in between stays in cache, too."""

Matrix = NDArray[np.int64]
"""A small matrix over the field, values 0 … p−1."""


class Field:
    """The integers mod `p`, a prime from 3 to 65521. Elements are uint8 where p ≤ 256, else uint16."""

    def __init__(self, p: int) -> None:
        if not 3 <= p <= 65521:
            raise ValueError(f"{p} is not a prime from 3 to 65521")
        self.p = p
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if p <= 256 else np.dtype(np.uint16)

    # --- vectors

    def add(self, one: Elements, other: Elements) -> Elements:
        """Return one + other, both of shape (L,)."""
        total, p = np.empty_like(one), self.dtype.type(self.p)
        for some in _blocks(len(one)):
            self._subtract(one[some], p - other[some], total[some])
        return total

    def subtract(self, one: Elements, other: Elements) -> Elements:
        """Return one − other, both of shape (L,)."""
        rest = np.empty_like(one)
        for some in _blocks(len(one)):
            self._subtract(one[some], other[some], rest[some])
        return rest

    def _subtract(self, one: Elements, other: Elements, out: Elements) -> None:
        np.subtract(one, other, out=out)  # where it would be negative it wraps, and adding p wraps it back
        out += (one < other) * self.dtype.type(self.p)

    def total(self, vectors: Iterable[Elements]) -> Elements:
        """Return the sum of one or more vectors of shape (L,), at most 65,536 of them."""
        each = iter(vectors)
        summed = next(each).astype(np.uint32)
        for vector in each:
            summed += vector
        return self.reduced(summed)

    def reduced(self, values: NDArray[np.unsignedinteger[Any]]) -> Elements:
        """Return integers ≥ 0 mod p as elements, shape (L,)."""
        rest, p = np.empty(values.shape, self.dtype), values.dtype.type(self.p)
        for some in _blocks(len(values)):
            multiples = values[some] // p  # numpy divides by a scalar with a multiplication
            multiples *= p
            np.subtract(values[some], multiples, out=rest[some], casting="unsafe")
        return rest

    # --- matrices

    def apply(self, matrix: Matrix, vectors: Sequence[Elements] | NDArray[Any]) -> Elements:
        """Return matrix @ vectors.

        The product v is computed as v + ½, by a last column of halves, and its quotient as ⌊(v + ½)/p⌋: no whole number
        is nearer to (v + ½)/p than 1/2p, so that rounding, an error of at most 2 · 2^-53 · (v + ½)/p in float64, cannot
        change it while v < 2^51, nor in float32 while v < 2^22. The rest, and still ½, is cut to a whole number.

        Args:
            matrix: shape (r, k).
            vectors: shape (k, L), or k vectors of length L.

        Returns:
            Shape (r, L).

        Raises:
            ValueError: so many terms that float64 does not hold their sum.
        """
        rows, terms = matrix.shape
        if terms != len(vectors):
            raise ValueError(f"a matrix of {terms} columns takes as many vectors, not {len(vectors)}")
        if not terms * self.p**2 < 2**51:
            raise ValueError(f"{terms} terms mod {self.p} do not fit float64")
        real = np.float32 if terms * self.p**2 < 2**22 else np.float64
        length = len(vectors[0]) if terms else 0
        out = np.empty((rows, length), self.dtype)
        factors = np.concatenate([matrix, np.full((rows, 1), 0.5)], axis=1, dtype=real)
        p, inverse = real(self.p), real(1 / self.p)
        width = min(length, _STRETCH)
        held = np.ones((terms + 1, width), real)
        product, quotient = np.empty((2, rows, width), real)
        for start in range(0, length, _STRETCH):
            count = min(_STRETCH, length - start)
            if count < width:
                held, product, quotient = (np.ascontiguousarray(it[:, :count]) for it in (held, product, quotient))
            for row in range(terms):
                held[row] = vectors[row][start : start + count]
            np.matmul(factors, held, out=product)
            np.multiply(product, inverse, out=quotient)
            np.floor(quotient, out=quotient)
            quotient *= p
            product -= quotient
            out[:, start : start + count] = product
        return out

    def product(self, one: Matrix, other: Matrix) -> Matrix:
        """Return the product of two small matrices."""
        if one.shape[1] * self.p**2 >= 2**53:
            raise ValueError(f"{one.shape[1]} terms mod {self.p} do not fit")
        exact: Matrix = np.rint(one.astype(np.float64) @ other.astype(np.float64)).astype(np.int64) % self.p
        return exact

    def inverse(self, values: Matrix) -> Matrix:
        """Return the inverses of elements that are not zero."""
        result, base, power = np.ones_like(values), values % self.p, self.p - 2
        while power:
            if power & 1:
                result = result * base % self.p
            base = base * base % self.p
            power >>= 1
        return result

    def weights(self, points: Sequence[int]) -> Matrix:
        """Return the barycentric weights of distinct points x_j: 1 / Π (x_j − x_k) over the other points.

        Raises:
            ValueError: a point is given twice.
        """
        if len({point % self.p for point in points}) != len(points):
            raise ValueError("a point is given twice")
        x = np.array(points, np.int64) % self.p
        products = np.ones(len(x), np.int64)
        for other in range(len(x)):
            gaps = (x - x[other]) % self.p
            gaps[other] = 1
            products = products * gaps % self.p
        return self.inverse(products)

    def lagrange(self, known: Sequence[int], wanted: Sequence[int]) -> Matrix:
        """Return the matrix that takes a polynomial's values at `known` to those at `wanted`.

        Args:
            known: U distinct points: the polynomial has a degree < U.
            wanted: any points.

        Returns:
            Shape (len(wanted), len(known)).

        Raises:
            ValueError: a known point is given twice.
        """
        weights = self.weights(known)
        x, at = np.array(known, np.int64) % self.p, np.array(wanted, np.int64) % self.p
        matrix = np.empty((len(at), len(x)), np.int64)
        for row, point in enumerate(at):
            distances = (point - x) % self.p
            here = np.flatnonzero(distances == 0)
            if len(here):  # a point that is known: its own value
                matrix[row] = np.arange(len(x)) == here[0]
                continue
            whole = 1
            for distance in distances:
                whole = whole * int(distance) % self.p
            matrix[row] = whole * self.inverse(distances) % self.p * weights % self.p
        return matrix


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))
