"""An instruction on its way: what a run hands over, what is kept while its device owes the answer, and the answer."""

from __future__ import annotations

from dataclasses import dataclass

from argosy_common.blobs import BlobRef
from argosy_common.errors import ArgosyError
from argosy_common.wire.bodies import BlobPart, Instruction, Reply
from argosy_common.wire.envelope import Envelope
from argosy_server.store import InstructionState


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
