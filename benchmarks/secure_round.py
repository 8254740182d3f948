"""One group's rounds of ours, device and coordinator code, in this process and on plain vectors.

What runs is `argosy_common.secagg` as a secure run has it, in the order of the messages; signatures, boxes and checks
included. Journals, the wire and Flower's records are not, on either side of the comparison.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from argosy_common.codec.ring import Ring, RingRound, next_scales
from argosy_common.secagg.admission import Policy, admit, opened
from argosy_common.secagg.client import ClientUpdate, mask_update
from argosy_common.secagg.holder import add_shares, cast_vote, open_boxes, read_certificate, read_set
from argosy_common.secagg.messages import Announcement, PrekeyBatch, Signed, run_id
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.round import GroupRound, GroupSum
from argosy_common.secagg.sealing import SigningKey, fingerprint, public_der, raw_public, sign
from benchmarks.cpu import Cpu

Vector = NDArray[np.float32]

SERVER, CLIENT, HOLDER = "server", "client", "holder"


class Device:
    """One board: its identity, and the prekey it is reached under."""

    def __init__(self) -> None:
        self.key: SigningKey = ec.generate_private_key(ec.SECP256R1())
        self.prekey = X25519PrivateKey.generate()
        identity = public_der(self.key.public_key())
        self.fingerprint = fingerprint(identity)
        self.signed_prekey = PrekeyBatch.made(self.key, identity, [raw_public(self.prekey)]).prekeys()[0]


@dataclass(frozen=True)
class Ours:
    """What rounds came to; the mean of the devices that stayed.

    Attributes:
        sum: the last round's.
        client_s: CPU seconds of a device up to its masked update.
        holder_s: CPU seconds of the same device after it, as one of the holders.
        server_s: CPU seconds of the coordinator.
        bytes_up: that a device sends, masked update, vote and sum of shares.
    """

    sum: GroupSum
    client_s: float
    holder_s: float
    server_s: float
    bytes_up: float


class Group:
    """n devices, clients and holders at once, with an update each; the last `dropping` never answer.

    Args:
        vectors: one a device.
        dropping: how many vanish once they are in the roster.
    """

    def __init__(self, vectors: Sequence[Vector], dropping: int) -> None:
        self.devices = [Device() for _ in vectors]
        self._vectors = vectors
        self._staying = range(len(vectors) - dropping)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._scales = self._learned()
        self._round = 0

    def rounds(self, p: int, times: int) -> Ours:
        """Run so many rounds mod p, and one before them that is not counted: code and caches are warm then."""
        self._one(p, Cpu())
        cpu = Cpu()
        for _ in range(times):
            sent, found = self._one(p, cpu)
        each = times * len(self._staying)
        return Ours(found, cpu.seconds[CLIENT] / each, cpu.seconds[HOLDER] / each, cpu.seconds[SERVER] / times, sent)

    def _learned(self) -> NDArray[np.float32]:
        """Return scales as a run's second round has them: of a first sum, whose scales were a guess."""
        n, size = len(self._vectors), len(self._vectors[0])
        shared = RingRound.first(bytes(32), size, n, 1.0)
        shared = RingRound(shared.seed, size, n, shared.scales, digits=2)
        ring = Ring(65521)
        total = ring.add(
            [ring.encode_shared(v, shared, i, bytes(31) + bytes([i])) for i, v in enumerate(self._vectors)]
        )
        return next_scales(shared, ring.decode_sum(total, shared))

    def _announced(self, p: int) -> Announcement:
        self._round += 1
        parameters = Parameters.of(len(self.devices), p)
        coordinator = public_der(self._key.public_key())
        suite: Literal["aes256-ctr", "chacha20"] = "aes256-ctr"
        return Announcement(
            coordinator=coordinator,
            run=run_id(coordinator),
            round=self._round,
            suite=suite,
            p=p,
            A=parameters.A,
            U=parameters.U,
            T=parameters.T,
            n_min=parameters.n_min,
            size=len(self._vectors[0]),
            weighting="equal",
            w_cap=1,
            slots=1,
            seed=os.urandom(32),
            scales=self._scales.astype("<f4").tobytes(),
            fleet_version=0,
            deadline_s=600.0,
            instruction=os.urandom(32),
            roster=tuple(device.signed_prekey for device in self.devices),
        )

    def _one(self, p: int, cpu: Cpu) -> tuple[float, GroupSum]:
        """Run one round; return the bytes that a device sent, and the sum."""
        policy = Policy()
        with cpu.of(SERVER):
            announcement = self._announced(p)
            signature = sign(self._key, "argosy/secagg/announcement", announcement.packed)
            message_1 = Signed(announcement=announcement.packed, signature=signature).packed
            admission = admit(opened(message_1), self.devices[0].fingerprint, policy)
            group = GroupRound(admission, np.random.default_rng())
        # message 2
        admissions, updates = {}, {}
        for i in self._staying:
            device = self.devices[i]
            with cpu.of(CLIENT):
                admissions[i] = admit(opened(message_1), device.fingerprint, policy)
                update = ClientUpdate(self._vectors[i], 100.0, (0.5,), "arrays", "metrics", (("loss", -1),))
                updates[i] = mask_update(admissions[i], device.key, update, os.urandom)
        with cpu.of(SERVER):
            for i, masked in updates.items():
                group.take_update(masked.signed, i, lambda y=masked.y: y)  # type: ignore[misc]  # bound now
            handover = group.close()
        # messages 3 and 4
        shares, sets = {}, {}
        for j in self._staying:
            with cpu.of(HOLDER):
                sets[j] = read_set(admissions[j], handover)
                boxes = {i: masked.boxes[j] for i, masked in updates.items()}
                shares[j], complaints = open_boxes(admissions[j], self.devices[j].prekey, sets[j], boxes)
                vote = cast_vote(admissions[j], self.devices[j].key, sets[j], complaints)
            with cpu.of(SERVER):
                group.take_vote(vote, j)
        # messages 5 and 6
        with cpu.of(SERVER):
            certificate = group.certify(self._round)
        sent = len(vote.packed)
        for j in self._staying:
            with cpu.of(HOLDER):
                certified = read_certificate(admissions[j], certificate, sets[j])
                answer, total = add_shares(admissions[j], self.devices[j].key, shares[j], certified.members)
            with cpu.of(SERVER):
                group.take_answer(answer, total, j)
        with cpu.of(SERVER):
            found = group.recover(self._round, {})
        sent += len(answer.packed) + total.nbytes
        message_2 = [len(m.signed.packed) + m.y.nbytes + sum(map(len, m.boxes)) for m in updates.values()]
        return sent + sum(message_2) / len(message_2), found
