"""The tables, as SQLAlchemy sees them. `migrations/` holds how they came to be; a test compares the two."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from sqlalchemy import BigInteger, DateTime, Dialect, ForeignKey, Index, Integer, LargeBinary, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from argosy_server.store.rows import DeviceState, InstructionState, Json, RunStatus

RowT = TypeVar("RowT")


class CleanText(TypeDecorator[str]):
    """Text from anywhere: what a database cannot hold (NUL, lone surrogates) is replaced by U+FFFD or `?`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  (SQLAlchemy's)
        """Python to database."""
        return None if value is None else clean(str(value))


class UtcTime(TypeDecorator[datetime]):
    """A point in time, kept as UTC without a zone, since SQLite has none."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Python to database."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Database to Python."""
        return None if value is None else value.replace(tzinfo=UTC)


class Document(TypeDecorator[Any]):
    """JSON in a text column. NaN and infinities, which JSON lacks, become null; other objects become their text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Python to database."""
        return None if value is None else json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ANN401, ARG002  (it is JSON)
        """Database to Python."""
        return None if value is None else json.loads(value)


def clean(text: str) -> str:
    """Replace what no database holds."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _plain(value: object, depth: int = 0) -> object:
    if depth > 50:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return clean(str(value))


class Base(DeclarativeBase):
    """All tables."""

    def to_row(self, row: type[RowT]) -> RowT:
        """Return the frozen row with this object's values; it outlives the transaction."""
        return row(**{field.name: getattr(self, field.name) for field in fields(cast("Any", row))})


class Token(Base):
    """See `rows.TokenRow`."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(CleanText, primary_key=True)
    secret_hash: Mapped[str] = mapped_column(CleanText)
    site: Mapped[str] = mapped_column(CleanText)
    uses: Mapped[int]
    used: Mapped[int]
    tags: Mapped[list[str]] = mapped_column(Document)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
    approve: Mapped[bool]


class Device(Base):
    """See `rows.DeviceRow`."""

    __tablename__ = "devices"
    device: Mapped[str] = mapped_column(CleanText, primary_key=True)
    name: Mapped[str] = mapped_column(CleanText, unique=True)
    site: Mapped[str] = mapped_column(CleanText)
    tags: Mapped[list[str]] = mapped_column(Document)
    state_text: Mapped[str] = mapped_column("state", CleanText)
    identity_public: Mapped[bytes] = mapped_column(LargeBinary)
    certificate_pem: Mapped[str] = mapped_column(CleanText)
    not_after: Mapped[datetime] = mapped_column(UtcTime)
    inventory: Mapped[Json] = mapped_column(Document)
    enrolled_at: Mapped[datetime] = mapped_column(UtcTime)
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcTime)
    version: Mapped[str] = mapped_column(CleanText)
    boot: Mapped[str] = mapped_column(CleanText)
    machine: Mapped[str] = mapped_column(CleanText)
    renamed: Mapped[bool]
    """An operator chose its name: what the device calls itself counts no more."""
    request_digest: Mapped[str | None] = mapped_column(CleanText)
    request_token: Mapped[str | None] = mapped_column(CleanText)
    request_ends_at: Mapped[datetime | None] = mapped_column(UtcTime)

    @property
    def state(self) -> DeviceState:
        """The state by name."""
        return DeviceState(self.state_text)


class Certificate(Base):
    """A certificate of a device, whatever it was issued for, so that none is forgotten when it is revoked."""

    __tablename__ = "certificates"
    __table_args__ = (Index("certificates_device", "device"),)
    serial: Mapped[str] = mapped_column(CleanText, primary_key=True)
    """Hexadecimal."""
    device: Mapped[str] = mapped_column(CleanText, ForeignKey("devices.device"))
    not_after: Mapped[datetime] = mapped_column(UtcTime)
    issued_at: Mapped[datetime] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
    csr_digest: Mapped[str | None] = mapped_column(CleanText)
    """Of the request that renewed it; NULL for one that came with an enrolment."""


class Enrolment(Base):
    """See `rows.EnrolmentRow`."""

    __tablename__ = "enrolments"
    csr_digest: Mapped[str] = mapped_column(CleanText, primary_key=True)
    device: Mapped[str] = mapped_column(CleanText, ForeignKey("devices.device"))
    token: Mapped[str] = mapped_column(CleanText, ForeignKey("tokens.id"))
    site: Mapped[str] = mapped_column(CleanText)
    certificate_pem: Mapped[str] = mapped_column(CleanText)
    not_after: Mapped[datetime] = mapped_column(UtcTime)
    at: Mapped[datetime] = mapped_column(UtcTime)


class Run(Base):
    """See `rows.RunRow`. Numbers are never used twice: they name a run for ever, also on the devices."""

    __tablename__ = "runs"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  (SQLAlchemy's own way)
    id: Mapped[int] = mapped_column(primary_key=True)
    app_name: Mapped[str] = mapped_column(CleanText)
    app_digest: Mapped[str] = mapped_column(CleanText)
    app_size: Mapped[int]
    server_app: Mapped[str] = mapped_column(CleanText)
    client_app: Mapped[str] = mapped_column(CleanText)
    run_config: Mapped[Json] = mapped_column(Document)
    options: Mapped[Json] = mapped_column(Document)
    status_text: Mapped[str] = mapped_column("status", CleanText)
    error: Mapped[Json | None] = mapped_column(Document)
    strategy: Mapped[str | None] = mapped_column(CleanText)
    rounds: Mapped[int | None]
    final_model: Mapped[str | None] = mapped_column(CleanText)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)

    @property
    def status(self) -> RunStatus:
        """The status by name."""
        return RunStatus(self.status_text)


class Progress(Base):
    """See `rows.ProgressRow`."""

    __tablename__ = "run_progress"
    run: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    salt: Mapped[str] = mapped_column(CleanText)
    resumable: Mapped[bool]
    resumes: Mapped[int]
    done_round: Mapped[int]
    done_phase: Mapped[str] = mapped_column(CleanText)
    record_digest: Mapped[str | None] = mapped_column(CleanText)
    record_size: Mapped[int]
    arrays_digest: Mapped[str | None] = mapped_column(CleanText)
    arrays_size: Mapped[int] = mapped_column(BigInteger)
    begun_round: Mapped[int]
    begun_phase: Mapped[str] = mapped_column(CleanText)
    nodes: Mapped[list[str]] = mapped_column(Document)
    outcome: Mapped[Json | None] = mapped_column(Document)


class Event(Base):
    """See `rows.EventRow`."""

    __tablename__ = "events"
    run: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcTime)
    name: Mapped[str] = mapped_column(CleanText)
    data: Mapped[Json] = mapped_column(Document)


class Instruction(Base):
    """See `rows.InstructionRow`."""

    __tablename__ = "instructions"
    __table_args__ = (Index("instructions_device_state", "device", "state"), Index("instructions_run", "run", "round"))
    id: Mapped[str] = mapped_column(CleanText, primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    round: Mapped[int]
    device: Mapped[str] = mapped_column(CleanText)
    message_type: Mapped[str] = mapped_column(CleanText)
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    deadline_s: Mapped[float]
    state_text: Mapped[str] = mapped_column("state", CleanText)
    reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    error: Mapped[Json | None] = mapped_column(Document)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    accepted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    answered_at: Mapped[datetime | None] = mapped_column(UtcTime)

    @property
    def state(self) -> InstructionState:
        """The state by name."""
        return InstructionState(self.state_text)


class Model(Base):
    """See `rows.ModelRow`."""

    __tablename__ = "models"
    __table_args__ = (Index("models_run", "run"),)
    name: Mapped[str] = mapped_column(CleanText, primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[Json] = mapped_column(Document)
    onnx_digest: Mapped[str] = mapped_column(CleanText)
    golden_digest: Mapped[str] = mapped_column(CleanText)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    promoted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    run: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    round: Mapped[int | None]


class Rollout(Base):
    """See `rows.RolloutRow`. Numbers are never used twice."""

    __tablename__ = "rollouts"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  (SQLAlchemy's own way)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(CleanText)
    version: Mapped[int]
    previous: Mapped[int | None]
    """What the boards go back to; NULL where they had none."""
    label: Mapped[str] = mapped_column(CleanText, default="", server_default="")
    rings: Mapped[list[Json]] = mapped_column(Document)
    ring: Mapped[int]
    state_text: Mapped[str] = mapped_column("state", CleanText)
    since: Mapped[datetime] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    why: Mapped[str] = mapped_column(CleanText)

    @property
    def state(self) -> str:
        """The state by name."""
        return self.state_text


class RolloutDevice(Base):
    """See `rows.RolloutDeviceRow`."""

    __tablename__ = "rollout_devices"
    rollout: Mapped[int] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    device: Mapped[str] = mapped_column(CleanText, primary_key=True)
    state_text: Mapped[str] = mapped_column("state", CleanText)
    error: Mapped[Json | None] = mapped_column(Document)
    updated_at: Mapped[datetime] = mapped_column(UtcTime)
    report: Mapped[Json] = mapped_column(Document)

    @property
    def state(self) -> str:
        """The state by name."""
        return self.state_text


class Audit(Base):
    """See `rows.AuditRow`."""

    __tablename__ = "audit"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  (SQLAlchemy's own way)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcTime)
    actor: Mapped[str] = mapped_column(CleanText)
    action: Mapped[str] = mapped_column(CleanText)
    subject: Mapped[str] = mapped_column(CleanText)
    detail: Mapped[Json] = mapped_column(Document)
