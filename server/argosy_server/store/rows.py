"""What the store hands out and takes: frozen values, and the states of a run and of an instruction.

All times are timezone-aware UTC by the coordinator's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

Json = dict[str, Any]


class DeviceState(StrEnum):
    """Whether a device may take part."""

    PENDING = "pending"
    """It asked, with a token that does not approve by itself; nothing was issued."""
    APPROVED = "approved"
    """An operator let it in; its certificate is issued when it asks again."""
    ENROLLED = "enrolled"
    """It has a certificate, and takes part."""
    REJECTED = "rejected"
    """An operator said no; it cannot enrol."""
    EXPIRED = "expired"
    """Nobody decided in time; with another token it may ask again."""
    REVOKED = "revoked"
    """An operator shut it out; it can neither take part nor enrol again."""


DEVICE_TRANSITIONS: dict[tuple[DeviceState, str], DeviceState] = {
    (DeviceState.PENDING, "request"): DeviceState.PENDING,
    (DeviceState.PENDING, "approve"): DeviceState.APPROVED,
    (DeviceState.PENDING, "reject"): DeviceState.REJECTED,
    (DeviceState.PENDING, "expire"): DeviceState.EXPIRED,
    (DeviceState.PENDING, "issue"): DeviceState.ENROLLED,
    (DeviceState.APPROVED, "issue"): DeviceState.ENROLLED,
    (DeviceState.APPROVED, "reject"): DeviceState.REJECTED,
    (DeviceState.ENROLLED, "issue"): DeviceState.ENROLLED,
    (DeviceState.ENROLLED, "revoke"): DeviceState.REVOKED,
    (DeviceState.REJECTED, "approve"): DeviceState.APPROVED,
    (DeviceState.EXPIRED, "request"): DeviceState.PENDING,
    (DeviceState.EXPIRED, "issue"): DeviceState.ENROLLED,
    (DeviceState.REVOKED, "approve"): DeviceState.APPROVED,
}
"""What a device's request, an operator and time do to its state. The certificates of a revoked device stay revoked."""


class RunStatus(StrEnum):
    """The life of a run."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


_RUN_OVER = frozenset({RunStatus.FINISHED, RunStatus.FAILED, RunStatus.STOPPED})

RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.PENDING: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.STOPPED}),
    RunStatus.RUNNING: _RUN_OVER,
    RunStatus.FINISHED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.STOPPED: frozenset(),
}


class InstructionState(StrEnum):
    """The life of one instruction to one device."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    """The device has it in its journal."""
    REPLIED = "replied"
    FAILED = "failed"
    """The device answered with a named error, or is lost."""
    EXPIRED = "expired"
    """Its deadline passed without an answer."""
    CANCELLED = "cancelled"


_ANSWERS = frozenset(
    {InstructionState.REPLIED, InstructionState.FAILED, InstructionState.EXPIRED, InstructionState.CANCELLED}
)

INSTRUCTION_TRANSITIONS: dict[InstructionState, frozenset[InstructionState]] = {
    InstructionState.QUEUED: _ANSWERS | {InstructionState.ACCEPTED},
    InstructionState.ACCEPTED: _ANSWERS,
    InstructionState.REPLIED: frozenset(),
    InstructionState.FAILED: frozenset(),
    InstructionState.EXPIRED: frozenset(),
    InstructionState.CANCELLED: frozenset(),
}
OPEN_STATES = frozenset(state for state, following in INSTRUCTION_TRANSITIONS.items() if following)


@dataclass(frozen=True)
class TokenRow:
    """A join token, without its secret."""

    id: str
    site: str
    uses: int
    used: int
    tags: list[str]
    created_at: datetime
    expires_at: datetime
    approve: bool = True
    """Whether it lets devices in by itself; otherwise an operator decides on each."""


@dataclass(frozen=True)
class DeviceRow:
    """An enrolled device."""

    device: str
    name: str
    """Unique; what a person calls it."""
    site: str
    tags: list[str]
    state: DeviceState
    identity_public: bytes
    """DER SubjectPublicKeyInfo."""
    certificate_pem: str
    not_after: datetime
    inventory: Json
    enrolled_at: datetime
    last_seen_at: datetime | None
    version: str
    boot: str
    machine: str
    request_ends_at: datetime | None = None
    """When the request of a pending device expires."""

    @property
    def node_id(self) -> int:
        """Flower's integer for the device."""
        return int(self.device, 16)


@dataclass(frozen=True)
class EnrolmentRow:
    """A certificate that a token bought."""

    csr_digest: str
    device: str
    token: str
    site: str
    certificate_pem: str
    not_after: datetime
    at: datetime


@dataclass(frozen=True)
class ShutOut:
    """What a broker must refuse."""

    devices: list[str]
    serials: list[int]
    """Of revoked certificates that have not ended."""


@dataclass(frozen=True)
class RunRow:
    """A run; `id` is also Flower's run id."""

    id: int
    app_name: str
    app_digest: str
    app_size: int
    server_app: str
    client_app: str
    run_config: Json
    options: Json
    status: RunStatus
    error: Json | None
    strategy: str | None
    rounds: int | None
    final_model: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen in it."""
        return not RUN_TRANSITIONS[self.status]


class RunChanges(TypedDict, total=False):
    """The fields of a run that change during its life."""

    status: RunStatus | str
    error: Json | None
    strategy: str | None
    rounds: int | None
    final_model: str | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class ProgressRow:
    """How far a run is. Rounds count from 1, phases are `train` and `evaluate`; 0 and empty: none yet."""

    run: int
    salt: str
    """Random; ids of its messages are made with it."""
    resumable: bool
    """Whether it can be gone on with from what was reached."""
    resumes: int
    """How often it was gone on with since its last checkpoint."""
    done_round: int
    done_phase: str
    record_digest: str | None
    record_size: int
    arrays_digest: str | None
    arrays_size: int
    begun_round: int
    begun_phase: str
    nodes: list[str]
    """Who was online when the last phase began, by device id."""
    outcome: Json | None
    """How it ended, while that is not told yet: what its last event is to say."""

    @property
    def interrupted(self) -> bool:
        """Whether the phase that was begun last is not done."""
        return (self.begun_round, self.begun_phase != "train") > (self.done_round, self.done_phase != "train")


@dataclass(frozen=True)
class EventRow:
    """Something that happened in a run; `seq` counts from 1 in each run, without gaps."""

    run: int
    seq: int
    at: datetime
    name: str
    data: Json


@dataclass(frozen=True)
class InstructionAnswer:
    """What came of an instruction: a reply's bytes, or an error, and the state that it ends in."""

    id: str
    state: InstructionState
    reply: bytes | None
    error: Json | None


@dataclass(frozen=True)
class NewInstruction:
    """An instruction to be stored before it is published."""

    id: str
    run: int
    round: int
    device: str
    message_type: str
    envelope: bytes
    deadline_s: float
    """Seconds from now."""


@dataclass(frozen=True)
class InstructionRow:
    """An instruction and, once there is one, its answer."""

    id: str
    run: int
    round: int
    device: str
    message_type: str
    envelope: bytes
    deadline_s: float
    state: InstructionState
    reply: bytes | None
    error: Json | None
    created_at: datetime
    accepted_at: datetime | None
    answered_at: datetime | None


@dataclass(frozen=True)
class ModelRow:
    """A version of a model. All that it says of itself is in its manifest, in the bytes that were signed."""

    name: str
    version: int
    manifest: bytes
    """In canonical form; see `argosy_common.artefact.manifest`."""
    signature: Json
    """A `Signature` of the manifest."""
    onnx_digest: str
    golden_digest: str
    created_at: datetime
    promoted_at: datetime | None
    """Set on at most one version of a name: the one that new boards get."""
    run: int | None
    round: int | None

    @property
    def reference(self) -> str:
        """Return `name:version`, for people."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class RolloutRow:
    """A rollout without its devices; what the fields mean is said in `argosy_server.models.rollout`."""

    id: int
    name: str
    version: int
    previous: int | None
    rings: list[Json]
    ring: int
    state: str
    since: datetime
    created_at: datetime
    ended_at: datetime | None
    why: str
    label: str = ""
    """The version of the devices' packages that is rolled out; empty where it is a model's."""

    @property
    def reference(self) -> str:
        """What is rolled out, as a person writes it."""
        return f"{self.name}={self.label}" if self.label else f"{self.name}:{self.version}"


@dataclass(frozen=True)
class RolloutDeviceRow:
    """A device's part in a rollout, by its last report."""

    rollout: int
    device: str
    state: str
    error: Json | None
    updated_at: datetime
    report: Json
    """What else the report said."""


@dataclass(frozen=True)
class AuditRow:
    """Who did what to whom."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Json
