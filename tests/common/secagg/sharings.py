"""Groups, sharings and what holders answer, for the tests of shares and decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from argosy_common.field import Field
from argosy_common.prg import Elements, Suite
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.shares import Sharing, make_sharing, open_share

SID = bytes(range(32))
DIGEST = bytes(range(32, 64))


def sharing(group: Parameters, client: int, size: int, *, seed: int = 0, suite: Suite = Suite.AES) -> Sharing:
    """Return a client's mask and shares; other seeds give other ones."""
    secret = seed.to_bytes(32, "big")
    return make_sharing(group, suite, seed=secret, sid=SID, client=client, digest=DIGEST, size=size)


def opened(group: Parameters, share: bytes, client: int, holder: int, size: int) -> Elements:
    """Return a share of `sharing`, opened."""
    return open_share(group, Suite.AES, share, sid=SID, client=client, holder=holder, size=size)


def answers_of(group: Parameters, sharings: Sequence[Sharing], size: int) -> dict[int, Elements]:
    """Return each holder's sum of the shares of clients 0, 1, …"""
    field = Field(group.p)
    return {
        j: field.total(opened(group, each.shares[j], i, j, size) for i, each in enumerate(sharings))
        for j in range(group.A)
    }


def integer_sum(group: Parameters, sharings: Sequence[Sharing]) -> list[int]:
    """Return the sum of masks, by Python's integers."""
    return [sum(column) % group.p for column in zip(*(each.mask.tolist() for each in sharings), strict=True)]


def generator(seed: int = 5) -> np.random.Generator:
    """Return randomness that is the same every time."""
    return np.random.default_rng(seed)
