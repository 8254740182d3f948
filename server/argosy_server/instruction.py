"""An instruction on its way: what a run hands over, what is kept while its device owes the answer, and the answer."""

from __future__ import annotations

from dataclasses import dataclass

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.errors import ArgosyError, BlobUnknown, error_from_wire
from argosy_common.wire.bodies import BlobPart, Instruction, Reply
from argosy_common.wire.envelope import Envelope, decode
from argosy_server.store import InstructionRow, InstructionState


@dataclass(frozen=True)
class Outgoing:
    """One message of a run process, on its way to a device."""

    id: str
    device: str
    node_id: int
    round: int | None
    message_type: str
    flower: bytes
    blobs: tuple[BlobRef, ...]
    deadline_s: float


@dataclass(frozen=True)
class RunApp:
    """What every instruction of a run carries besides its message."""

    run: int
    bundle: BlobRef
    client_app: str
    run_config: dict[str, bool | int | float | str]


@dataclass(frozen=True)
class Answer:
    """What came of an instruction: the reply, or the named error that stands for it."""

    id: str
    device: str
    reply: Reply | None
    error: ArgosyError | None
    bytes_up: int = 0
    """Bytes of the reply and its blobs, repetitions included."""
    upload_s: float = 0.0
    """From the reply's arrival until its blobs were all here."""
    late: bool = False
    """It came when the instruction had been answered for: to be written down, and to count for nothing."""


@dataclass
class Pending:
    """An instruction that is not answered yet."""

    out: Outgoing
    run: int
    envelope: bytes
    digests: tuple[bytes, ...]
    """The blobs it refers to, the app's bundle among them: what its device may fetch."""
    submitted_at: float
    expires_at: float
    accepted: bool = False
    sent_at: float | None = None
    collecting: bool = False
    """Its reply is here and its blobs are being fetched."""
    reply_digests: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Answered:
    """An answer on its way into the database."""

    entry: Pending
    reply: Reply | None
    error: ArgosyError | None
    state: InstructionState
    bytes_up: int = 0
    upload_s: float = 0.0
    fetched: tuple[bytes, ...] = ()
    """Blobs of the reply that were not here before."""


def instruction_envelope(app: RunApp, out: Outgoing) -> Envelope:
    """Return the envelope of an instruction, as it is recorded and sent, also the second time."""
    body = Instruction(
        flower=out.flower,
        blobs=[BlobPart(digest=ref.digest, size=ref.size) for ref in out.blobs],
        app=BlobPart(digest=app.bundle.digest, size=app.bundle.size),
        client_app=app.client_app,
        run_config=app.run_config,
        node_id=out.node_id,
    )
    return Envelope(
        kind=body.kind,
        body=body.pack(),
        id=out.id,
        run=app.run,
        round=out.round,
        expires_in=out.deadline_s,
        blobs=(*(ref.digest for ref in out.blobs), app.bundle.digest),
    )


PEER = "the coordinator's database"
RETURN_S = 15.0
"""How long devices may need, beyond their grace, to find a coordinator that was away: their reconnects back off."""


def restored(row: InstructionRow, now: float) -> Pending:
    """Return what the database has of an instruction that is not answered; its time begins anew."""
    envelope = decode(row.envelope, peer=PEER)
    out = Outgoing(
        id=row.id,
        device=row.device,
        node_id=int(row.device, 16),
        round=row.round or None,
        message_type=row.message_type,
        flower=b"",
        blobs=(),
        deadline_s=row.deadline_s,
    )
    return Pending(
        out=out,
        run=row.run,
        envelope=row.envelope,
        digests=tuple(envelope.blobs),
        submitted_at=now + RETURN_S,
        expires_at=now + row.deadline_s,
        accepted=row.state is InstructionState.ACCEPTED,
    )


def answer_of(row: InstructionRow, blobs: BlobStore) -> Answer:
    """Return what the database has of an answer; one whose blobs are gone is an error."""
    reply = Reply.unpack(row.reply, peer=PEER) if row.reply else None
    error = error_from_wire(row.error) if row.error else None
    lost = next((part.digest for part in reply.blobs if not blobs.has(part.digest)), None) if reply else None
    if lost is not None:
        reply, error = None, BlobUnknown(peer="The coordinator", digest=lost.hex()[:12])
    return Answer(id=row.id, device=row.device, reply=reply, error=error)


def digests_of(row: InstructionRow) -> set[bytes]:
    """Return the blobs that an instruction and its reply refer to."""
    found = set(decode(row.envelope, peer=PEER).blobs) if row.envelope else set()
    if row.reply:
        found.update(part.digest for part in Reply.unpack(row.reply, peer=PEER).blobs)
    return found
