"""The numbers of a group, which every device works out for itself (specs/secure-aggregation.md, 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

PRIMES = (65521, 251)
"""Two bytes an element, or one."""
MOST_CLIENTS = {65521: 64, 251: 32}
FEWEST_CLIENTS = 4
"""With fewer there is no T ≥ 1 with U ≤ A − T."""
MOST_HOLDERS = 256


@dataclass(frozen=True)
class Parameters:
    """The numbers of a group, under the specification's names.

    Attributes:
        n: clients.
        A: holders of shares.
        U: holders needed to finish; also the number of points that fix a mask's polynomial.
        T: colluding holders tolerated.
        p: the field's prime.

    Raises:
        ValueError: numbers that are not those of the specification for this n, A and p.
    """

    n: int
    A: int
    U: int
    T: int
    p: int

    def __post_init__(self) -> None:
        """Check them, as a device does with what it is sent."""
        if self.p not in PRIMES:
            raise ValueError(f"p is {self.p}, not 65521 or 251")
        if not FEWEST_CLIENTS <= self.n <= MOST_CLIENTS[self.p]:
            raise ValueError(
                f"mod {self.p} a group has {FEWEST_CLIENTS} to {MOST_CLIENTS[self.p]} clients, not {self.n}"
            )
        if not FEWEST_CLIENTS <= self.A <= MOST_HOLDERS:
            raise ValueError(f"a group has {FEWEST_CLIENTS} to {MOST_HOLDERS} holders, not {self.A}")
        if self.U != -(-3 * self.A // 4) or self.T != self.A // 4:
            raise ValueError(f"{self.A} holders make U = {-(-3 * self.A // 4)} and T = {self.A // 4}")
        if not (self.T >= 1 and self.Q <= self.U <= self.A - self.T and self.p > self.A + self.K):
            raise ValueError(f"no group of {self.n} clients and {self.A} holders is safe mod {self.p}")

    @classmethod
    def of(cls, n: int, p: int, *, A: int | None = None) -> Self:  # noqa: N803  (the specification's name)
        """Return those of n clients and A holders, by default the clients themselves.

        Raises:
            ValueError: there are none.
        """
        holders = n if A is None else A
        return cls(n, holders, -(-3 * holders // 4), holders // 4, p)

    @property
    def K(self) -> int:  # noqa: N802  (the specification's name)
        """Pieces of a mask."""
        return self.U - self.T

    @property
    def Q(self) -> int:  # noqa: N802  (the specification's name)
        """Votes that certify a set: any two certificates share an honest holder."""
        return (self.A + self.T) // 2 + 1

    @property
    def T_clients(self) -> int:  # noqa: N802  (the specification's name)
        """Clients that may collude with the coordinator."""
        return self.n // 4

    @property
    def n_min(self) -> int:
        """Fewest distinct clients in an aggregate."""
        return max(3, self.T_clients + 2, -(-self.n // 2))

    def L(self, d: int) -> int:  # noqa: N802  (the specification's name)
        """Return the elements of a share of a vector of `d` elements."""
        return -(-d // self.K)

    @property
    def alphas(self) -> range:
        """α_0 … α_{A−1}, where the holders' shares are."""
        return range(self.A)

    @property
    def betas(self) -> range:
        """β_1 … β_K, where the mask's pieces are."""
        return range(self.A + 1, self.A + self.K + 1)

    def seeded(self, i: int) -> list[int]:
        """Return the U holders that get a seed from client i; the others get their share's elements.

        Which those are rotates with the client's index, so that no holder has all the long ones.
        """
        explicit = {(i + step * self.A // (self.A - self.U)) % self.A for step in range(self.A - self.U)}
        return [j for j in range(self.A) if j not in explicit]

    def explicit(self, i: int) -> Iterator[int]:
        """Yield the A − U holders that get elements from client i."""
        seeded = set(self.seeded(i))
        return (j for j in range(self.A) if j not in seeded)
