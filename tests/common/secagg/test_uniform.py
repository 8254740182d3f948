"""What leaves a client looks the same whatever its update: y, and any T shares of the mask under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from argosy_common.field import Field
from argosy_common.prg import Elements, Suite
from argosy_common.secagg.admission import Admission, Policy, admit
from argosy_common.secagg.client import ClientUpdate, MaskedUpdate, mask_update, vector_length
from argosy_common.secagg.messages import Announcement, Header, PrekeyBatch, run_id
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.sealing import BoxAddress, fingerprint, public_der, raw_public, unseal
from argosy_common.secagg.shares import open_share
from argosy_common.x509 import generate_key

P, SIZE, ROUNDS = 251, 300, 200
KEYS = [generate_key() for _ in range(8)]
PREKEYS = [X25519PrivateKey.generate() for _ in KEYS]
PARAMETERS = Parameters.of(8, P)


def admission(round_: int) -> Admission:
    """One of many rounds of a group of eight, T = 2, as its client 3 sees it."""
    coordinator = public_der(KEYS[0].public_key())
    roster = tuple(
        PrekeyBatch.made(key, public_der(key.public_key()), [raw_public(prekey)]).prekeys()[0]
        for key, prekey in zip(KEYS, PREKEYS, strict=True)
    )
    made = Announcement(
        coordinator=coordinator, run=run_id(coordinator), round=round_, suite="chacha20", p=P, A=8, U=6, T=2, n_min=4,
        size=SIZE, weighting="equal", w_cap=1, slots=1, seed=bytes(32), scales=b"\0\0\x80\x3f", fleet_version=0,
        deadline_s=1.0, instruction=bytes(32), roster=roster,
    )  # fmt: skip
    return admit(made, fingerprint(public_der(KEYS[3].public_key())), Policy())


def chi_square(values: NDArray[np.int64]) -> float:
    """Return the statistic against uniform over 0 … P − 1, in standard deviations from its mean."""
    expected = len(values) / P
    counts = np.bincount(values, minlength=P)
    return float((np.sum((counts - expected) ** 2) / expected - (P - 1)) / np.sqrt(2 * (P - 1)))


def opened(seen: Admission, masked: MaskedUpdate) -> dict[int, Elements]:
    """Return every holder's share, out of its box."""
    ephemeral = Header.parse(masked.signed.header, peer="it").ephemeral
    size, shares = vector_length(seen.announcement), {}
    for j, box in enumerate(masked.boxes):
        address = BoxAddress(seen.sid, seen.fingerprints[3], seen.fingerprints[j])
        share = unseal(Suite.CHACHA, PREKEYS[j], ephemeral, address, box)
        shares[j] = open_share(PARAMETERS, Suite.CHACHA, share, sid=seen.sid, client=3, holder=j, size=size)
    return shares


Update = Callable[[int], NDArray[np.float32]]


@pytest.mark.parametrize(
    "update",
    [lambda _: np.zeros(SIZE, np.float32), lambda r: np.full(SIZE, 0.7 * (r % 2), np.float32)],
    ids=["zeros", "the same again and again"],
)
def test_y_alone_and_any_t_shares_are_uniform(update: Update) -> None:
    """Each by itself, and their sums and differences, which would show what they have in common."""
    ys: list[Elements] = []
    shares: dict[int, list[Elements]] = {j: [] for j in range(8)}
    for round_ in range(ROUNDS):
        seen = admission(round_)
        masked = mask_update(seen, KEYS[3], ClientUpdate(update(round_), 1.0), np.random.default_rng(round_).bytes)
        ys.append(masked.y)
        for j, share in opened(seen, masked).items():
            shares[j].append(share)
    y = np.concatenate(ys).astype(np.int64)
    assert abs(chi_square(y)) < 7
    together = {j: np.concatenate(each).astype(np.int64) for j, each in shares.items()}
    pieces = in_pieces(ys)
    for j, one in together.items():
        assert abs(chi_square(one)) < 7
        for k in range(j):
            assert abs(chi_square((one - together[k]) % P)) < 7
        for piece in pieces:  # the mask's own pieces are values of the same polynomial
            assert abs(chi_square((one + piece) % P)) < 7
            for k in range(j):
                assert abs(chi_square((one + 2 * together[k] + piece) % P)) < 7


def in_pieces(ys: Sequence[Elements]) -> list[NDArray[np.int64]]:
    """Return the K pieces of all rounds' y, each as long as a share."""
    length = PARAMETERS.L(len(ys[0]))
    padded = [np.pad(y.astype(np.int64), (0, PARAMETERS.K * length - len(y))) for y in ys]
    pieces = [np.concatenate([each[at * length : (at + 1) * length] for each in padded]) for at in range(PARAMETERS.K)]
    return pieces[:-1]  # the last is padded


def test_the_statistic_finds_what_u_shares_give_away() -> None:
    """Else a bound of seven deviations would mean nothing: with U shares y is the update of zeros again."""
    odd = []
    for round_ in range(ROUNDS // 4):
        seen = admission(round_)
        update = ClientUpdate(np.zeros(SIZE, np.float32), 1.0)
        masked = mask_update(seen, KEYS[3], update, np.random.default_rng(round_).bytes)
        shares = opened(seen, masked)
        known = range(PARAMETERS.U)
        matrix = Field(P).lagrange([PARAMETERS.alphas[j] for j in known], list(PARAMETERS.betas))
        mask = Field(P).apply(matrix, [shares[j] for j in known]).reshape(-1)[: len(masked.y)]
        odd.append(Field(P).subtract(masked.y, mask))
    assert chi_square(np.concatenate(odd).astype(np.int64)) > 1000
