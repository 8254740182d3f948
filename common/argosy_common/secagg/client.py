"""The client's stage: from an update to message 2 (specs/secure-aggregation.md, 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from argosy_common.codec.base import Vector
from argosy_common.codec.ring import Ring, RingRound
from argosy_common.errors import RosterInvalid
from argosy_common.field import Field
from argosy_common.prg import SEED_BYTES, Elements
from argosy_common.secagg.admission import Admission
from argosy_common.secagg.limbs import Limbs
from argosy_common.secagg.messages import Announcement, Header, SignedHeader, Slot
from argosy_common.secagg.sealing import BoxAddress, SigningKey, raw_public, seal
from argosy_common.secagg.shares import make_sharing

Entropy = Callable[[int], bytes]
"""Returns that many fresh secret bytes, as `os.urandom` does."""


@dataclass(frozen=True)
class ClientUpdate:
    """What one client has to say in a round.

    Attributes:
        values: shape (d,), float32: trained − received; empty where only metrics are summed.
        examples: its weight before rounding, ≥ 0.
        metrics: one value a slot; NaN counts as absent.
        arrays, record, slots: names for the aggregate; see `Header`.
    """

    values: Vector
    examples: float
    metrics: tuple[float, ...] = ()
    arrays: str = ""
    record: str = ""
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class MaskedUpdate:
    """Message 2.

    Attributes:
        signed: the header, signed.
        y: q + z mod p; what it has to do with the update only U holders can tell.
        boxes: for each holder its share, sealed.
    """

    signed: SignedHeader
    y: Elements
    boxes: tuple[bytes, ...]


def ring_round(announcement: Announcement) -> RingRound:
    """Return what the ring codec needs of message 1."""
    return RingRound(
        seed=announcement.seed,
        size=announcement.size,
        clients=len(announcement.roster),
        scales=announcement.block_scales,
        suite=announcement.prg,
        digits=announcement.digits,
    )


def limbs_of(announcement: Announcement) -> Limbs:
    """Return the layout of limbs that message 1 says."""
    return Limbs(len(announcement.roster), announcement.p, announcement.slots)


def vector_length(announcement: Announcement) -> int:
    """Return the elements of y: the codes, then the limbs."""
    return code_count(announcement) + limbs_of(announcement).count


def code_count(announcement: Announcement) -> int:
    """Return the elements of y that are codes."""
    return Ring(announcement.p).code_count(announcement.size, announcement.digits)


def digest_of(elements: Elements) -> bytes:
    """Return the SHA-256 of elements as little-endian bytes."""
    little = np.ascontiguousarray(elements, elements.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data).digest()


def mask_update(admission: Admission, key: SigningKey, update: ClientUpdate, entropy: Entropy) -> MaskedUpdate:
    """Return message 2 of this device. Once made it is written down, and never made again under this sid.

    Raises:
        ValueError: values that are not finite, of another number than message 1 says, or a weight that is none.
        RosterInvalid: a member's prekey is one that nobody can seal a box to.
    """
    announcement, parameters = admission.announcement, admission.parameters
    # 1 encode, weighted, and append the limbs
    q = _encoded(admission, update, entropy)
    # 2, 3 mask
    sharing = make_sharing(
        parameters,
        announcement.prg,
        seed=entropy(SEED_BYTES),
        sid=announcement.sid,
        client=admission.index,
        digest=digest_of(q),
        size=len(q),
    )
    y = Field(parameters.p).add(q, sharing.mask)
    # 4 box the shares, and sign the whole
    ephemeral = X25519PrivateKey.from_private_bytes(entropy(SEED_BYTES))
    own = admission.fingerprints[admission.index]
    boxes: list[bytes] = []
    for member, holder, share in zip(announcement.roster, admission.fingerprints, sharing.shares, strict=True):
        address = BoxAddress(announcement.sid, own, holder)
        try:
            boxes.append(seal(announcement.prg, ephemeral, member.key, address, share))
        except ValueError:
            why = f"the key of member {holder.hex()[:16]} agrees on nothing secret"
            raise RosterInvalid(why=why) from None
    header = Header(
        sid=announcement.sid,
        client=admission.index,
        ephemeral=raw_public(ephemeral),
        y=digest_of(y),
        boxes=tuple(hashlib.sha256(box).digest() for box in boxes),
        arrays=update.arrays,
        metrics=update.record,
        slots=update.slots,
    )
    return MaskedUpdate(SignedHeader.made(key, header), y, tuple(boxes))


def _encoded(admission: Admission, update: ClientUpdate, entropy: Entropy) -> Elements:
    announcement = admission.announcement
    weight, capped = announcement.weights.of(update.examples, announcement.w_cap)
    values = update.values * np.float32(weight / announcement.w_cap)
    ring = Ring(announcement.p)
    codes = ring.encode_shared(values, ring_round(announcement), admission.index, entropy(SEED_BYTES))
    limbs = limbs_of(announcement).encode(weight, capped=capped, cap=announcement.w_cap, metrics=update.metrics)
    return np.concatenate([codes, limbs])
