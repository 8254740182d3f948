"""What a malicious coordinator needs: the round that an honest one announced, to change and to sign anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from argosy_common.flower.secure import HOLDER, SECAGG, parcels
from argosy_common.flower.secure.digest import instruction_digest
from argosy_common.flower.secure.parcels import Stage
from argosy_common.secagg.messages import (
    Announcement,
    Certificate,
    Handover,
    Prekey,
    PrekeyBatch,
    Signed,
    SignedHeader,
    Vote,
    run_id,
)
from argosy_common.secagg.parameters import Parameters
from argosy_common.secagg.sealing import public_der, sign
from tests.common.flower.secure.fleet import SecureFleet, instructions

KEY = ec.generate_private_key(ec.SECP256R1())
"""The malicious coordinator's."""


class Attacker:
    """A coordinator that talks to devices by hand, with their own handlers at the other end.

    Attributes:
        fleet: the devices.
        prekeys: unused ones, by node.
    """

    def __init__(self, fleet: SecureFleet) -> None:
        self.fleet = fleet
        self.prekeys: dict[int, list[Prekey]] = {}
        for node in fleet.nodes:
            reply = fleet.deliver(node, self.query(node, Stage.PREKEYS, {"count": 16}))
            self.prekeys[node] = fleet_batch(reply)

    def query(self, node: int, stage: str, fields: Mapping[str, Any], **records: ArrayRecord) -> Message:
        """Return a message to a holder."""
        content = RecordDict({SECAGG: ConfigRecord({"stage": stage, **fields})})
        for name, record in records.items():
            content[f"{SECAGG}.{name}"] = record
        return Message(content, node, HOLDER)

    def announce(
        self,
        nodes: Sequence[int],
        round_: int,
        key: ec.EllipticCurvePrivateKey = KEY,
        **changed: Any,  # noqa: ANN401  (fields of message 1)
    ) -> Announcement:
        """Return an honest message 1 for these nodes, or one with some fields changed."""
        content = instructions(self.fleet, number=round_)[0].content
        parameters = Parameters.of(len(nodes), 65521)
        coordinator = public_der(key.public_key())
        fields: dict[str, Any] = {
            "coordinator": coordinator,
            "run": run_id(coordinator),
            "round": round_,
            "suite": "aes256-ctr",
            "p": 65521,
            "A": parameters.A,
            "U": parameters.U,
            "T": parameters.T,
            "n_min": parameters.n_min,
            "size": 5011,
            "weighting": "powers",
            "w_cap": 1024,
            "slots": 8,
            "seed": bytes(32),
            "scales": b"\0\0\x80\x3f" * 2,
            "digits": 2,
            "fleet_version": 0,
            "deadline_s": 60.0,
            "instruction": instruction_digest("train", content, app=b"", run_config={}),
            "roster": tuple(self.prekeys[node].pop() for node in nodes),
        }
        return Announcement(**{**fields, **changed})

    def train(
        self, node: int, announcement: Announcement, content: RecordDict | None = None, **records: ArrayRecord
    ) -> Message:
        """Send a device its instruction with this message 1; return its reply."""
        if content is None:
            content = instructions(self.fleet, number=announcement.round)[0].content
        bound = RecordDict({**dict(content)})
        bound[SECAGG] = ConfigRecord({"stage": Stage.UPDATE, parcels.MESSAGE_1: signed_blob(announcement)})
        for name, record in records.items():
            bound[f"{SECAGG}.{name}"] = record
        return self.fleet.deliver(node, Message(bound, node, "train"))

    def collect(self, nodes: Sequence[int], announcement: Announcement) -> dict[int, Message]:
        """Return every client's message 2, by its index."""
        return {index: self.train(node, announcement) for index, node in enumerate(nodes)}

    def hand(
        self,
        nodes: Sequence[int],
        holder: int,
        announcement: Announcement,
        updates: Mapping[int, Message],
        *,
        stage: str = Stage.VOTE,
        certificate: bytes = b"",
        tamper: Mapping[int, bytes] | None = None,
    ) -> Message:
        """Hand the set of these updates to a holder, to vote for or to sum; return its reply."""
        headers = tuple(header_of(updates[i]) for i in sorted(updates))
        shared = parcels.bytes_record(
            message_1=signed_blob(announcement), handover=Handover(sid=announcement.sid, headers=headers).packed
        )
        records = {"round": shared}
        if stage != Stage.ABORT:
            boxes = {i: box_of(update, holder) for i, update in updates.items()}
            records["boxes"] = parcels.boxes_record({**boxes, **(tamper or {})})
        fields = {"certificate": certificate} if certificate else {}
        return self.fleet.deliver(nodes[holder], self.query(nodes[holder], stage, fields, **records))

    def votes(
        self, nodes: Sequence[int], announcement: Announcement, updates: Mapping[int, Message], holders: Sequence[int]
    ) -> list[Vote]:
        """Return the votes of holders for a set."""
        return [vote_of(self.hand(nodes, j, announcement, updates)) for j in holders]

    def abort(self, nodes: Sequence[int], announcement: Announcement, holders: Sequence[int]) -> list[Vote]:
        """Return the votes of holders to give a round up."""
        return [vote_of(self.hand(nodes, j, announcement, {}, stage=Stage.ABORT)) for j in holders]


def signed_blob(announcement: Announcement, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """Sign a message 1 as its run's coordinator."""
    signature = sign(key, "argosy/secagg/announcement", announcement.packed)
    return Signed(announcement=announcement.packed, signature=signature).packed


def fleet_batch(reply: Message) -> list[Prekey]:
    """Return the prekeys that a device sent."""
    batch = reply.content.config_records[SECAGG]["batch"]
    return PrekeyBatch.parse(batch, peer="a device").prekeys()


def header_of(update: Message) -> SignedHeader:
    """Return the signed header of a message 2."""
    return SignedHeader.parse(update.content.config_records[SECAGG]["header"], peer="a device")


def box_of(update: Message, holder: int) -> bytes:
    """Return a holder's box in a message 2."""
    return update.content.array_records[parcels.UPDATE][parcels.box_name(holder)].numpy().tobytes()


def vote_of(reply: Message) -> Vote:
    """Return a holder's vote."""
    return Vote.parse(reply.content.config_records[SECAGG]["vote"], peer="a device")


def certify(votes: Sequence[Vote]) -> bytes:
    """Return votes as a certificate."""
    return Certificate(votes=tuple(votes)).packed
