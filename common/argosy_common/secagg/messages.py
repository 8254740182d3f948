"""Messages 0 to 6, their bytes and their limits (specs/secure-aggregation.md, 6).

Each is a msgpack map of its class's fields; unknown fields, other types and other bytes than the canonical ones are
refused. What is large (y, boxes, sums) travels beside them as arrays, and is bound by its digest.

    0  `PrekeyBatch`   device → coordinator, ahead of time
    1  `Announcement`  coordinator → group; the same bytes for all
    2  `Header`        client → coordinator, with y and A boxes
    3  `Handover`      coordinator → holder: S, with the boxes for that holder
    4  `Vote`          holder → coordinator
    5  `Certificate`   coordinator → holders
    6  `Answer`        holder → coordinator, with its sum of shares
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from argosy_common.prg import Suite
from argosy_common.secagg import canonical
from argosy_common.secagg.canonical import Digest, Message
from argosy_common.secagg.limbs import MOST_SLOTS, Weighting
from argosy_common.secagg.parameters import MOST_HOLDERS
from argosy_common.secagg.sealing import (
    MOST_SIGNATURE,
    PREKEY_BYTES,
    SigningKey,
    VerifyingKey,
    sign,
    signed,
    verifying_key,
)

LABEL = b"argosy/secagg/v1"
PREKEYS = "argosy/secagg/prekeys"
MOST_PREKEYS = 256
"""Of a batch."""
MOST_BYTES = canonical.MOST_BYTES
"""Of any message, arrays apart."""
MOST_VALUES = 2**30
COORDINATOR = "the coordinator"

Signature = Annotated[bytes, Field(min_length=8, max_length=MOST_SIGNATURE)]
PublicKey = Annotated[bytes, Field(min_length=32, max_length=128)]
Key = Annotated[bytes, Field(min_length=PREKEY_BYTES, max_length=PREKEY_BYTES)]
Index = Annotated[int, Field(ge=0, lt=MOST_HOLDERS)]
Indices = Annotated[tuple[Index, ...], Field(max_length=MOST_HOLDERS)]
Small = Annotated[int, Field(ge=0, le=MOST_HOLDERS)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(max_length=256)]
Slot = tuple[Name, Annotated[int, Field(ge=-1, le=MOST_SLOTS)]]


class Prekey(Message):
    """One single-use key of a batch, as rosters have it: its path leads to the root that its holder signed.

    So whoever meets many keys of a batch checks one signature.
    """

    identity: PublicKey
    """DER SubjectPublicKeyInfo, P-256."""
    key: Key
    index: Annotated[int, Field(ge=0, lt=MOST_PREKEYS)] = 0
    """Its place in the batch."""
    path: Annotated[tuple[Digest, ...], Field(max_length=8)] = ()
    """Its siblings in the batch's Merkle tree, from the leaf up."""
    signature: Signature
    """The identity key's, on the root."""

    def holds(self) -> bool:
        """Tell whether the signature is that of its identity, for a batch that has this key at its place."""
        node, index = _leaf(self.key), self.index
        for sibling in self.path:
            node = _node(sibling, node) if index & 1 else _node(node, sibling)
            index >>= 1
        return not index and _signed_root(self.identity, self.signature, node)


class PrekeyBatch(Message):
    """Message 0: single-use keys, all under one signature."""

    identity: PublicKey
    keys: Annotated[tuple[Key, ...], Field(min_length=1, max_length=MOST_PREKEYS)]
    """X25519."""
    signature: Signature

    @classmethod
    def made(cls, identity_key: SigningKey, identity: bytes, keys: Sequence[bytes]) -> Self:
        """Sign keys as their holder, whose identity key this is."""
        root = _levels(keys)[-1][0]
        return cls(identity=identity, keys=tuple(keys), signature=sign(identity_key, PREKEYS, root))

    def prekeys(self) -> list[Prekey]:
        """Return the keys one by one."""
        levels = _levels(self.keys)
        return [
            Prekey(
                identity=self.identity,
                key=key,
                index=index,
                path=tuple(level[index >> height ^ 1] for height, level in enumerate(levels[:-1])),
                signature=self.signature,
            )
            for index, key in enumerate(self.keys)
        ]


def _levels(keys: Sequence[bytes]) -> list[list[bytes]]:
    """Return a batch's Merkle tree from the leaves to the root; missing leaves are zero."""
    width = 1 << (len(keys) - 1).bit_length()
    levels = [[*map(_leaf, keys), *[bytes(32)] * (width - len(keys))]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_node(*below[at : at + 2]) for at in range(0, len(below), 2)])
    return levels


def _leaf(key: bytes) -> bytes:
    return hashlib.sha256(b"\0" + key).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


@lru_cache(maxsize=4096)
def _signed_root(identity: bytes, signature: bytes, root: bytes) -> bool:
    """Tell whether a root is signed; remembered, as a batch lasts for many rounds."""
    try:
        return signed(verifying_key(identity), signature, PREKEYS, root)
    except ValueError:
        return False


class Prior(Message):
    """How the attempt before this one ended (section 3)."""

    sid: Digest
    certificate: Annotated[bytes, Field(max_length=128 * 1024)] = b""
    """Of that attempt; empty with an override."""
    override: Annotated[bytes, Field(max_length=MOST_SIGNATURE)] = b""
    """The operator's signature on that sid: it may count as aborted."""


class Announcement(Message):
    """Message 1: all that a round of one group is, the same for all its members."""

    v: Literal[1] = 1
    coordinator: PublicKey
    """The key of this run, DER; the run's id is that of the key."""
    run: Annotated[bytes, Field(min_length=16, max_length=16)]
    round: Count
    """Counts the secure phases of the run, so that it strictly increases."""
    attempt: Annotated[int, Field(ge=0, lt=1000)] = 0
    group: Annotated[int, Field(ge=0, lt=2**20)] = 0
    suite: Literal["aes256-ctr", "chacha20"]
    p: Annotated[int, Field(ge=0, lt=2**20)]
    A: Small
    U: Small
    T: Small
    n_min: Small
    size: Annotated[int, Field(ge=0, le=MOST_VALUES)]
    """Values of an update, before the codec; 0 where only metrics are summed."""
    weighting: Literal["powers", "equal", "exact"]
    weight: Name = "num-examples"
    """The metric that clients are weighted by."""
    w_cap: Annotated[int, Field(ge=1, lt=2**32)]
    digits: Literal[1, 2] = 1
    """Of the ring codec: two where the scales are a guess."""
    slots: Annotated[int, Field(ge=0, le=MOST_SLOTS)]
    """How many metrics the limbs have room for."""
    seed: Digest
    """Public: of the rotation, the dithers and the projections."""
    scales: Annotated[bytes, Field(max_length=MOST_VALUES // 1024)]
    """float32, little-endian, one a block."""
    fleet_version: Count
    """0 where there is no fleet list."""
    deadline_s: Annotated[float, Field(gt=0, le=1e9)]
    """From its arrival. Only the coordinator judges it."""
    instruction: Digest
    """Of the whole instruction that all members get."""
    fixed: Annotated[tuple[Digest, ...], Field(max_length=MOST_HOLDERS)] = ()
    """Fingerprints of the only set that may be summed; empty: any."""
    prior: Prior | None = None
    roster: Annotated[tuple[Prekey, ...], Field(min_length=1, max_length=MOST_HOLDERS)]

    @cached_property
    def sid(self) -> bytes:
        """SHA-256 of the label and these bytes."""
        return hashlib.sha256(LABEL + self.packed).digest()

    @property
    def prg(self) -> Suite:
        """The cipher."""
        return Suite(self.suite)

    @property
    def weights(self) -> Weighting:
        """How weights are rounded."""
        return Weighting(self.weighting)

    @property
    def block_scales(self) -> NDArray[np.float32]:
        """The scales as an array."""
        return np.frombuffer(self.scales[: len(self.scales) // 4 * 4], "<f4").astype(np.float32)


def run_id(coordinator: bytes) -> bytes:
    """Return the 128-bit id of the run whose key (DER) this is."""
    return hashlib.sha256(b"argosy/secagg/run" + coordinator).digest()[:16]


class Signed(Message):
    """Message 1 as it travels, signed by the run's key."""

    announcement: Annotated[bytes, Field(max_length=MOST_BYTES)]
    signature: Signature


class Header(Message):
    """What a client signs of message 2, and what holders see of it."""

    sid: Digest
    client: Index
    ephemeral: Key
    y: Digest
    """SHA-256 of y, little-endian."""
    boxes: Annotated[tuple[Digest, ...], Field(max_length=MOST_HOLDERS)]
    """SHA-256 of each holder's box."""
    arrays: Name = ""
    """The name of the reply's record of arrays."""
    metrics: Name = ""
    """That of its record of metrics, and what their slots mean."""
    slots: Annotated[
        tuple[tuple[Name, Annotated[int, Field(ge=-1, le=MOST_SLOTS)]], ...], Field(max_length=MOST_SLOTS)
    ] = ()
    """(name, how many values a list of that name has, or −1 for a number)."""

    @cached_property
    def digest(self) -> bytes:
        """H(message 2): it binds y and the boxes by their digests."""
        return hashlib.sha256(b"argosy/secagg/message-2" + self.packed).digest()


class SignedHeader(Message):
    """A header with its client's signature."""

    header: Annotated[bytes, Field(max_length=64 * 1024)]
    signature: Signature

    @classmethod
    def made(cls, identity_key: SigningKey, header: Header) -> Self:
        """Sign a header."""
        return cls(
            header=header.packed, signature=sign(identity_key, "argosy/secagg/update", header.sid, header.packed)
        )

    def holds(self, identity: VerifyingKey, sid: bytes) -> bool:
        """Tell whether the signature is that of `identity` for this round."""
        return signed(identity, self.signature, "argosy/secagg/update", sid, self.header)


class Handover(Message):
    """Message 3: the set S by its members' signed headers; the same for all holders."""

    sid: Digest
    headers: Annotated[tuple[SignedHeader, ...], Field(max_length=MOST_HOLDERS)]
    """Empty: the coordinator asks to abort."""


class Vote(Message):
    """Message 4: the one thing that a holder ever says of a sid."""

    sid: Digest
    holder: Index
    root: Annotated[bytes, Field(max_length=32)]
    """Merkle root over (i, H(message 2 of i)); empty: ABORT."""
    members: Indices
    """S."""
    complaints: Indices = ()
    """Members of S whose box for this holder is malformed."""
    signature: Annotated[bytes, Field(max_length=MOST_SIGNATURE)] = b""

    def _statement(self) -> tuple[bytes, bytes, bytes, bytes]:
        return self.sid, self.root, bytes_of(self.members), bytes_of(self.complaints)

    def signed_by(self, identity_key: SigningKey) -> Self:
        """Return the vote with its holder's signature."""
        signature = sign(identity_key, "argosy/secagg/vote", *self._statement())
        return self.changed(signature=signature)

    def holds(self, identity: VerifyingKey) -> bool:
        """Tell whether the signature is that of `identity`."""
        return signed(identity, self.signature, "argosy/secagg/vote", *self._statement())


class Certificate(Message):
    """Message 5: votes of Q holders or more for one root."""

    votes: Annotated[tuple[Vote, ...], Field(min_length=1, max_length=MOST_HOLDERS)]


class Answer(Message):
    """Message 6: what a holder signs of its sum of shares."""

    sid: Digest
    holder: Index
    members: Indices
    """Whose shares were added: the certified set."""
    total: Digest
    """SHA-256 of the sum, little-endian."""
    signature: Annotated[bytes, Field(max_length=MOST_SIGNATURE)] = b""

    def signed_by(self, identity_key: SigningKey) -> Self:
        """Return the answer with its holder's signature."""
        signature = sign(identity_key, "argosy/secagg/answer", self.sid, bytes_of(self.members), self.total)
        return self.changed(signature=signature)

    def holds(self, identity: VerifyingKey) -> bool:
        """Tell whether the signature is that of `identity`."""
        return signed(identity, self.signature, "argosy/secagg/answer", self.sid, bytes_of(self.members), self.total)


def bytes_of(indices: Sequence[int]) -> bytes:
    """Return indices as bytes, two each, big-endian."""
    return b"".join(each.to_bytes(2, "big") for each in indices)
