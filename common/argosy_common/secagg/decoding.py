"""The sum of masks, from what any U or more holders answer (specs/secure-aggregation.md, 6, "Decoding").

Holder j's answer is the value at α_j of one polynomial of degree < U, the sum of the clients'. Every answer beyond U is
a check: the values at U points say what it must be, at every coordinate. Where answers contradict one another, they are
a word of a Reed–Solomon code with errors, the same holders at all coordinates, which a few random combinations of the
coordinates show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from argosy_common.field import Field, Matrix
from argosy_common.prg import Elements
from argosy_common.secagg.parameters import Parameters

COMBINATIONS = {65521: 3, 251: 6}
"""t: a lie cancels itself out in all of them with probability p^-t ≤ 2^-47."""
_COLUMNS = 1 << 16
"""Coordinates combined at a time; their products are exact in float64: 2^16 · p² < 2^53."""


@dataclass(frozen=True)
class Unmasked:
    """What the holders' answers come to.

    Attributes:
        total: Σ z_i, shape (d,).
        checked: whether there was any answer beyond U, so that a wrong one would have been noticed.
        wrong: holders whose answers were wrong, and left out, in order.
    """

    total: Elements
    checked: bool
    wrong: tuple[int, ...]


def recover(parameters: Parameters, answers: Mapping[int, Elements], size: int, rng: np.random.Generator) -> Unmasked:
    """Return the sum of the masks of a set of clients.

    Of R answers, R − U wrong ones are noticed, and ⌊(R − U)/2⌋ are found and left out; with more there is no guarantee.

    Args:
        parameters: the group's.
        answers: for R ≥ U holders j the sum of their shares, Σ_i f_i(α_j), shape (L,).
        size: d ≥ 1, elements of the sum.
        rng: not predictable to a holder when it answers.

    Raises:
        ValueError: too few answers, malformed ones, or ones that contradict one another, in plain words.
    """
    _check(parameters, answers, size)
    total, sound = _interpolated(parameters, answers, size)
    wrong: set[int] = set()
    if not sound:
        most = (len(answers) - parameters.U) // 2
        wrong = _wrong_holders(parameters, answers, most, rng)
        rest = {j: answer for j, answer in answers.items() if j not in wrong}
        # at most ⌊(R − U)/2⌋ are left out, so there still is an answer to check the others by
        total, sound = _interpolated(parameters, rest, size)
        if not sound:
            raise ValueError("they contradict one another, and still do without those that seem wrong")
    return Unmasked(total, len(answers) > parameters.U, tuple(sorted(wrong)))


def _check(parameters: Parameters, answers: Mapping[int, Elements], size: int) -> None:
    if size < 1:
        raise ValueError(f"a sum has one element or more, not {size}")
    if len(answers) < parameters.U:
        raise ValueError(f"{len(answers)} holders answered; {parameters.U} are needed")
    field, length = Field(parameters.p), parameters.L(size)
    for j, answer in answers.items():
        if not 0 <= j < parameters.A:
            raise ValueError(f"there is no holder {j}")
        if answer.shape != (length,) or answer.dtype != field.dtype:
            raise ValueError(f"the answer of holder {j} has not {length} elements of {field.dtype}")
        if int(answer.max()) >= field.p:
            raise ValueError(f"an element of holder {j}'s answer is not below {field.p}")


def _interpolated(parameters: Parameters, answers: Mapping[int, Elements], size: int) -> tuple[Elements, bool]:
    """Return the sum of masks that U of the answers make, and whether all the others agree with it everywhere."""
    holders = sorted(answers)
    known, others = holders[: parameters.U], holders[parameters.U :]
    field, alphas = Field(parameters.p), parameters.alphas
    matrix = field.lagrange([alphas[j] for j in known], [*parameters.betas, *(alphas[j] for j in others)])
    found = field.apply(matrix, [answers[j] for j in known])
    sound = all(np.array_equal(expected, answers[j]) for j, expected in zip(others, found[parameters.K :], strict=True))
    return found[: parameters.K].reshape(-1)[:size], sound


# --- who is wrong


def _wrong_holders(
    parameters: Parameters, answers: Mapping[int, Elements], most: int, rng: np.random.Generator
) -> set[int]:
    """Return the holders whose answers do not fit the others'.

    Raises:
        ValueError: there are more than `most`.
    """
    holders = sorted(answers)
    points = [parameters.alphas[j] for j in holders]
    checks = _parity_checks(parameters.p, points, len(holders) - parameters.U)
    combined = _combined(parameters.p, [answers[j] for j in holders], rng)
    wrong: set[int] = set()
    for syndromes in Field(parameters.p).product(checks, combined).T:
        places = _error_places(parameters.p, syndromes.tolist(), points)
        if places is not None:
            wrong.update(holders[place] for place in places)
        if places is None or len(wrong) > most:
            raise ValueError(f"they contradict one another, and more than {most} of {len(holders)} are wrong")
    return wrong


def _combined(p: int, answers: Sequence[Elements], rng: np.random.Generator) -> Matrix:
    """Return each answer's t random combinations of its coordinates, shape (R, t); the same t for all answers."""
    total = np.zeros((len(answers), COMBINATIONS[p]), np.int64)
    for start in range(0, len(answers[0]), _COLUMNS):
        some = np.stack([answer[start : start + _COLUMNS] for answer in answers]).astype(np.float64)
        factors = rng.integers(p, size=(some.shape[1], COMBINATIONS[p])).astype(np.float64)
        total = (total + (some @ factors).astype(np.int64)) % p
    return total


def _parity_checks(p: int, points: Sequence[int], count: int) -> Matrix:
    """Return what takes the values at R points of any polynomial of degree < R − count to zeros, shape (count, R).

    Row m is w_j·x_j^m, w_j the barycentric weights of the points.
    """
    rows, x = [Field(p).weights(points)], np.array(points, np.int64)
    while len(rows) < count:
        rows.append(rows[-1] * x % p)
    return np.stack(rows)


def _error_places(p: int, syndromes: Sequence[int], points: Sequence[int]) -> list[int] | None:
    """Return the places of the fewest errors that have these syndromes; None: there are more than half as many.

    Syndrome m is Σ y_j·x_j^m over the places of errors: a sequence whose shortest recurrence (Berlekamp–Massey) has the
    points of the errors as its roots.
    """
    recurrence, length = _shortest_recurrence(p, syndromes)
    places = [place for place, x in enumerate(points) if _value(p, recurrence, x) == 0]
    return places if 2 * length <= len(syndromes) and len(places) == length else None


def _value(p: int, coefficients: Iterable[int], x: int) -> int:
    """Return a polynomial's value, its highest coefficient first."""
    value = 0
    for each in coefficients:
        value = (value * x + each) % p
    return value


def _shortest_recurrence(p: int, sequence: Sequence[int]) -> tuple[list[int], int]:
    """Return c_0 = 1, c_1 … c_l with Σ c_k·s_(m−k) = 0 for all m ≥ l, and the least such l (Massey 1969)."""
    current, earlier = [1], [1]
    length, gap, pivot = 0, 1, 1  # gap: steps since `earlier` was off, by `pivot`
    for m in range(len(sequence)):
        off = sum(c * sequence[m - k] for k, c in enumerate(current)) % p
        if off == 0:
            gap += 1
            continue
        factor = off * pow(pivot, -1, p)
        mended = [(c - factor * e) % p for c, e in zip_longest(current, [0] * gap + earlier, fillvalue=0)]
        if 2 * length <= m:
            length, earlier, pivot, gap = m + 1 - length, current, off, 1
        else:
            gap += 1
        current = mended
    return current + [0] * (length + 1 - len(current)), length
