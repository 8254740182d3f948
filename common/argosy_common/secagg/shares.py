"""A client's mask and its seed-compressed shares (specs/secure-aggregation.md, 5, items 2 and 3).

A polynomial f of degree < U over F_p^L is uniform exactly if its values at any U points are. So the shares of U holders
are drawn, each from a seed of its own, and the mask's pieces f(β_1) … f(β_K) and the other shares follow from them by
interpolation. A holder whose share was drawn is sent the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from argosy_common.field import Field, Matrix
from argosy_common.prg import SEED_BYTES, Elements, Suite, derive, uniform
from argosy_common.secagg.parameters import Parameters

SEED = b"\0"
"""First byte of a share that is a seed of 32 bytes."""
ELEMENTS = b"\1"
"""First byte of a share that is its L elements, little-endian."""


@dataclass(frozen=True)
class Sharing:
    """One client's mask, and what lets any U holders of the group take the sum of masks off again.

    Attributes:
        mask: z, shape (d,).
        shares: for each holder j = 0 … A−1 the plaintext of its box, a type byte first; see `open_share`.
    """

    mask: Elements
    shares: tuple[bytes, ...]


def make_sharing(
    parameters: Parameters, suite: Suite, *, seed: bytes, sid: bytes, client: int, digest: bytes, size: int
) -> Sharing:
    """Draw a mask and share it.

    Args:
        parameters: the group's.
        suite: the round's cipher.
        seed: 32 fresh secret bytes.
        sid: the round's; with `digest` it is mixed in, so that a repeated seed does not repeat a mask.
        client: i, 0 … n−1.
        digest: H(q) of what is to be masked.
        size: d ≥ 1, elements of the mask.

    Raises:
        ValueError: a seed of another length, no such client, no elements.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    if not 0 <= client < parameters.n:
        raise ValueError(f"a group of {parameters.n} has no client {client}")
    if size < 1:
        raise ValueError(f"a mask has one element or more, not {size}")
    shares = {j: SEED + derive(seed, "share", sid, digest, client, j) for j in parameters.seeded(client)}
    drawn = [
        _expanded(parameters, suite, share[1:], sid=sid, client=client, holder=j, size=size)
        for j, share in shares.items()
    ]
    # the mask's pieces, then the shares of the other holders, in one product
    found = Field(parameters.p).apply(_interpolation(parameters, client), drawn)
    mask = found[: parameters.K].reshape(-1)[:size]
    for j, share in zip(parameters.explicit(client), found[parameters.K :], strict=True):
        shares[j] = ELEMENTS + _little_endian(share).tobytes()
    return Sharing(mask, tuple(shares[j] for j in range(parameters.A)))


def open_share(
    parameters: Parameters, suite: Suite, share: bytes, *, sid: bytes, client: int, holder: int, size: int
) -> Elements:
    """Return a holder's share of a client's mask, from the plaintext of its box.

    Args:
        parameters: the group's.
        suite: the round's cipher.
        share: as in `Sharing.shares`; it comes from a client that may lie.
        sid: the round's.
        client: i, whose mask it is a share of.
        holder: j, whose share it is.
        size: d ≥ 1, elements of the mask.

    Returns:
        f_i(α_j), shape (L,), L = ⌈d/K⌉.

    Raises:
        ValueError: it is malformed, in plain words.
    """
    kind, body = share[:1], share[1:]
    if kind not in (SEED, ELEMENTS):
        raise ValueError("a share begins with 0, a seed, or 1, elements")
    seeded = holder in parameters.seeded(client)
    if seeded is not (kind == SEED):
        due, sent = ("a seed", "elements") if seeded else ("elements", "a seed")
        raise ValueError(f"holder {holder} is due {due} from client {client}, not {sent}")
    field, length = Field(parameters.p), parameters.L(size)
    due_bytes = SEED_BYTES if seeded else length * field.dtype.itemsize
    if len(body) != due_bytes:
        raise ValueError(f"a share of {due_bytes} bytes is due, not of {len(body)}")
    if seeded:
        return _expanded(parameters, suite, body, sid=sid, client=client, holder=holder, size=size)
    elements: Elements = np.frombuffer(body, field.dtype.newbyteorder("<")).astype(field.dtype)
    if int(elements.max()) >= field.p:
        raise ValueError(f"an element is not below {field.p}")
    return elements


def _expanded(
    parameters: Parameters, suite: Suite, seed: bytes, *, sid: bytes, client: int, holder: int, size: int
) -> Elements:
    """Return the share that a holder's seed stands for, shape (L,)."""
    key = derive(seed, "mask", sid, client, holder)
    return uniform(suite, key, parameters.L(size), parameters.p)


@lru_cache(maxsize=64)
def _interpolation(parameters: Parameters, client: int) -> Matrix:
    """Return what takes the shares of the U seeded holders to the mask's pieces, then to the other shares.

    Returns:
        Shape (K + A − U, U). It is cached: not to be written to.
    """
    wanted = [*parameters.betas, *(parameters.alphas[j] for j in parameters.explicit(client))]
    known = [parameters.alphas[j] for j in parameters.seeded(client)]
    matrix = Field(parameters.p).lagrange(known, wanted)
    matrix.flags.writeable = False
    return matrix


def _little_endian(elements: Elements) -> Elements:
    return elements.astype(elements.dtype.newbyteorder("<"), copy=False)
