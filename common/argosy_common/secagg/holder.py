"""The holder's stage: from a set S to a vote, and from a certificate to a sum of shares (section 6, 3 to 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from argosy_common.errors import SecureBoxTampered, SecureMessageMalformed, SecureSetRefused, SecureSignatureInvalid
from argosy_common.field import Field
from argosy_common.prg import Elements
from argosy_common.secagg.admission import Admission
from argosy_common.secagg.certificate import ABORT, Certified, certified, merkle_root
from argosy_common.secagg.client import digest_of, vector_length
from argosy_common.secagg.messages import COORDINATOR, Answer, Certificate, Handover, Header, Slot, Vote
from argosy_common.secagg.sealing import BOX_OVERHEAD, BoxAddress, SigningKey, unseal
from argosy_common.secagg.shares import open_share


@dataclass(frozen=True)
class HandedSet:
    """A set S whose headers hold.

    Attributes:
        headers: by client, in the order of clients.
    """

    headers: Mapping[int, Header]

    @property
    def members(self) -> tuple[int, ...]:
        """S."""
        return tuple(self.headers)

    @cached_property
    def root(self) -> bytes:
        """Merkle root over (i, H(message 2 of i))."""
        return merkle_root({i: header.digest for i, header in self.headers.items()})


def read_set(admission: Admission, handover: Handover) -> HandedSet:
    """Check the headers of S.

    Raises:
        SecureSetRefused: of another round, a client twice, or updates with other metrics than the rest.
        SecureSignatureInvalid: a header that its client did not sign.
        SecureMessageMalformed: a header that is none, or does not fit the group.
    """
    if handover.sid != admission.sid:
        raise SecureSetRefused(why="it is one of another round")
    headers: dict[int, Header] = {}
    for each in handover.headers:
        header = Header.parse(each.header, peer=COORDINATOR)
        if header.client in headers:
            raise SecureSetRefused(why=f"it has the client {header.client} twice")
        check_header(admission, header)
        if not each.holds(admission.identities[header.client], admission.sid):
            name = admission.fingerprints[header.client].hex()[:16]
            raise SecureSignatureInvalid(peer=f"the device {name}", what="its masked update")
        headers[header.client] = header
    if len({form_of(header) for header in headers.values()}) > 1:  # one alone would be in no sum but its own
        raise SecureSetRefused(why="its members' updates have other names or numbers of metrics")
    return HandedSet({i: headers[i] for i in sorted(headers)})


def form_of(header: Header) -> tuple[str, str, tuple[Slot, ...]]:
    """Return the names of an update: of its records, and of its metrics with their lengths."""
    return header.arrays, header.metrics, header.slots


def check_header(admission: Admission, header: Header) -> None:
    """Check that a header is one of this round and group, before its signature is looked at.

    Raises:
        SecureMessageMalformed: it is not.
    """
    parameters = admission.parameters
    values = sum(1 if length < 0 else length for _, length in header.slots)
    ours = header.sid == admission.sid and header.client < parameters.n and len(header.boxes) == parameters.A
    if not ours or values > admission.announcement.slots:
        raise SecureMessageMalformed(peer=f"client {header.client}", why="its header is not of this round and group")


def open_boxes(
    admission: Admission, prekey: X25519PrivateKey, handed: HandedSet, boxes: Mapping[int, bytes]
) -> tuple[dict[int, Elements], tuple[int, ...]]:
    """Open this holder's boxes, one a member of S.

    Returns:
        The shares by client, and the clients whose box is malformed, though it is the one that they signed.

    Raises:
        SecureMessageMalformed: a box is missing or too long.
        SecureBoxTampered: a box is not the one that its client signed.
    """
    announcement, own = admission.announcement, admission.index
    size = vector_length(announcement)
    most = 64 + BOX_OVERHEAD + 2 * admission.parameters.L(size)
    # digests first: a box that was changed on the way is nobody's fault but the coordinator's
    for i, header in handed.headers.items():
        box = boxes.get(i)
        if box is None or len(box) > most:
            raise SecureMessageMalformed(peer=COORDINATOR, why=f"the box of client {i} is missing or too long")
        if hashlib.sha256(box).digest() != header.boxes[own]:
            names = [admission.fingerprints[each].hex()[:16] for each in (i, own)]
            raise SecureBoxTampered(client=names[0], holder=names[1])
    shares: dict[int, Elements] = {}
    for i, header in handed.headers.items():
        address = BoxAddress(admission.sid, admission.fingerprints[i], admission.fingerprints[own])
        try:
            share = unseal(announcement.prg, prekey, header.ephemeral, address, boxes[i])
            shares[i] = open_share(
                admission.parameters,
                announcement.prg,
                share,
                sid=admission.sid,
                client=i,
                holder=own,
                size=size,
            )
        except ValueError:
            continue
    return shares, tuple(i for i in handed.headers if i not in shares)


def cast_vote(
    admission: Admission, key: SigningKey, handed: HandedSet | None, complaints: tuple[int, ...] = ()
) -> Vote:
    """Return this holder's vote for a set, or for ABORT where there is none. It is written down before it is sent."""
    vote = Vote(
        sid=admission.sid,
        holder=admission.index,
        root=ABORT if handed is None else handed.root,
        members=() if handed is None else handed.members,
        complaints=complaints,
    )
    return vote.signed_by(key)


def read_certificate(admission: Admission, certificate: Certificate, handed: HandedSet) -> Certified:
    """Check a certificate for a set that was handed over.

    Raises:
        SecureSetRefused: it certifies nothing, or another set.
    """
    try:
        found = certified(admission.parameters, admission.sid, certificate, admission.identities)
    except ValueError as error:
        raise SecureSetRefused(why=f"its certificate does not hold: {error}") from None
    if not found.aborted and found.root != handed.root:
        raise SecureSetRefused(why="its certificate is for another set")
    return found


def add_shares(
    admission: Admission, key: SigningKey, shares: Mapping[int, Elements], members: tuple[int, ...]
) -> tuple[Answer, Elements]:
    """Return message 6: the sum of the shares of the certified set, and its signed header.

    Raises:
        SecureSetRefused: this holder's share of one of them is malformed; it falls silent.
    """
    lacking = [i for i in members if i not in shares]
    if lacking:
        raise SecureSetRefused(why=f"its shares of the clients {', '.join(map(str, lacking))} are malformed")
    total = Field(admission.parameters.p).total(shares[i] for i in members)
    answer = Answer(sid=admission.sid, holder=admission.index, members=members, total=digest_of(total))
    return answer.signed_by(key), total
